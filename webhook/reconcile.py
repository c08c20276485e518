"""What should be done about one deployment: pure, from what the registry says and what AWS shows.

    follow ──► version that holds it ──► same as deployed? ──► nothing
                     │ none: hold              │ no
                     ▼                         ▼
                   alert      rollout under way, or this version failed before? ──► hold ──► else update

Nothing is ever scaled down or deleted: a model that is not seen may be hidden by a right that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .model_registry import ModelState

_FIRST_RETRY_SECONDS = 60.0
_LAST_RETRY_SECONDS = 3600.0


@dataclass(frozen=True)
class Deployed:
    """A deployment as `list_deployments` shows it."""

    name: str
    follow: str  # a stage, '@alias', 'latest' or 'pinned'
    model_name: str | None
    model_version: str | None
    state: str
    flavor: str | None = None
    last_failed_version: str | None = None

    @staticmethod
    def parse(listed: Mapping[str, Any]) -> Deployed:
        """One item of the list."""

        def text(key: str) -> str | None:
            value = listed.get(key)
            return None if value in {None, ""} else str(value)

        return Deployed(
            name=str(listed["name"]),
            follow=text("follow") or "pinned",
            model_name=text("model_name"),
            model_version=text("model_version"),
            state=text("state") or "",
            flavor=text("flavor"),
            last_failed_version=text("last_failed_version"),
        )

    @property
    def is_watched(self) -> bool:
        """True when the registry may move it."""
        return self.model_name is not None and self.follow != "pinned"


@dataclass(frozen=True)
class Memory:
    """What this process remembers of a deployment, and AWS does not."""

    failed_version: str | None = None  # our last update to it raised
    failures: int = 0  # how often in a row
    retry_at: float = 0.0  # seconds since 1970; infinite: not before the registry changes
    reason: str = ""
    forgiven_version: str | None = None  # it failed, but the registry went elsewhere and came back


@dataclass(frozen=True)
class Action:
    """What to do, and why; `warning` is for people to look into."""

    kind: Literal["update", "hold", "nothing"]
    reason: str
    version: str | None = None  # the one that holds what is followed
    warning: str | None = None


def decide(state: ModelState | None, deployed: Deployed, memory: Memory, now: float) -> Action:
    """What to do about a deployment. `state` None: the registry does not show its model."""
    if not deployed.is_watched:
        return Action("nothing", "pinned: it follows nothing")
    if state is None:
        warning = f"the model registry does not show '{deployed.model_name}': deleted, or hidden from us"
        return Action("hold", "the model is not seen", warning=warning)
    held = held_versions(state, deployed.follow)
    if not held:
        return Action("hold", f"no version holds {deployed.follow}", warning=f"no version holds {deployed.follow}")
    action = _compare(held[-1], deployed, memory, now)
    if len(held) > 1 and action.warning is None:
        shared = f"versions {', '.join(held)} are all in {deployed.follow}; the highest counts"
        return replace(action, warning=shared)
    return action


def _compare(wanted: str, deployed: Deployed, memory: Memory, now: float) -> Action:
    if wanted == deployed.model_version:
        warning = "its last rollout failed" if deployed.state == "FAILED" else None
        return Action("nothing", f"version {wanted} is deployed", wanted, warning)
    if deployed.state == "IN_PROGRESS":
        return Action("hold", "a rollout is under way", wanted)
    if wanted == deployed.last_failed_version and wanted != memory.forgiven_version:
        reason = f"version {wanted} failed to roll out; it is not tried again until the registry changes"
        return Action("hold", reason, wanted, warning=reason)
    if wanted == memory.failed_version and now < memory.retry_at:
        return Action("hold", f"version {wanted} could not be deployed", wanted, warning=memory.reason)
    return Action("update", f"version {wanted} holds {deployed.follow}", wanted)


def held_versions(state: ModelState, follow: str) -> tuple[str, ...]:
    """The versions that hold a stage (in any case), an '@alias' or 'latest'; ascending."""
    if follow.startswith("@"):
        version = state.aliases.get(follow[1:])
        return (version,) if version else ()
    if follow.lower() == "latest":
        return tuple(sorted((held[-1] for held in state.stages.values()), key=int)[-1:])
    return next((held for stage, held in state.stages.items() if stage.lower() == follow.lower()), ())


def remember_failure(memory: Memory, version: str, reason: str, *, is_final: bool, now: float) -> Memory:
    """Memory after an update to `version` raised: tried again later and later, or when final, not at all."""
    failures = memory.failures + 1 if memory.failed_version == version else 1
    wait = min(_FIRST_RETRY_SECONDS * 2 ** (failures - 1), _LAST_RETRY_SECONDS)
    return Memory(version, failures, math.inf if is_final else now + wait, reason)


def remember_look(memory: Memory, deployed: Deployed, wanted: str | None) -> Memory:
    """Memory after a look: what failed is forgiven once the registry has named another version."""
    if wanted is None or wanted in {memory.failed_version, deployed.last_failed_version}:
        return memory
    return Memory(forgiven_version=deployed.last_failed_version)
