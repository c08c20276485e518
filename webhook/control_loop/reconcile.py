"""Decides what to do about one deployment, from the state of the registry and of AWS. Pure.

    follow ──► version that holds it ──► same as deployed? ──► nothing
                     │ none: hold              │ no
                     ▼                         ▼
                   alert      rollout in progress, or this version failed? ──► hold ──► else update

Nothing is scaled down or deleted unless a rule requires it, and never because a model is not visible: a permission
could be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlflow_fargate.webhook.control_loop.model_registry import ModelState
from mlflow_fargate.webhook.control_loop.rules import OnDemotion

ABSENT = "ABSENT"  # the state of a deployment that a rule requires and that does not exist

FIRST_RETRY_SECONDS = 60.0
_LAST_RETRY_SECONDS = 3600.0
# People archive the old version and then promote the new one: in between, the stage is empty.
DEMOTION_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Deployed:
    """A deployment as returned by `list_deployments`."""

    name: str
    follow: str  # a stage, '@alias', 'latest' or 'pinned'
    model_name: str | None
    model_version: str | None
    state: str
    flavor: str | None = None
    last_failed_version: str | None = None
    last_failed_registered_ms: int | None = None
    endpoint: str | None = None  # None: the target's own
    desired_count: int | None = None
    url: str | None = None
    updated_at: str | None = None  # ISO 8601
    run_id: str | None = None
    registered_ms: int | None = None  # when its version was registered, in milliseconds since 1970
    state_reason: str | None = None  # in ECS's words

    @staticmethod
    def parse(listed: Mapping[str, Any], endpoint: str | None = None) -> Deployed:
        """Parses one item of an endpoint's list."""
        texts = {key: str(value) for key, value in listed.items() if value not in (None, "")}
        return Deployed(
            name=texts["name"],
            follow=texts.get("follow", "pinned"),
            model_name=texts.get("model_name"),
            model_version=texts.get("model_version"),
            state=texts.get("state", ""),
            flavor=texts.get("flavor"),
            last_failed_version=texts.get("last_failed_version"),
            last_failed_registered_ms=_milliseconds(texts.get("last_failed_registered_ms")),
            endpoint=endpoint,
            desired_count=int(texts["desired_count"]) if "desired_count" in texts else None,
            url=texts.get("url"),
            updated_at=texts.get("updated_at"),
            run_id=texts.get("run_id"),
            registered_ms=_milliseconds(texts.get("model_registered_ms")),
            state_reason=texts.get("state_reason"),
        )

    @property
    def key(self) -> str:
        """The unique name of the deployment, also shown to people."""
        return f"{self.endpoint}/{self.name}" if self.endpoint else self.name

    @property
    def is_watched(self) -> bool:
        """True if the deployment follows the registry."""
        return self.model_name is not None and self.follow != "pinned"


@dataclass(frozen=True)
class Memory:
    """What this process remembers about a deployment, beyond what is stored in AWS."""

    failed_version: str | None = None  # the last update to it failed
    failed_registered_ms: int | None = None
    failures: int = 0  # consecutive failures
    retry_at: float = 0.0  # seconds since 1970; infinite: not before the registry changes
    reason: str = ""
    # It failed, but the registry moved to another version and back, or a retry was requested.
    forgiven_version: str | None = None
    empty_since: float | None = None  # since when no version holds what is followed


@dataclass(frozen=True)
class Action:
    """What to do, and why; `warning` needs a person's attention."""

    kind: Literal["create", "update", "scale_to_zero", "delete", "hold", "blocked", "nothing"]
    reason: str
    version: str | None = None  # the one that holds what is followed
    warning: str | None = None
    registered_ms: int | None = None  # when that version was registered

    @property
    def title(self) -> str:
        """What a change does, such as 'update to version 4'."""
        if self.version is None:
            return self.kind
        return f"{self.kind} {'to' if self.kind == 'update' else 'with'} version {self.version}"


def _milliseconds(text: str | None) -> int | None:
    return int(text) if text else None


def decide(
    state: ModelState | None, deployed: Deployed, memory: Memory, now: float, on_demotion: OnDemotion = "keep"
) -> Action:
    """Returns what to do about a deployment. `state` is None if its model is not visible in the registry."""
    if not deployed.is_watched:
        return Action("nothing", "pinned to a fixed version")
    if state is None:
        warning = f"model '{deployed.model_name}' is not visible in the registry: deleted, or no permission to read it"
        return Action("hold", "the model is not visible", warning=warning)
    held = held_versions(state, deployed.follow)
    if not held:
        return _decide_demoted(deployed, memory, now, on_demotion)
    deployed, memory = _without_reused_numbers(state, deployed, memory)
    wanted = state.registrations.get(held[-1])
    action = _compare(held[-1], deployed, memory, now, on_demotion)
    action = replace(action, registered_ms=wanted.registered_ms if wanted else None)
    if len(held) > 1 and action.warning is None:
        shared = f"versions {', '.join(held)} are all in {deployed.follow}; the highest version is used"
        return replace(action, warning=shared)
    return action


def _without_reused_numbers(state: ModelState, deployed: Deployed, memory: Memory) -> tuple[Deployed, Memory]:
    """Returns both without versions that were deleted and whose numbers others got: they say nothing about those."""
    if _is_reused(state, deployed.model_version, deployed.registered_ms, deployed.run_id):
        deployed = replace(deployed, model_version=None)
    if _is_reused(state, deployed.last_failed_version, deployed.last_failed_registered_ms):
        deployed = replace(deployed, last_failed_version=None)
    if _is_reused(state, memory.failed_version, memory.failed_registered_ms):
        memory = replace(memory, failed_version=None)
    return deployed, memory


