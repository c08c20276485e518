"""Two commands on one deployment at once end as one of the two orders would, and the next command works.

A command that failed may have done nothing. Whatever succeeded must be visible in the end.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig, NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.roll_back import roll_back
from mlflow_fargate.errors import DeploymentExists, DeploymentNotFound, FargateError
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from support.deployer import QUICK, PreparingPublisher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPTIONS = NamedOptions({**QUICK, "auth": "api_key", "desired_count": 0})
COMMANDS = ("create", "update", "delete", "scale", "rollback", "webhook")
PAIRS = list(itertools.combinations_with_replacement(COMMANDS, 2))
QUICK_PAIRS = {("create", "delete"), ("update", "delete"), ("update", "scale")}
ROUNDS = 5
LONGEST_OFFSET_SECONDS = 1.5

# The versions that were deployed, without those that were left, and the number of tasks; None: no deployment.
State = tuple[tuple[str, ...], int] | None


def new_client(deployer: Deployer) -> Deployer:
    account = Account(deployer.target, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    publisher = PreparingPublisher(deployer.publisher.image, account)  # type: ignore[attr-defined]
    return replace(deployer, account=account, make_publisher=lambda: publisher, progress=RecordedProgress())  # type: ignore[arg-type]


def commands_of(number: int) -> Mapping[str, Callable[[Deployer], object]]:
    """What each command does as the first or second of a pair: with another version and another count."""
    return {
        "create": lambda client: client.create("churn", f"models:/churn/{number}", None, OPTIONS),
        "update": lambda client: client.update("churn", f"models:/churn/{number + 2}", None, NamedOptions()),
        "delete": lambda client: client.delete("churn"),
        "scale": lambda client: operations.scale(client, "churn", number),
        "rollback": lambda client: roll_back(client, "churn"),
        "webhook": lambda client: client.update(
            "churn", f"models:/churn/{number + 4}", None, NamedOptions({"follow": "Production"})
        ),
    }


def after(command: str, number: int, state: State) -> State:
    """What the command leaves if it runs alone."""
    if command == "create":
        return state or ((str(number),), 0)
    if command == "delete" or state is None:
        return None
    versions, count = state
    if command == "scale":
        return versions, number
    if command == "rollback":
        return (versions[:-1] or versions), count
    version = str(number + (2 if command == "update" else 4))
    return (*versions, version), count


def shown(state: State) -> tuple[str, int] | None:
    return (state[0][-1], state[1]) if state else None


def possible_ends(pair: tuple[str, str], failed: list[bool], start: State) -> set[tuple[str, int] | None]:
    """What both orders leave, in which a command that failed may be missing; one that succeeded never is."""
    ends = set()
    numbered = [(1, pair[0], failed[0]), (2, pair[1], failed[1])]
    for order in itertools.permutations(numbered):
        for skipped in itertools.product(*([False, True] if item[2] else [False] for item in order)):
            state = start
            for (number, command, _), is_skipped in zip(order, skipped, strict=True):
                state = state if is_skipped else after(command, number, state)
            ends.add(shown(state))
    return ends


def cases() -> list[object]:
    found = []
    for first, second in PAIRS:
        for number in range(ROUNDS):
            is_quick = number == 0 and (first, second) in QUICK_PAIRS
            marks = [] if is_quick else [pytest.mark.exhaustive]
            found.append(pytest.param(first, second, number, id=f"{first}-{second}-{number}", marks=marks))
    return found


@pytest.mark.parametrize(("first", "second", "number"), cases())
def test_two_commands_at_once_end_as_one_of_the_two_orders(
    deployer: Deployer, first: str, second: str, number: int
) -> None:
    start: State = None
    client = new_client(deployer)
    if "create" not in (first, second):
        client.create("churn", "models:/churn/7", None, OPTIONS)
        client.update("churn", "models:/churn/8", None, NamedOptions())
        start = (("7", "8"), 0)

    errors = at_once(deployer, (first, second), random.Random(f"{first} {second} {number}"))

    status = new_client(deployer).endpoint.status("churn")
    end = (str(status.provenance.version), status.desired_count) if status else None
    told = [f"{type(error).__name__}: {error}" if error else "OK" for error in errors]
    print(f"{first} and {second}: {shown(start)} → {end}; {told}")
    assert end in possible_ends((first, second), [error is not None for error in errors], start), told
    check_next_commands(deployer)


def at_once(deployer: Deployer, pair: tuple[str, str], chance: random.Random) -> list[FargateError | None]:
    """Returns what became of each; a bug's traceback leaves here."""
    begin = Barrier(2)
    offsets = [0.0, chance.uniform(0, LONGEST_OFFSET_SECONDS)]
    chance.shuffle(offsets)

    def run(number: int) -> FargateError | None:
        client, command = new_client(deployer), commands_of(number)[pair[number - 1]]
        begin.wait()
        time.sleep(offsets[number - 1])
        try:
            command(client)
        except FargateError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (1, 2)))


