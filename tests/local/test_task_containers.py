"""A task's containers with fakes: the order in which they start and stop, and health checks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_fargate.local.container.launch import ExecSpec
from mlflow_fargate.local.engine.container_health import ContainerHistory, ContainerProbe, judge
from mlflow_fargate.local.engine.state import ContainerStatus
from mlflow_fargate.local.engine.task_containers import TaskContainers
from mlflow_fargate.local.task_definition import Container, HealthCheck

CHECK = HealthCheck(("true",), retries=2, start_period_seconds=60)


class FakeContainer:
    pid = 1
    host_port = 1
    reason: str | None = None

    def __init__(self) -> None:
        self.code: int | None = None
        self.asked: list[str] = []
        self.is_stubborn = False

    def wait(self, timeout_seconds: float) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.asked.append("TERM")
        self.code = None if self.is_stubborn else 0

    def kill(self) -> int:
        self.asked.append("KILL")
        self.code = 137
        return 137


class FakeProbe(ContainerProbe):
    def __init__(self) -> None:
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


class Bench:
    """A task with these container definitions; `step` starts and stops what it can, and returns what is running."""

    def __init__(self, *definitions: dict[str, object]) -> None:
        containers = [Container.of_json({"image": "image", **definition}) for definition in definitions]
        self.started: dict[str, FakeContainer] = {}
        self.reports: dict[str, Callable[[str], None]] = {}
        self.probes: dict[str, FakeProbe] = {}
        self.statuses: dict[str, ContainerStatus] = {}
        self.task = TaskContainers(
            [(one, ContainerStatus(one.name, one.image)) for one in containers],
            {one.name: self._starter(one.name) for one in containers},
            self._probe,
            lambda now: self.statuses.update({status.name: status for status in now}),
        )

    def _starter(self, name: str) -> Callable[[], FakeContainer]:
        return lambda: self.started.setdefault(name, FakeContainer())

    def _probe(self, container: Container, check: HealthCheck, report: Callable[[str], None]) -> FakeProbe:
        self.reports[container.name] = report
        return self.probes.setdefault(container.name, FakeProbe())

    def step(self) -> set[str]:
        self.task.step()
        self.task.wait(0)
        return {name for name, status in self.statuses.items() if status.last_status == "RUNNING"}


def after(name: str, condition: str, **more: object) -> dict[str, object]:
    """Returns the definition of `app`, which depends on another container."""
    return {"name": "app", "dependsOn": [{"containerName": name, "condition": condition}], **more}


def test_containers_without_dependencies_start_at_once() -> None:
    bench = Bench({"name": "app"}, {"name": "sidecar"})

    assert bench.step() == {"app", "sidecar"}
    assert bench.task.have_started


def test_start_waits_for_the_other_container_to_start() -> None:
    bench = Bench(after("database", "START"), {"name": "database"})

    assert bench.step() == {"database"}
    assert bench.step() == {"app", "database"}


@pytest.mark.parametrize(("condition", "code"), [("COMPLETE", 3), ("COMPLETE", 0), ("SUCCESS", 0)])
def test_a_container_starts_after_another_has_ended(condition: str, code: int) -> None:
    bench = Bench(after("init", condition), {"name": "init", "essential": False})

    assert bench.step() == {"init"}
    assert bench.step() == {"init"}
    bench.started["init"].code = code
    bench.step()

    assert bench.step() == {"app"}
    assert bench.statuses["init"].exit_code == code
    assert not bench.task.essential_ended


def test_success_is_never_met_by_a_container_that_failed() -> None:
    bench = Bench(after("init", "SUCCESS"), {"name": "init", "essential": False})
    bench.step()
    bench.started["init"].code = 1
    bench.step()

    assert bench.step() == set()
    assert bench.statuses["app"].exit_code == 143
    assert "did not exit successfully" in str(bench.statuses["app"].reason)
    assert bench.task.essential_ended
    assert "app" not in bench.started


def test_a_task_runs_without_a_container_that_cannot_start_and_is_not_essential() -> None:
    bench = Bench({"name": "model"}, {"name": "init", "essential": False}, after("init", "SUCCESS", essential=False))
    bench.step()
    bench.started["init"].code = 1
    bench.step()

    assert bench.step() == {"model"}
    assert bench.task.have_started
    assert not bench.task.essential_ended


def test_healthy_waits_for_a_health_check() -> None:
    check = {"command": ["CMD", "true"]}
    bench = Bench(after("database", "HEALTHY"), {"name": "database", "healthCheck": check})

    assert bench.step() == {"database"}
    bench.reports["database"]("UNHEALTHY")
    assert bench.step() == {"database"}
    bench.reports["database"]("HEALTHY")
    assert bench.step() == {"app", "database"}
    bench.task.kill()
    assert bench.probes["database"].is_stopped


def test_a_container_gives_up_after_the_start_timeout_of_another() -> None:
    bench = Bench(after("init", "COMPLETE"), {"name": "init", "startTimeout": 1})
    bench.step()
    time.sleep(1.1)

    bench.step()

    assert "has timed out" in str(bench.statuses["app"].reason)
    assert bench.task.essential_ended


def test_only_the_end_of_an_essential_container_ends_the_task() -> None:
    bench = Bench({"name": "app"}, {"name": "sidecar", "essential": False})
    bench.step()

    bench.started["sidecar"].code = 1
    bench.step()
    assert not bench.task.essential_ended
    bench.started["app"].code = 2
    bench.step()

    assert bench.task.essential_ended
    assert (bench.statuses["sidecar"].exit_code, bench.statuses["app"].exit_code) == (1, 2)


def test_containers_stop_in_the_reverse_order() -> None:
    bench = Bench(after("database", "START"), {"name": "database"})
    bench.step()
    bench.step()
    bench.task.stop()

    bench.task.step()
    assert bench.started["app"].asked == ["TERM"]
    assert bench.started["database"].asked == []
    bench.task.wait(0)
    assert bench.step() == set()

    assert bench.started["database"].asked == ["TERM"]
    assert bench.task.have_ended


def test_each_container_is_killed_after_its_stop_timeout() -> None:
    bench = Bench({"name": "app", "stopTimeout": 120}, {"name": "sidecar", "stopTimeout": 1})
    bench.step()
    for container in bench.started.values():
        container.is_stubborn = True
    bench.task.stop()
    bench.step()
    time.sleep(1.1)

    assert bench.step() == {"app"}
    assert bench.started["sidecar"].asked == ["TERM", "KILL"]
    assert bench.statuses["sidecar"].exit_code == 137


# Health checks


def test_a_container_is_unhealthy_after_that_many_failures_in_a_row() -> None:
    history = judge(ContainerHistory("HEALTHY"), CHECK, passed=False, age_seconds=1)
    assert history == ContainerHistory("HEALTHY", 1)
    assert judge(history, CHECK, passed=True, age_seconds=1) == ContainerHistory("HEALTHY")
    assert judge(history, CHECK, passed=False, age_seconds=1).health == "UNHEALTHY"


def test_failures_in_the_start_period_do_not_count() -> None:
    history = ContainerHistory()
    assert judge(history, CHECK, passed=False, age_seconds=59) == history
    assert judge(history, CHECK, passed=False, age_seconds=60).failed_in_a_row == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["CMD-SHELL", "curl -f localhost || exit 1"], ("/bin/sh", "-c", "curl -f localhost || exit 1")),
        (["CMD", "curl", "-f"], ("curl", "-f")),
        (["curl", "-f"], ("curl", "-f")),
        (["NONE"], None),
    ],
)
def test_the_first_word_of_a_check_says_how_to_run_the_others(command: list[str], words: tuple[str, ...]) -> None:
    check = HealthCheck.of_json({"command": command, "interval": 7})

    assert check == (HealthCheck(words, interval_seconds=7) if words else None)


@pytest.mark.parametrize(
    ("program", "health"), [("", "HEALTHY"), ("exit(1)", "UNHEALTHY"), ("import time; time.sleep(9)", "UNHEALTHY")]
)
def test_a_check_passes_if_its_command_ends_with_0_in_time(program: str, health: str) -> None:
    check = HealthCheck((), interval_seconds=0.05, timeout_seconds=5 if program == "" else 0.5, retries=1)
    spec = ExecSpec((sys.executable, "-S", "-c", program), {}, Path("/"), 1)
    seen: list[str] = []
    probe = ContainerProbe(check, lambda: spec, seen.append)

    until = time.monotonic() + 10
    while not seen and time.monotonic() < until:
        time.sleep(0.02)
    probe.stop()

    assert seen == [health]
