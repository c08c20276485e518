"""Two deployers of one name at the same moment: one of them wins, whole, and the next plan has nothing to mend."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import FargateError
from mlflow_fargate.progress import RecordedProgress
from support.deployer import QUICK, PreparingPublisher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPTIONS = {**QUICK, "auth": "api_key", "desired_count": 0}


def new_client(deployer: Deployer) -> Deployer:
    account = Account(deployer.target, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    publisher = PreparingPublisher(deployer.publisher.image, account)  # type: ignore[attr-defined]
    return replace(deployer, account=account, make_publisher=lambda: publisher, progress=RecordedProgress())  # type: ignore[arg-type]


def at_once(deployer: Deployer, verb: str, versions: tuple[str, str]) -> list[FargateError | None]:
    """What became of each; a bug's traceback leaves here."""
    start = Barrier(len(versions))

    def run(version: str) -> FargateError | None:
        client = new_client(deployer)
        cpu = {"cpu": 256 * int(version), "memory": 1024 * int(version)}
        start.wait()
        try:
            getattr(client, verb)("churn", f"models:/churn/{version}", None, NamedOptions({**OPTIONS, **cpu}))
        except FargateError as error:
            return error
        return None

    with ThreadPoolExecutor(len(versions)) as pool:
        return list(pool.map(run, versions))


def check_one_won(deployer: Deployer, versions: tuple[str, str], ends: list[FargateError | None]) -> None:
    status = new_client(deployer).get("churn")
    version = str(status.provenance.version)
    assert version in versions
    assert status.settings.cpu == 256 * int(version)
    assert status.state == "COMPLETED"
    assert None in ends, ends
    plan, _ = new_client(deployer).preview("churn", None, None, NamedOptions())
    assert plan.is_empty, str(plan)


@pytest.mark.parametrize("go", [0, *(pytest.param(number, marks=pytest.mark.exhaustive) for number in range(1, 8))])
def test_two_that_create_one_name_at_once_end_in_one_of_the_two(deployer: Deployer, go: int) -> None:
    versions = ("1", "2")
    try:
        ends = at_once(deployer, "create", versions)
        check_one_won(deployer, versions, ends)

        ends = at_once(deployer, "update", ("4", "2"))
        check_one_won(deployer, ("4", "2"), ends)
    finally:
        new_client(deployer).delete("churn")
        new_client(deployer).delete_endpoint("default")
