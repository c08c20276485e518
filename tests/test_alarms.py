"""Alarms on the local stack: created, watched during rollouts, changed, shown and deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.doctor.examination import examine
from mlflow_fargate.errors import ForeignResource, InvalidOption, RolloutFailed
from mlflow_fargate.local.registry.server import LocalRegistry
from support.deployer import QUICK, count_writes, create, make_deployer
from support.local_aws import running_aws
from support.registry import SERVER

pytestmark = pytest.mark.slow

# Every BAD-th response is a 500, or comes late.
FAULTY = SERVER.replace(
    "class Handler",
    "import itertools\nnumbers = itertools.count(1)\nbad = int(os.environ.get('BAD', 0))\nclass Handler",
).replace(
    '            time.sleep(float(os.environ.get("SLOWNESS", 0)))\n',
    "            is_bad = bad and next(numbers) % bad == 0\n"
    "            if is_bad and 'LATE' in os.environ:\n"
    "                time.sleep(0.3)\n"
    "            elif is_bad:\n"
    "                return self.answer(500, {})\n",
)
ERRORS = "mlflow-fargate-default_churn.errors"
WATCHED = {"max_error_rate": 3, "alarm_min_requests": 5}


@pytest.fixture
def faulty(deployer: Deployer, push_image: Callable[..., str]) -> Deployer:
    deployer.publisher.image = push_image({"opt/app/src/server.py": FAULTY})  # type: ignore[attr-defined]
    return deployer


@contextmanager
def called_all_the_time(url: str) -> Iterator[None]:
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            requests.get(f"{url}/anything", timeout=10)
            time.sleep(0.02)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        stop.set()
        for caller in callers:
            caller.join(20)


def update(deployer: Deployer, **options: Any) -> None:
    deployer.update("churn", None, None, NamedOptions(options))


def alarms_of(deployer: Deployer) -> dict[str, dict[str, Any]]:
    found = deployer.account.session.call("cloudwatch", "describe_alarms")["MetricAlarms"]
    return {alarm["AlarmName"]: alarm for alarm in found}


def configured(deployer: Deployer) -> dict[str, Any]:
    answer = deployer.account.session.call(
        "ecs", "describe_services", cluster="mlflow-fargate-default", services=["churn"]
    )
    found: dict[str, Any] = answer["services"][0]["deploymentConfiguration"]["alarms"]
    return found


@pytest.mark.parametrize("strategy", ["rolling", pytest.param("blue_green", marks=pytest.mark.exhaustive)])
@pytest.mark.timeout(300)
def test_a_version_with_5_percent_errors_is_rolled_back_and_one_without_is_not(faulty: Deployer, strategy: str) -> None:
    shifting = {} if strategy == "rolling" else {"strategy": strategy, "bake_time_minutes": 8}
    create(faulty, **WATCHED, **shifting)

    with called_all_the_time(faulty.get("churn").url):
        update(faulty, **{"environment.VERSION": 2})
        good = faulty.get("churn").task_definition
        with pytest.raises(RolloutFailed) as failed:
            update(faulty, **{"environment.VERSION": 3, "environment.BAD": 20})
        events = [event.message for event in faulty.endpoint.events("churn")]

    assert faulty.get("churn").task_definition == good
    assert f"alarm {ERRORS} is in ALARM: Threshold Crossed: " in failed.value.message
    ended = next(number for number, said in enumerate(events) if said.endswith("deployment failed: alarm detected."))
    assert events[ended].startswith("(service churn) (deployment ecs-svc/")
    assert any(said.startswith("(service churn) rolling back to deployment ecs-svc/") for said in events[ended:])
    (newest, *_) = faulty.account.session.call(
        "ecs", "list_service_deployments", cluster="mlflow-fargate-default", service="churn"
    )["serviceDeployments"]
    record = faulty.account.session.call(
        "ecs", "describe_service_deployments", serviceDeploymentArns=[newest["serviceDeploymentArn"]]
    )["serviceDeployments"][0]
    assert record["alarms"] == {"status": "TRIGGERED", "alarmNames": [ERRORS], "triggeredAlarmNames": [ERRORS]}


@pytest.mark.timeout(300)
def test_a_slow_version_is_rolled_back(faulty: Deployer) -> None:
    create(faulty, max_latency_p99_ms=200, alarm_min_requests=5)

    with (
        called_all_the_time(faulty.get("churn").url),
        pytest.raises(RolloutFailed, match=r"churn\.latency is in ALARM"),
    ):
        update(faulty, **{"environment.BAD": 20, "environment.LATE": "yes"})


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_alarms_end_rollouts_in_minutes_of_sixty_seconds(
    registry: LocalRegistry, tmp_path: Path, push_image: Callable[..., str]
) -> None:
    with running_aws(tmp_path, registry=registry) as aws:
        faulty = make_deployer(aws.url, push_image({"opt/app/src/server.py": FAULTY}))
        create(faulty, **WATCHED)
        with called_all_the_time(faulty.get("churn").url):
            update(faulty, **{"environment.VERSION": 2})
            good = faulty.get("churn").task_definition
            with pytest.raises(RolloutFailed, match="is in ALARM: Threshold Crossed"):
                update(faulty, **{"environment.BAD": 20})

        assert faulty.get("churn").task_definition == good


def test_alarms_are_changed_removed_and_deleted_with_the_deployment(deployer: Deployer) -> None:
    create(deployer, max_error_rate=5)
    rollout = deployer.get("churn").task_definition
    assert configured(deployer) == {"alarmNames": [ERRORS], "enable": True, "rollback": True}
    alarm = alarms_of(deployer)[ERRORS]
    assert (alarm["Threshold"], alarm["TreatMissingData"], alarm["ActionsEnabled"]) == (5.0, "notBreaching", True)
    tagged = deployer.account.session.call("cloudwatch", "list_tags_for_resource", ResourceARN=alarm["AlarmArn"])
    assert {"Key": "managed-by", "Value": "mlflow-fargate"} in tagged["Tags"]

    assert not count_writes(deployer, update)
    assert count_writes(deployer, lambda again: update(again, max_error_rate=7)) == {
        "PutMetricAlarm": 1,
        "TagResource": 1,
    }
    update(deployer, max_latency_p99_ms=250)
    assert {name: found["Threshold"] for name, found in alarms_of(deployer).items()} == {
        ERRORS: 7.0,
        ERRORS.replace("errors", "latency"): 250.0,
    }
    assert deployer.get("churn").settings.alarm_limits == {
        "max_error_rate": 7.0,
        "max_latency_p99_ms": 250.0,
        "alarm_min_requests": 20,
    }

    update(deployer, max_error_rate="")
    assert list(alarms_of(deployer)) == [ERRORS.replace("errors", "latency")]
    update(deployer, max_latency_p99_ms="")
    assert configured(deployer) == {"alarmNames": [], "enable": False, "rollback": False}
    assert alarms_of(deployer) == {}
    assert deployer.get("churn").task_definition == rollout

    update(deployer, max_error_rate=5)
    deployer.delete("churn")
    assert alarms_of(deployer) == {}


@pytest.mark.exhaustive
def test_an_alarm_follows_its_target_groups(deployer: Deployer) -> None:
    create(deployer, max_error_rate=5)
    update(deployer, port=8099)
    (group,) = {
        dimension["Value"]
        for query in alarms_of(deployer)[ERRORS]["Metrics"][:-1]
        for dimension in query["MetricStat"]["Metric"]["Dimensions"]
        if dimension["Name"] == "TargetGroup"
    }
    groups = deployer.account.session.call("elbv2", "describe_target_groups")["TargetGroups"]
    assert [found["Port"] for found in groups if found["TargetGroupArn"].endswith(group)] == [8099]

    update(deployer, strategy="blue_green", bake_time_minutes=0)
    formula = alarms_of(deployer)[ERRORS]["Metrics"][-1]["Expression"]
    assert "FILL(requests1,0)+FILL(requests2,0)" in formula


def test_an_alarm_of_the_users_ends_a_rollout_and_one_that_rings_already_is_ignored(deployer: Deployer) -> None:
    session = deployer.account.session
    session.call(
        "cloudwatch", "put_metric_alarm", AlarmName="orders", Namespace="Shop", MetricName="Orders", Statistic="Sum",
        Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator="LessThanThreshold",
    )  # fmt: skip

    def put(state: str) -> None:
        session.call("cloudwatch", "set_alarm_state", AlarmName="orders", StateValue=state, StateReason="no orders")

    create(deployer, alarms="orders")
    threading.Timer(2, put, ["ALARM"]).start()
    with pytest.raises(RolloutFailed, match="alarm orders is in ALARM: no orders"):
        update(deployer, **{"environment.VERSION": 2})

    plan, _ = deployer.preview("churn", None, None, NamedOptions({"environment.VERSION": 3}))
    assert "warning: alarm orders is in ALARM: no orders; ECS ignores it" in str(plan)
    (finding,) = [one for one in examine(deployer.endpoint, NamedOptions().over(), None) if one.name == "alarms"]
    assert (finding.verdict, finding.said) == ("FAIL", "churn: alarm orders is in ALARM: no orders")
    update(deployer, **{"environment.VERSION": 3})
    put("OK")
    deployer.delete("churn")
    assert list(alarms_of(deployer)) == ["orders"]
    session.call("cloudwatch", "delete_alarms", AlarmNames=["orders"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alarms": "none-such"}, "there is no alarm 'none-such' in us-east-1"),
        ({"max_error_rate": "-1"}, r"max_error_rate='-1': must be at least 0 \(percent\)"),
        ({"max_error_rate": "101"}, "must be at most 100"),
        ({"max_error_rate": "nan"}, "max_error_rate='nan': must be"),
        ({"max_error_rate": "few"}, r"must be a number \(percent\), such as max_error_rate=5"),
        ({"max_latency_p99_ms": "inf"}, "max_latency_p99_ms='inf': must be"),
        ({"max_latency_p99_ms": "0"}, "must be at least 1"),
        ({"alarm_min_requests": "0", "max_error_rate": "5"}, "must be at least 1"),
    ],
)
def test_bad_options_are_refused_before_the_first_write(deployer: Deployer, options: dict[str, str], said: str) -> None:
    def act(client: Deployer) -> None:
        with pytest.raises(InvalidOption, match=said):
            client.create("churn", "models:/churn/1", None, NamedOptions({**QUICK, **options}))

    assert not count_writes(deployer, act)


def test_an_alarm_of_that_name_that_another_program_created_is_not_changed(deployer: Deployer) -> None:
    taken = ERRORS.replace("churn", "risk")
    deployer.account.session.call(
        "cloudwatch", "put_metric_alarm", AlarmName=taken, Namespace="Shop", MetricName="Orders", Statistic="Sum",
        Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator="LessThanThreshold",
    )  # fmt: skip

    with pytest.raises(ForeignResource, match=f"There is already an alarm '{taken}'"):
        create(deployer, "risk", max_error_rate=5)

    assert alarms_of(deployer)[taken]["MetricName"] == "Orders"
    deployer.account.session.call("cloudwatch", "delete_alarms", AlarmNames=[taken])


def test_a_plan_shows_alarms_their_cost_and_a_bake_time_that_is_too_short(deployer: Deployer) -> None:
    options = {**QUICK, "max_error_rate": 5, "max_latency_p99_ms": 500, "strategy": "canary", "bake_time_minutes": 0}
    plan, cost = deployer.preview("churn", "models:/churn/1", None, NamedOptions(options))

    assert f"+ create alarm {ERRORS}" in str(plan)
    assert "warning: bake_time_minutes=0 is too short for alarms, which need about 5 minutes to notice" in str(plan)
    assert "0.80 for alarms" in str(cost)  # requests and failures, requests and latencies, of two groups each