def _is_reused(state: ModelState, version: str | None, registered_ms: int | None, run_id: str | None = None) -> bool:
    now = state.registrations.get(version or "")
    if registered_ms is None:  # deployed by an earlier release
        return bool(now and now.run_id and run_id and now.run_id != run_id)
    if now is None or now.registered_ms is None:  # not read; a model is created before its versions
        return state.created_ms is not None and state.created_ms > registered_ms
    return now.registered_ms != registered_ms


def _decide_demoted(deployed: Deployed, memory: Memory, now: float, on_demotion: OnDemotion) -> Action:
    empty = f"no version {_position(deployed.follow)}"
    if on_demotion == "keep" or deployed.state == ABSENT:
        return Action("hold", empty, warning=empty)
    if on_demotion == "scale_to_zero" and deployed.desired_count == 0:
        return Action("nothing", f"{empty}; the deployment is scaled to zero")
    if memory.empty_since is None or now - memory.empty_since < DEMOTION_GRACE_SECONDS:
        then = "scaled to zero" if on_demotion == "scale_to_zero" else "deleted"
        return Action("hold", f"{empty}; this deployment will be {then} shortly", warning=empty)
    if memory.failed_version == "" and now < memory.retry_at:
        return Action("hold", f"{on_demotion} failed", warning=memory.reason)
    return Action(on_demotion, empty, warning=empty)


def _position(follow: str) -> str:
    if follow.startswith("@"):
        return f"has the alias {follow}"
    return "is the latest" if follow.lower() == "latest" else f"is in {follow}"


def _compare(wanted: str, deployed: Deployed, memory: Memory, now: float, on_demotion: OnDemotion) -> Action:
    is_forgiven = wanted == memory.forgiven_version
    if wanted == deployed.model_version and not (deployed.state == "FAILED" and is_forgiven):
        if on_demotion == "scale_to_zero" and deployed.desired_count == 0:
            back = Action("update", f"version {wanted} {_position(deployed.follow)} again", wanted)
            return _unless_failed(back, memory, now)
        warning = "the last rollout failed" if deployed.state == "FAILED" else None
        return Action("nothing", f"version {wanted} is deployed", wanted, warning)
    if deployed.state == "IN_PROGRESS":
        return Action("hold", "a rollout is in progress", wanted)
    if wanted == deployed.last_failed_version and not is_forgiven:
        reason = f"version {wanted} failed to roll out; not retried until the registry changes"
        return Action("blocked", reason, wanted, warning=reason)
    kind: Literal["create", "update"] = "create" if deployed.state == ABSENT else "update"
    return _unless_failed(Action(kind, f"version {wanted} {_position(deployed.follow)}", wanted), memory, now)


def _unless_failed(action: Action, memory: Memory, now: float) -> Action:
    if action.version != memory.failed_version or now >= memory.retry_at:
        return action
    kind: Literal["blocked", "hold"] = "blocked" if memory.retry_at == math.inf else "hold"
    return Action(kind, f"version {action.version} could not be deployed", action.version, warning=memory.reason)


def held_versions(state: ModelState, follow: str) -> tuple[str, ...]:
    """Returns the versions that hold a stage (in any case), an '@alias' or 'latest'; ascending."""
    if follow.startswith("@"):
        version = state.aliases.get(follow[1:])
        return (version,) if version else ()
    if follow.lower() == "latest":
        return tuple(sorted((held[-1] for held in state.stages.values()), key=int)[-1:])
    return next((held for stage, held in state.stages.items() if stage.lower() == follow.lower()), ())


def remember_failure(
    memory: Memory,
    version: str,
    reason: str,
    *,
    is_final: bool,
    now: float,
    registered_ms: int | None = None,
    first_retry_seconds: float = FIRST_RETRY_SECONDS,
) -> Memory:
    """Returns the memory after a failed change to `version` ('': none): retried with backoff, if final never."""
    is_again = (memory.failed_version, memory.failed_registered_ms) == (version, registered_ms)
    failures = memory.failures + 1 if is_again else 1
    # The exponent is bounded, so the power does not overflow.
    wait = min(first_retry_seconds * 2 ** min(failures - 1, 20), _LAST_RETRY_SECONDS)
    return Memory(
        failed_version=version,
        failed_registered_ms=registered_ms,
        failures=failures,
        retry_at=math.inf if is_final else now + wait,
        reason=reason,
        empty_since=memory.empty_since,
    )


def remember_look(memory: Memory, deployed: Deployed, wanted: str | None) -> Memory:
    """Returns the memory after a poll: a failure is forgiven once the registry has moved to another version."""
    if wanted is None or wanted in {memory.failed_version, deployed.last_failed_version}:
        return memory
    return Memory(forgiven_version=deployed.last_failed_version)


def remember_holder(memory: Memory, is_held: bool, now: float) -> Memory:
    """Returns the memory with the time since when no version holds the followed stage or alias."""
    return replace(memory, empty_since=None if is_held else memory.empty_since or now)


def remember_retry(deployed: Deployed, wanted: str | None) -> Memory:
    """Returns the memory after a requested retry: the failed version is allowed once more."""
    return Memory(forgiven_version=wanted or deployed.last_failed_version)
