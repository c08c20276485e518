"""What clients notice of variants: their shares of 10,000 requests, and no failure while they come, change and go."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mlflow.deployments import get_deploy_client

from support.deployed_services import deployed
from support.hammering import Noticed, hammered, wait_until

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(3600)]

TARGET = "fargate:/local"
REQUESTS = 10_000
VARIANT = {"variant_of": "churn", "deregistration_delay_seconds": 1, "smoke_test": False}


def run(*command: str) -> str:
    words = [str(Path(sys.executable).with_name("mlflow-fargate")), *command, "-t", TARGET, "--name", "churn"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def share_of(version: str, noticed: Noticed) -> tuple[int, int]:
    """Returns how many of the next requests this version answered, and how many there were."""
    seen = noticed.answers["1"] + noticed.answers["2"]
    wait_until(lambda: noticed.answers["1"] + noticed.answers["2"] > seen + 200)  # those under way, and a new rule
    before = Counter(noticed.answers)
    wait_until(lambda: sum((noticed.answers - before).values()) >= REQUESTS, at_most_seconds=900)
    now = Counter(noticed.answers) - before
    return now[version], sum(now.values())


def is_binomial(answered: int, requests: int, probability: float) -> bool:
    """Within 4.5 standard deviations: one of 150,000 correct splits is outside."""
    return abs(answered - requests * probability) < 4.5 * math.sqrt(requests * probability * (1 - probability))


def test_a_variant_gets_its_share_and_no_request_fails_whatever_happens_to_it(
    churn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = get_deploy_client(TARGET)
    one, two = f"models:/{churn}/1", f"models:/{churn}/2"
    measured = {}
    with deployed("churn", one, {}) as url, hammered(url) as noticed:
        try:
            client.create_deployment("churn-b", two, config={**VARIANT, "traffic": 10})
            measured["10 %"] = share_of("2", noticed)
            run("traffic", "b=25")
            measured["25 %"] = share_of("2", noticed)
            client.update_deployment("churn-b", one)
            client.update_deployment("churn-b", two)
            client.update_deployment("churn", one, config={"environment.A": "1"})
            client.create_deployment("churn-c", two, config={**VARIANT, "traffic": 5})
            client.delete_deployment("churn-c")
            run("promote", "b")
            measured["promoted"] = share_of("2", noticed)
        finally:
            for name in ("churn-b", "churn-c"):
                client.delete_deployment(name)

    with capsys.disabled():
        print(f"\nvariants: {noticed}; of the new version {measured}")
    assert noticed.failures == []
    assert is_binomial(*measured["10 %"], 0.1)
    assert is_binomial(*measured["25 %"], 0.25)
    assert measured["promoted"][0] == measured["promoted"][1]
