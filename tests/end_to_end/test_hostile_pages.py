"""A real browser with hostile pages: their requests reach every server of the local stack, and each is refused."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlflow_fargate.target import read_local_state
from support.hostile_browser import CHROMIUM, Answers, UnguardedServer, attack, serving

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (make tools)"),
]
SERVERS = ("aws_endpoint_url", "registry", "page_url", "mlflow_tracking_uri", "load_balancer_url")
AT_LEAST = 30


def succeeded(answers: Answers) -> set[str]:
    """Returns the attacks whose request itself, not only its preflight, was accepted."""
    return {
        name for name, seen in answers.items() if any(method != "OPTIONS" and status != 403 for method, status in seen)
    }


def test_every_attack_succeeds_against_a_server_without_the_guard(tmp_path: Path) -> None:
    with serving([server := UnguardedServer()]):
        found = attack({"unguarded": server.server_address[1]}, tmp_path)

    assert len(found) == 3
    for origin, answers in found.items():
        assert len(answers) >= AT_LEAST
        assert answers.keys() - succeeded(answers) == set(), f"not sent: {origin}"


def test_no_attack_of_a_page_succeeds_against_any_server_of_the_local_stack(
    local_stack: dict[str, str], tmp_path: Path
) -> None:
    state = read_local_state(Path(os.environ["MLFLOW_FARGATE_CACHE"]))
    assert state is not None
    ports = {name: urlsplit(f"//{state[name].rpartition('//')[2]}").port or 0 for name in SERVERS}

    found = attack(ports, tmp_path)

    assert len(found) == 3 * len(SERVERS)
    for origin, answers in found.items():
        assert len(answers) >= AT_LEAST
        assert [name for name, seen in answers.items() if not seen] == [], f"not sent: {origin}"
        accepted = {name: seen for name, seen in answers.items() if {status for _, status in seen} != {403}}
        assert accepted == {}, f"accepted: {origin}"
