"""Tests the decisions, as a table: the registry's state, the deployed state, the action."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mlflow_fargate.webhook.control_loop.model_registry import ModelState, Registration
from mlflow_fargate.webhook.control_loop.reconcile import (
    ABSENT,
    DEMOTION_GRACE_SECONDS,
    Action,
    Deployed,
    Memory,
    decide,
    remember_failure,
    remember_holder,
    remember_look,
    remember_retry,
)

STATE = ModelState({"None": ("5",), "Production": ("3",), "Staging": ("4",)}, {"champion": "2"})
DEPLOYED = Deployed("churn-api", "Production", "churn", "1", "COMPLETED")
NOW = 1000.0


@pytest.mark.parametrize(
    ("follow", "version", "reason"),
    [
        ("Production", "3", "version 3 is in Production"),
        ("production", "3", "version 3 is in production"),
        ("Staging", "4", "version 4 is in Staging"),
        ("@champion", "2", "version 2 has the alias @champion"),
        ("latest", "5", "version 5 is the latest"),
    ],
)
def test_the_version_that_holds_what_is_followed_is_deployed(follow: str, version: str, reason: str) -> None:
    action = decide(STATE, replace(DEPLOYED, follow=follow), Memory(), NOW)

    assert action == Action("update", reason, version)


@pytest.mark.parametrize(
    ("deployed", "registered", "kind"),
    [
        ({"registered_ms": 500, "run_id": "r"}, Registration(500, "r"), "nothing"),
        ({"registered_ms": 500, "run_id": "r"}, Registration(900, "s"), "update"),
        ({"registered_ms": 500, "run_id": "r"}, Registration(900, "r"), "update"),
        ({"registered_ms": 500, "run_id": "r"}, Registration(500, None), "nothing"),
        ({"run_id": "r"}, Registration(500, "r"), "nothing"),
        ({"run_id": "r"}, Registration(900, "s"), "update"),
        ({"run_id": "r"}, Registration(900, None), "nothing"),
        ({}, Registration(900, "s"), "nothing"),
        ({"registered_ms": 500}, None, "nothing"),
        ({"registered_ms": 300}, None, "update"),
        ({}, None, "nothing"),
    ],
)
def test_a_version_that_was_registered_again_under_the_same_number_is_deployed(
    deployed: dict[str, Any], registered: Registration | None, kind: str
) -> None:
    registrations = {"3": registered} if registered else {}
    state = ModelState({"Production": ("3",)}, {}, registrations=registrations, created_ms=400)
    action = decide(state, replace(DEPLOYED, model_version="3", **deployed), Memory(), NOW)

    assert (action.kind, action.version) == (kind, "3")


def test_what_the_list_says_about_the_deployed_version_is_compared() -> None:
    listed = {"name": "a", "model_version": "3", "run_id": "r", "model_registered_ms": 500}

    assert (Deployed.parse(listed).run_id, Deployed.parse(listed).registered_ms) == ("r", 500)


@pytest.mark.parametrize(
    ("deployed", "kind", "reason"),
    [
        (replace(DEPLOYED, model_version="3"), "nothing", "version 3 is deployed"),
        (replace(DEPLOYED, model_version="3", state="IN_PROGRESS"), "nothing", "version 3 is deployed"),
        (replace(DEPLOYED, model_version="7"), "update", "version 3 is in Production"),  # a manual rollback
        (replace(DEPLOYED, follow="pinned"), "nothing", "pinned"),
        (replace(DEPLOYED, model_name=None), "nothing", "pinned"),
        (replace(DEPLOYED, state="IN_PROGRESS"), "hold", "a rollout is in progress"),
        (replace(DEPLOYED, state="FAILED"), "update", "version 3 is in Production"),
        (replace(DEPLOYED, last_failed_version="3"), "blocked", "version 3 failed to roll out"),
        (replace(DEPLOYED, last_failed_version="2"), "update", "version 3 is in Production"),
        (replace(DEPLOYED, follow="Archived"), "hold", "no version is in Archived"),
        (replace(DEPLOYED, follow="@gone"), "hold", "no version has the alias @gone"),
    ],
)
def test_the_deployed_state_decides(deployed: Deployed, kind: str, reason: str) -> None:
    action = decide(STATE, deployed, Memory(), NOW)

    assert (action.kind, action.reason.startswith(reason)) == (kind, True)


@pytest.mark.parametrize(
    ("action", "title"),
    [
        (Action("create", "", "4"), "create with version 4"),
        (Action("update", "", "4"), "update to version 4"),
        (Action("scale_to_zero", ""), "scale_to_zero"),
        (Action("delete", ""), "delete"),
    ],
)
def test_a_change_is_titled_with_its_version_if_it_has_one(action: Action, title: str) -> None:
    assert action.title == title


def test_an_invisible_model_is_held_with_a_warning() -> None:
    action = decide(None, DEPLOYED, Memory(), NOW)

    assert action.kind == "hold" and action.warning is not None and "'churn'" in action.warning


def test_of_several_versions_in_a_stage_the_highest_is_used_with_a_warning() -> None:
    state = ModelState({"Production": ("3", "9", "10")}, {})

    assert decide(state, DEPLOYED, Memory(), NOW).version == "10"
    assert "3, 9, 10" in (decide(state, DEPLOYED, Memory(), NOW).warning or "")
    assert decide(state, replace(DEPLOYED, model_version="10"), Memory(), NOW).kind == "nothing"


def test_a_failed_update_is_retried_with_backoff() -> None:
    memory, waits = Memory(), []
    for _ in range(9):
        memory = remember_failure(memory, "3", "no such role", is_final=False, now=NOW)
        waits.append(memory.retry_at - NOW)

        assert decide(STATE, DEPLOYED, memory, memory.retry_at - 1).kind == "hold"
        assert decide(STATE, DEPLOYED, memory, memory.retry_at).kind == "update"
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_a_failed_rollout_is_retried_only_after_the_registry_changed() -> None:
    deployed = replace(DEPLOYED, last_failed_version="3")
    memory = remember_failure(Memory(), "3", "unhealthy", is_final=True, now=NOW)
    assert memory.retry_at == math.inf

    memory = remember_look(memory, deployed, "3")
    assert decide(STATE, deployed, memory, NOW).kind == "blocked"
    memory = remember_look(memory, deployed, "1")
    assert decide(STATE, deployed, memory, NOW).kind == "update"
    memory = remember_failure(memory, "3", "unhealthy again", is_final=True, now=NOW)
    assert decide(STATE, deployed, memory, NOW).kind == "blocked"


def test_the_failure_of_a_deleted_version_says_nothing_about_the_one_with_its_number() -> None:
    again = replace(STATE, registrations={"3": Registration(6000, "new")}, created_ms=5000)
    deployed = replace(DEPLOYED, registered_ms=1000, last_failed_version="3", last_failed_registered_ms=2000)
    failed = remember_failure(Memory(), "3", "unhealthy", is_final=True, now=NOW, registered_ms=2000)

    assert decide(again, deployed, failed, NOW).kind == "update"
    assert decide(replace(again, registrations={}), deployed, failed, NOW).kind == "update"

    registered_ms = decide(again, deployed, failed, NOW).registered_ms
    failed = remember_failure(failed, "3", "unhealthy", is_final=True, now=NOW, registered_ms=registered_ms)
    assert decide(again, deployed, failed, NOW).kind == "blocked"
    deployed = replace(deployed, last_failed_registered_ms=6000)
    assert decide(again, deployed, Memory(), NOW).kind == "blocked"


def test_the_failures_of_a_deleted_version_do_not_delay_the_one_with_its_number() -> None:
    memory = Memory()
    for _ in range(6):
        memory = remember_failure(memory, "3", "no such role", is_final=False, now=NOW, registered_ms=2000)
    memory = remember_failure(memory, "3", "no such role", is_final=False, now=NOW, registered_ms=6000)

    assert memory.retry_at - NOW == 60


def test_an_unreadable_registry_forgives_no_failure() -> None:
    memory = remember_failure(Memory(), "3", "unhealthy", is_final=True, now=NOW)

    assert remember_look(memory, DEPLOYED, None) == memory


def test_a_listed_deployment_is_parsed() -> None:
    listed = {"name": "a", "follow": "@champion", "model_name": "churn", "model_version": 3, "state": "COMPLETED"}

    assert Deployed.parse({**listed, "flavor": "python_function", "last_failed_version": None, "url": "http://x"}) == (
        Deployed("a", "@champion", "churn", "3", "COMPLETED", "python_function", None, url="http://x")
    )
    assert not Deployed.parse({"name": "a"}).is_watched
    assert not Deployed.parse({**listed, "model_name": ""}).is_watched


def test_a_blocked_version_is_deployed_again_after_a_retry_request() -> None:
    deployed = replace(DEPLOYED, last_failed_version="3")
    memory = remember_retry(deployed, "3")

    assert decide(STATE, deployed, memory, NOW).kind == "update"
    memory = remember_failure(memory, "3", "still unhealthy", is_final=True, now=NOW)
    assert decide(STATE, deployed, memory, NOW).kind == "blocked"


def test_a_failed_first_rollout_can_be_retried_with_the_same_version() -> None:
    deployed = replace(DEPLOYED, model_version="3", state="FAILED", last_failed_version="3")

    assert decide(STATE, deployed, Memory(), NOW).kind == "nothing"
    assert decide(STATE, deployed, remember_retry(deployed, "3"), NOW).kind == "update"


def test_a_missing_deployment_is_created_with_backoff_after_a_failure() -> None:
    absent = replace(DEPLOYED, model_version=None, state=ABSENT)
    memory = remember_failure(Memory(), "3", "no such role", is_final=False, now=NOW)

    assert decide(STATE, absent, Memory(), NOW) == Action("create", "version 3 is in Production", "3")
    assert decide(STATE, absent, memory, NOW).kind == "hold"
    assert decide(ModelState({}, {}), absent, Memory(), NOW, "delete").kind == "hold"


@pytest.mark.parametrize(("on_demotion", "then"), [("keep", "hold"), ("scale_to_zero",) * 2, ("delete",) * 2])
def test_an_empty_stage_is_acted_on_after_a_grace_period(on_demotion: str, then: str) -> None:
    empty = ModelState({"Archived": ("1",)}, {})
    memory = remember_holder(Memory(), False, NOW)
    later = NOW + DEMOTION_GRACE_SECONDS

    assert decide(empty, DEPLOYED, memory, later - 1, on_demotion).kind == "hold"  # type: ignore[arg-type]
    assert decide(empty, DEPLOYED, memory, later, on_demotion).kind == then  # type: ignore[arg-type]
    # A model that is not visible is different: nothing is deleted for that.
    assert decide(None, DEPLOYED, memory, later, on_demotion).kind == "hold"  # type: ignore[arg-type]
    memory = remember_holder(remember_holder(memory, True, NOW), False, later)
    assert decide(empty, DEPLOYED, memory, later + 1, on_demotion).kind == "hold"  # type: ignore[arg-type]


def test_a_deployment_scaled_to_zero_stays_so_until_its_version_is_back() -> None:
    asleep = replace(DEPLOYED, model_version="3", desired_count=0)

    assert decide(ModelState({}, {}), asleep, Memory(empty_since=0), NOW, "scale_to_zero").kind == "nothing"
    assert decide(STATE, asleep, Memory(), NOW, "scale_to_zero").kind == "update"
    assert decide(STATE, asleep, Memory(), NOW, "keep").kind == "nothing"
