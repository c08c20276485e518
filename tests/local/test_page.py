"""The stack's page: what it shows for made-up services, and that it runs no scripts and escapes everything."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError
from werkzeug.test import Client

from mlflow_fargate.local.engine.snapshot import PastRollout, RolloutSnapshot, ServiceSnapshot, TaskSnapshot
from mlflow_fargate.local.page import PageApp
from mlflow_fargate.local.page.rows import make_cards

NOW = 1_795_560_000.0
HOSTILE = "<script>alert(1)</script>"
ADDRESSES = {
    "mlflow_tracking_uri": "http://127.0.0.1:5000",
    "load_balancer_url": "http://127.0.0.1:8000",
    "aws_endpoint_url": "http://127.0.0.1:4566",
    "registry": "127.0.0.1:5001",
}


def task(task_id: str = "0c1d2e3f4a5b", **changes: Any) -> TaskSnapshot:
    return TaskSnapshot(
        **{
            "id": task_id,
            "task_definition": "churn:2",
            "status": "RUNNING",
            "health": "healthy",
            "pid": 4711,
            "port": 40001,
            "ip": "172.31.0.10",
            "started_at": NOW - 90,
            "stopped_reason": None,
            **changes,
        }
    )


def service(name: str = "churn", **changes: Any) -> ServiceSnapshot:
    rollout = RolloutSnapshot("ecs-svc/1", "churn:2", "PRIMARY", "COMPLETED", "ECS deployment ecs-svc/1 completed.", 0)
    return ServiceSnapshot(
        **{
            "name": name,
            "cluster": "mlflow-fargate-default",
            "status": "ACTIVE",
            "desired_count": 1,
            "running_count": 1,
            "rollouts": (rollout,),
            "tasks": (task(),),
            "events": ((NOW, "(service churn) has reached a steady state."),),
            "history": (PastRollout("churn:2", "SUCCESSFUL", "ECS deployment completed.", NOW - 99, NOW),),
            **changes,
        }
    )


class Logs:
    """CloudWatch Logs with one stream."""

    def __init__(self, *messages: str) -> None:
        self._messages = messages

    def describe_log_streams(self, **_: Any) -> dict[str, Any]:
        if not self._messages:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "DescribeLogStreams")
        return {"logStreams": [{"logStreamName": "model/model/0c1d2e3f4a5b"}]}

    def get_log_events(self, **_: Any) -> dict[str, Any]:
        return {"events": [{"timestamp": int(NOW * 1000), "message": text} for text in self._messages]}


def page(*services: ServiceSnapshot, logs: Logs | None = None) -> Client:
    return Client(PageApp(lambda: services, lambda: ADDRESSES, lambda: logs or Logs(), clock=lambda: NOW))


def text_of(client: Client, path: str = "/") -> str:
    answer = client.get(path, base_url="http://127.0.0.1:9000")
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_a_service_is_shown_with_rollouts_tasks_events_and_links() -> None:
    text = text_of(page(service()))

    for shown in (
        "steady",
        "1 of 1 tasks running",
        "churn:2",
        "0c1d2e3f",
        "pid 4711",
        "port 40001",
        "90 s",
        "steady state",
    ):
        assert shown in text
    assert 'href="http://127.0.0.1:8000/churn/"' in text
    assert 'href="/logs/mlflow-fargate-default/churn"' in text
    assert 'href="http://127.0.0.1:5000"' in text


def test_without_a_deployment_the_page_shows_how_to_create_one() -> None:
    assert "mlflow deployments create -t fargate:/local" in text_of(page())


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"rollouts": (RolloutSnapshot("1", "churn:3", "PRIMARY", "IN_PROGRESS", "", 0),)}, "rolling out"),
        ({"rollouts": (RolloutSnapshot("1", "churn:3", "PRIMARY", "FAILED", "", 3),)}, "failed"),
        ({"desired_count": 0, "running_count": 0}, "scaled to zero"),
        ({"running_count": 0}, "short of tasks"),
        ({"status": "DRAINING"}, "draining"),
    ],
)
def test_the_state_is_summarized_in_a_few_words(changes: dict[str, Any], state: str) -> None:
    assert make_cards([service(**changes)], ADDRESSES, NOW)[0].state == state


def test_only_the_newest_stopped_tasks_are_shown_with_their_reason() -> None:
    stopped = [task(f"{number}" * 8, status="STOPPED", stopped_reason=f"crash {number}") for number in range(5)]

    (card,) = make_cards([service(tasks=(task(), *stopped))], ADDRESSES, NOW)

    assert [row.reason for row in card.tasks] == ["", "crash 0", "crash 1", "crash 2"]


def test_all_content_is_escaped_and_no_script_can_run() -> None:
    hostile = service(
        "<b onmouseover=alert(1)>",
        events=((NOW, HOSTILE),),
        history=(PastRollout(HOSTILE, "FAILED", HOSTILE, NOW, None),),
        tasks=(task(stopped_reason=HOSTILE),),
        rollouts=(RolloutSnapshot("1", HOSTILE, "PRIMARY", "FAILED", HOSTILE, 0),),
    )
    client = page(hostile, logs=Logs(HOSTILE))
    answer = client.get("/", base_url="http://127.0.0.1:9000")
    logs = text_of(client, re.findall(r'href="(/logs/[^"]+)"', answer.text)[0])

    assert HOSTILE not in answer.text
    assert "<b on" not in answer.text
    assert HOSTILE not in logs
    assert "&lt;script&gt;" in logs
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_the_logs_of_a_service_are_shown_with_time_and_task() -> None:
    text = text_of(page(service(), logs=Logs("model loaded")), "/logs/mlflow-fargate-default/churn")

    assert re.search(r"\d\d:\d\d:\d\d 0c1d2e3f</span>  model loaded", text)
    assert "No log lines yet" in text_of(page(service()), "/logs/mlflow-fargate-default/churn")


def test_a_traceback_whose_lines_have_one_time_is_shown_in_order() -> None:
    lines = ("Traceback (most recent call last):", '  File "a.py", line 1', "ValueError: zero", "after it")

    text = text_of(page(service(), logs=Logs(*lines)), "/logs/mlflow-fargate-default/churn")

    assert re.findall(r"</span>  (.*)\n", html.unescape(text)) == list(lines)
    assert 'id="newest"' in text


def test_a_rollout_that_was_rolled_back_looks_failed_and_shows_its_cause_and_the_version_of_the_model() -> None:
    past = PastRollout("churn:3", "ROLLBACK_SUCCESSFUL", "circuit breaker", NOW - 90, NOW)
    crashed = task(status="STOPPED", task_definition="churn:3", stopped_reason="Essential container in task exited")
    tags = {"mlflow-fargate:model": "churn", "mlflow-fargate:model-version": "12", "mlflow-fargate:run-id": "ab12"}

    (card,) = make_cards([service(history=(past,), tasks=(task(), crashed))], ADDRESSES, NOW, lambda _: tags)

    assert (card.model, card.run, card.rollouts[0].model) == ("churn version 12", "ab12", "version 12")
    assert (card.rollouts[0].state, card.rollouts[0].tone) == ("failed, rolled back", "bad")
    assert card.rollouts[0].reason == "circuit breaker\nEssential container in task exited"
    assert [row.tone for row in card.tasks] == ["good", "bad"]


def test_logs_of_an_unknown_service_are_not_read() -> None:
    assert page().get("/logs/other/churn", base_url="http://127.0.0.1:9000").status_code == 404
