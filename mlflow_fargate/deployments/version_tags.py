"""Tags on a model version that say where it runs, so that MLflow's UI shows it.

    fargate.ENDPOINT.NAME.status    deploying · serving · failed: REASON · replaced by VERSION · deleted
    fargate.ENDPOINT.NAME.url · .image · .updated

For people only: they are never read back. AWS is the source of what runs, and a registry that refuses a tag does not
fail a deployment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.errors import DeploymentExists, DeploymentNotFound, FargateError, RolloutReplaced, RolloutTimeout
from mlflow_fargate.progress import Progress
from mlflow_fargate.resolved_model import Provenance, without_credentials
from mlflow_fargate.stop_reasons import find_cause

WriteTags = Callable[[str, str, Mapping[str, str]], None]
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class VersionTags:
    """Tags of the versions of one deployment: current, earlier and failed ones. `write` takes name, version, tags."""

    endpoint: str
    name: str
    write: WriteTags
    progress: Progress

    @contextlib.contextmanager
    def tagging_failure(self, provenance: Provenance, before: DeploymentStatus | None) -> Iterator[None]:
        """Tags the version `failed` with the reason on an error; a slow rollout stays `deploying`.

        Losing against another command says nothing about the version. One that was serving `before` still is.
        """
        try:
            yield
        except FargateError as error:
            was_serving = before and before.state == "COMPLETED" and _version(before.provenance) == _version(provenance)
            if was_serving or isinstance(error, (DeploymentExists, DeploymentNotFound, RolloutReplaced)):
                raise
            if isinstance(error, RolloutTimeout):
                self.tag(provenance, "deploying")
                raise
            said = find_cause(error.message.splitlines()) or " ".join(error.message.split())
            reason = without_credentials(said)[:_REASON_CHARACTERS]
            self.tag(provenance, f"failed: {reason}")
            raise

    def tag_deployed(self, now: DeploymentStatus, before: DeploymentStatus | None) -> None:
        """Tags the version that `now` serves and, once the rollout is done, the version that it replaced."""
        is_done = now.state == "COMPLETED"
        self.tag(now.provenance, "serving" if is_done else "deploying", url=now.url, image=now.image)
        old, new = before.provenance if before else now.provenance, now.provenance
        if is_done and (old.name, old.version) != (new.name, new.version):
            self.tag(old, f"replaced by {new.version or new.resolved_uri}")

    def tag(self, provenance: Provenance, status: str, **facts: str) -> None:
        """Writes one status on a registered version; a refusal is only noted."""
        if provenance.name is None or provenance.version is None:
            return
        updated = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values = {"status": status, **facts, "updated": updated}
        tags = {f"fargate.{self.endpoint}.{self.name}.{key}": value for key, value in values.items()}
        try:
            self.write(provenance.name, provenance.version, tags)
        except FargateError as error:
            self.progress.note(f"the model version was not tagged: {error.message}")


def _version(provenance: Provenance) -> tuple[str | None, ...]:
    return provenance.name, provenance.version, provenance.run_id