def check_next_commands(deployer: Deployer) -> None:
    """The next update or creation, and the next deletion, work and leave nothing."""
    client = new_client(deployer)
    if client.endpoint.status("churn"):
        client.update("churn", "models:/churn/9", None, NamedOptions({"desired_count": 0}))
    else:
        client.create("churn", "models:/churn/9", None, OPTIONS)
    assert client.get("churn").provenance.version == "9"
    assert client.preview("churn", None, None, NamedOptions())[0].is_empty
    client.delete("churn")
    assert client.endpoint.status("churn") is None
    assert [orphan for orphan in client.account.orphans() if orphan.name == "churn"] == []


@dataclass
class Interrupted(PreparingPublisher):
    """Another command runs while the image is built."""

    meanwhile: Callable[[], object] = lambda: None

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        self.meanwhile()
        return self.image


def test_an_update_does_not_bring_back_what_was_deleted_while_its_image_was_built(deployer: Deployer) -> None:
    deployer.create("churn", "models:/churn/1", None, OPTIONS)
    client = new_client(deployer)
    publisher = Interrupted(client.publisher.image, client.account, meanwhile=lambda: deployer.delete("churn"))  # type: ignore[attr-defined]

    with pytest.raises(DeploymentNotFound, match="Another command deleted 'churn'"):
        replace(client, make_publisher=lambda: publisher).update("churn", "models:/churn/2", None, NamedOptions())  # type: ignore[arg-type]

    assert deployer.endpoint.status("churn") is None
    assert [orphan for orphan in deployer.account.orphans() if orphan.name == "churn"] == []


# A deletion's first call after its service is gone, and the last call of its plan; then it deletes images.
@pytest.mark.parametrize("call", ["ecs.DeregisterTaskDefinition", "logs.DeleteLogGroup"])
def test_a_deletion_stops_at_a_service_that_was_created_again(deployer: Deployer, call: str) -> None:
    deployer.create("churn", "models:/churn/1", None, OPTIONS)
    client = new_client(deployer)
    done: list[bool] = []

    def create_once(**_: object) -> None:
        if not done:
            done.append(True)
            deployer.create("churn", "models:/churn/2", None, OPTIONS)

    client.account.session._session.events.register(f"before-call.{call}", create_once)
    with pytest.raises(DeploymentExists, match="recreated 'churn' while this one was deleting it"):
        client.delete("churn")

    check_next_commands(deployer)


class Killed(BaseException):
    """What kill -9 is to a process."""


def delay_apply(client: Deployer, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Lets another command run between this client's plan and its first change."""
    apply = client.account.apply

    def late(*arguments: Any) -> Any:
        meanwhile()
        return apply(*arguments)

    monkeypatch.setattr(client.account, "apply", late)


def test_a_deletion_that_found_no_service_yet_leaves_one_that_is_created_meanwhile(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(**_: object) -> None:
        raise Killed

    killed, client = new_client(deployer), new_client(deployer)
    killed.account.session._session.events.register("before-call.ecs.CreateService", kill)
    with pytest.raises(Killed):
        killed.create("churn", "models:/churn/1", None, OPTIONS)
    delay_apply(client, monkeypatch, lambda: deployer.create("churn", "models:/churn/1", None, OPTIONS))

    with pytest.raises(DeploymentExists, match="recreated 'churn' while this one was deleting it"):
        client.delete("churn")

    assert deployer.preview("churn", None, None, NamedOptions())[0].is_empty


def test_a_creation_that_comes_second_changes_nothing_of_the_first(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_client(deployer), new_client(deployer)
    delay_apply(second, monkeypatch, lambda: first.create("churn", "models:/churn/1", None, OPTIONS))
    others = {"log_retention_days": 1, "deregistration_delay_seconds": 77, "host": "churn.example.com"}

    with pytest.raises(DeploymentExists, match="Another command created 'churn' at the same time"):
        second.create("churn", "models:/churn/2", None, NamedOptions({**OPTIONS.given, **others}))

    plan, _ = first.preview("churn", None, None, NamedOptions())
    assert plan.is_empty, str(plan)
    assert first.endpoint.status("churn").provenance.version == "1"  # type: ignore[union-attr]


def test_of_two_equal_creations_at_once_both_succeed(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_client(deployer), new_client(deployer)
    delay_apply(second, monkeypatch, lambda: first.create("churn", "models:/churn/1", None, OPTIONS))

    status = second.create("churn", "models:/churn/1", None, OPTIONS)

    assert status and (status.state, len(operations.history(deployer, "churn"))) == ("COMPLETED", 1)
