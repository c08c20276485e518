"""Blue/green, canary and linear deployments on the local stack: created, tested, shown and deleted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import requests
from botocore.awsrequest import AWSResponse

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption, RolloutFailed, RolloutTimeout
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resources import TEST_HEADER
from support.deployer import CRASHING, count_writes, create
from support.registry import SERVER

pytestmark = pytest.mark.slow

BLUE_GREEN = {"strategy": "blue_green", "bake_time_minutes": 0}
# Says that it is ready, tells an input example, and answers it with what MODE says.
PICKY = SERVER.replace(
    "    def do_GET(self):",
    "    def do_POST(self):\n"
    "        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))\n"
    "        if os.environ.get('MODE') == 'wrong':\n"
    "            self.answer(500, {'message': 'column spend is missing'})\n"
    "        else:\n"
    "            self.answer(200, {'predictions': asked['inputs']})\n"
    "    def do_GET(self):\n"
    "        if self.path.endswith('/docs.json'):\n"
    "            content = {'application/json': {'example': {'inputs': [42]}}}\n"
    "            body = {'post': {'requestBody': {'content': content}}}\n"
    "            return self.answer(200, {'paths': {'/invocations': body}})",
)


@pytest.fixture
def picky(deployer: Deployer, push_image: Callable[..., str]) -> Deployer:
    """A deployer whose models answer only their input example."""
    deployer.publisher.image = push_image({"opt/app/src/server.py": PICKY})  # type: ignore[attr-defined]
    return deployer


def notes(deployer: Deployer) -> str:
    assert isinstance(deployer.progress, RecordedProgress)
    return "\n".join(deployer.progress.lines)


def version_of(url: str, headers: dict[str, str] | None = None) -> str:
    answer = requests.get(f"{url}/anything", headers=headers, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["environment"].get("VERSION"))


@contextmanager
def asked_all_the_time(url: str) -> Iterator[Counter[str]]:
    """What callers get meanwhile: versions, and failures by what they were."""
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers[version_of(url)] += 1
            except requests.RequestException as error:
                answers[f"failed: {error}"] += 1

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_a_blue_green_deployment_is_tested_shifted_and_fails_no_caller(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})
    status = picky.get("churn")
    assert (status.state, status.strategy) == ("COMPLETED", "blue_green")

    with asked_all_the_time(status.url) as answers:
        picky.update("churn", "models:/churn/2", None, NamedOptions({"environment.VERSION": "2"}))

    assert set(answers) == {"1", "2"}
    assert version_of(status.url) == "2"
    told = notes(picky)
    assert 'the model\'s input example returned {"predictions": [42]}' in told
    assert "POST_TEST_TRAFFIC_SHIFT: 0% of the traffic on the new tasks" in told
    assert count_writes(picky, lambda counted: counted.update("churn", None, None, NamedOptions())) == {}


def test_a_green_that_does_not_answer_its_example_gets_no_caller(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})
    url = picky.get("churn").url

    with asked_all_the_time(url) as answers, pytest.raises(RolloutFailed) as failure:
        picky.update(
            "churn", "models:/churn/2", None, NamedOptions({"environment.VERSION": "2", "environment.MODE": "wrong"})
        )

    assert set(answers) == {"1"}
    assert "column spend is missing" in str(failure.value)
    assert "The previous version is still serving" in str(failure.value)
    status = picky.get("churn")
    assert (status.state, status.last_failed_version, status.provenance.version) == ("COMPLETED", "2", "1")
    # The strategy is recorded on the service, so it outlives the rollback of the revision.
    assert status.settings.strategy == "blue_green"


@pytest.mark.exhaustive
def test_a_green_that_crashes_is_given_up_with_its_reason(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})

    with pytest.raises(RolloutFailed, match=r"(?s)circuit breaker.*boom: the model cannot be loaded"):
        picky.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))

    assert version_of(picky.get("churn").url) == "1"


@pytest.mark.exhaustive
def test_a_canary_and_a_linear_shift_share_callers_and_show_it(picky: Deployer) -> None:
    canary = {"strategy": "canary", "canary_percent": 40, "canary_bake_time_minutes": 1, "bake_time_minutes": 0}
    create(picky, **canary, **{"environment.VERSION": "1"})
    url = picky.get("churn").url
    with asked_all_the_time(url) as answers:
        picky.update("churn", None, None, NamedOptions({"environment.VERSION": "2"}))
        linear = {"strategy": "linear", "linear_step_percent": 50, "linear_step_bake_time_minutes": 1}
        picky.update("churn", None, None, NamedOptions({**linear, "environment.VERSION": "3"}))

    assert set(answers) == {"1", "2", "3"}
    assert "PRODUCTION_TRAFFIC_SHIFT: 40% of the traffic on the new tasks" in notes(picky)
    assert "PRODUCTION_TRAFFIC_SHIFT: 50% of the traffic on the new tasks" in notes(picky)


def test_a_rolling_deployment_goes_over_to_blue_green_without_a_failure_and_not_back(picky: Deployer) -> None:
    create(picky, **{"environment.VERSION": "1"})
    url = picky.get("churn").url
    plan, _ = picky.preview("churn", None, None, NamedOptions(BLUE_GREEN))
    assert "+ create alternate target group" in str(plan)
    assert "strategy: rolling → blue_green" in str(plan)

    with asked_all_the_time(url) as answers:
        picky.update("churn", None, None, NamedOptions({**BLUE_GREEN, "environment.VERSION": "2"}))

    assert set(answers) == {"1", "2"}
    for change in ({"strategy": "rolling"}, {"port": 8099}):
        with pytest.raises(InvalidOption, match="An update cannot"):
            picky.update("churn", None, None, NamedOptions(change))
    # Another bake time needs no rollout.
    writes = count_writes(
        picky, lambda counted: counted.update("churn", None, None, NamedOptions({"bake_time_minutes": 1}))
    )
    assert writes == {"UpdateService": 1}


@pytest.mark.exhaustive
def test_the_test_rule_asks_for_a_value_that_only_the_rule_tells(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN)
    first = test_values(picky)
    picky.delete("churn")
    create(picky, **BLUE_GREEN)

    assert [len(value) for value in (*first, *test_values(picky))] == [32, 32]
    assert first != test_values(picky)
    assert not [line for line in notes(picky).splitlines() if first[0] in line]


def test_values(deployer: Deployer) -> list[str]:
    session = deployer.account.session
    (balancer,) = session.call("elbv2", "describe_load_balancers")["LoadBalancers"]
    listeners = session.call("elbv2", "describe_listeners", LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    rules = session.call("elbv2", "describe_rules", ListenerArn=listeners[0]["ListenerArn"])["Rules"]
    headers = [
        condition["HttpHeaderConfig"]
        for rule in rules
        for condition in rule["Conditions"]
        if condition["Field"] == "http-header"
    ]
    assert {header["HttpHeaderName"] for header in headers} <= {TEST_HEADER}
    return [header["Values"][0] for header in headers]


test_values.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.exhaustive
def test_a_shift_that_no_client_waits_for_is_tested_by_the_next_one_that_does(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})
    picky.update(
        "churn", None, None, NamedOptions({"environment.VERSION": "2", "wait": False, "test_timeout_minutes": 500})
    )

    assert "ECS waits up to 500 minutes for a test of the new tasks" in notes(picky)
    status = operations.watch(picky, "churn", 60)
    assert (status.state, version_of(status.url)) == ("COMPLETED", "2")


@pytest.mark.exhaustive
def test_a_client_that_is_gone_is_answered_for_by_the_hooks_time(picky: Deployer) -> None:
    """Five minutes last five seconds here."""
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})
    picky.update(
        "churn", None, None, NamedOptions({"environment.VERSION": "2", "wait": False, "test_timeout_minutes": 5})
    )
    watch = replace(picky, account=Account(picky.target))
    with pytest.raises(RolloutFailed, match="PAUSE lifecycle hook of POST_TEST_TRAFFIC_SHIFT timed out"):
        watch.endpoint.wait_until_rolled_out("churn", 60, watch.progress)

    assert version_of(picky.get("churn").url) == "1"


@pytest.mark.exhaustive
def test_the_same_update_takes_up_a_watch_that_was_cut_off(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN, **{"environment.VERSION": "1"})
    change = {"environment.VERSION": "2", "bake_time_minutes": 8}
    with pytest.raises(RolloutTimeout):
        picky.update("churn", None, None, NamedOptions({**change, "timeout_seconds": 1}))

    picky.update("churn", None, None, NamedOptions(change))

    assert version_of(picky.get("churn").url) == "2"


def test_deleting_leaves_nothing_of_both_groups_and_rules_and_the_endpoint_nothing_of_the_role(picky: Deployer) -> None:
    create(picky, **BLUE_GREEN)
    session = picky.account.session
    assert "mlflow-fargate-default-us-east-1-infrastructure" in roles(session)

    picky.delete("churn")
    groups = session.call("elbv2", "describe_target_groups")["TargetGroups"]
    assert [group for group in groups if group["TargetGroupName"].startswith("mlf-")] == []
    assert test_values(picky) == []
    assert list(picky.account.orphans()) == []

    picky.delete_endpoint("default")
    assert [role for role in roles(session) if role.startswith("mlflow-fargate")] == []


def roles(session: Any) -> list[str]:
    return [role["RoleName"] for role in session.pages("iam", "list_roles", "Roles")]


def refusing(deployer: Deployer, message: str, code: str = "InvalidParameterException") -> Deployer:
    """The deployer in an account whose ECS refuses every strategy but ROLLING."""
    account = Account(deployer.target)

    def refuse(request: Any, **_: Any) -> AWSResponse | None:
        body = request.body.decode() if isinstance(request.body, bytes) else request.body
        if '"strategy": "ROLLING"' in body:
            return None
        said = f'{{"__type": "{code}", "message": "{message}"}}'.encode()
        return AWSResponse(request.url, 400, {}, _Raw(said))

    for operation in ("CreateService", "UpdateService"):
        account.session._session.events.register_first(f"before-send.ecs.{operation}", refuse)
    return replace(deployer, account=account, progress=RecordedProgress())


class _Raw:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._content


@pytest.mark.exhaustive
def test_where_ecs_knows_no_such_strategy_the_service_rolls_and_everything_says_so(picky: Deployer) -> None:
    poor = refusing(picky, "Deployment strategy CANARY is not supported.")
    create(poor, strategy="canary", canary_percent=20, **{"environment.VERSION": "1"})

    said = "ECS rejected strategy=canary, so the service uses rolling updates"
    status = poor.get("churn")
    assert said in notes(poor)
    assert (status.state, status.strategy, version_of(status.url)) == ("COMPLETED", "canary", "1")
    assert said in str(status.strategy_refused)
    plan, _ = poor.preview("churn", None, None, NamedOptions())
    assert (plan.is_empty, said in str(plan), plan.as_dict()["notes"][0].startswith(said)) == (True, True, True)
    assert count_writes(poor, lambda counted: counted.update("churn", None, None, NamedOptions())) == {}

    poor.update("churn", None, None, NamedOptions({"environment.VERSION": "2"}))
    assert version_of(status.url) == "2"

    picky.update("churn", None, None, NamedOptions({"environment.VERSION": "3"}))
    status = picky.get("churn")
    assert (status.strategy_refused, status.strategy, version_of(status.url)) == (None, "canary", "3")


def test_other_refusals_do_not_lead_to_rolling_updates(picky: Deployer) -> None:
    poor = refusing(picky, "productionListenerRule has an invalid ARN format. Got: x")

    with pytest.raises(Exception, match="invalid ARN format"):
        create(poor, **BLUE_GREEN)
