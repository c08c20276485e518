"""Where a model version runs, written on the version itself, so that MLflow's UI shows it.

    fargate.ENDPOINT.NAME.status    deploying · serving · failed: REASON · replaced by VERSION · deleted
    fargate.ENDPOINT.NAME.url · .image · .updated

For people only: nothing here is ever read back. AWS is what says what runs, and a registry that takes no tag does not
break a deployment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.errors import FargateError, RolloutTimeout
from mlflow_fargate.progress import Progress
from mlflow_fargate.resolved_model import Provenance, without_credentials

WriteTags = Callable[[str, str, Mapping[str, str]], None]
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class VersionTags:
    """Tags of the versions that one deployment serves, served, or was to serve. `write` takes name, version, tags."""

    endpoint: str
    name: str
    write: WriteTags
    progress: Progress

    @contextlib.contextmanager
    def telling_failure(self, provenance: Provenance) -> Iterator[None]:
        """An error on the way leaves `failed` and its reason on the version; one that only came too late does not."""
        try:
            yield
        except RolloutTimeout:
            self.tell(provenance, "deploying")
            raise
        except FargateError as error:
            reason = without_credentials(" ".join(error.message.split()))[:_REASON_CHARACTERS]
            self.tell(provenance, f"failed: {reason}")
            raise

    def tell_deployed(self, now: DeploymentStatus, before: DeploymentStatus | None) -> None:
        """What `now` serves, and that what `before` served was replaced, once the rollout is done."""
        is_done = now.state == "COMPLETED"
        self.tell(now.provenance, "serving" if is_done else "deploying", url=now.url, image=now.image)
        old, new = before.provenance if before else now.provenance, now.provenance
        if is_done and (old.name, old.version) != (new.name, new.version):
            self.tell(old, f"replaced by {new.version or new.resolved_uri}")

    def tell(self, provenance: Provenance, status: str, **facts: str) -> None:
        """Writes one status on a registered version; a refusal is noted, and that is all."""
        if provenance.name is None or provenance.version is None:
            return
        updated = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {"status": status, **facts, "updated": updated}
        tags = {f"fargate.{self.endpoint}.{self.name}.{key}": value for key, value in told.items()}
        try:
            self.write(provenance.name, provenance.version, tags)
        except FargateError as error:
            self.progress.note(f"the model version was not tagged: {error.message}")
