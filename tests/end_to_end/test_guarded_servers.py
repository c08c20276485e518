"""Checks that each server of the local stack, found by its socket, refuses foreign pages and users."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
import requests
from botocore.exceptions import ClientError

from mlflow_fargate.local.signature import Keys
from mlflow_fargate.target import local_state_file, read_local_state
from support.signed_requests import send, signed

pytestmark = [pytest.mark.end_to_end]

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")
STRANGERS = {
    "host": {"Host": "page.example.org"},
    "origin": {"Origin": "http://page.example.org"},
    "page of another port": {"Origin": "http://127.0.0.1:1"},
    "site": {"Sec-Fetch-Site": "cross-site"},
}
SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def state(local_stack: dict[str, str]) -> dict[str, Any]:
    found = read_local_state(Path(os.environ["MLFLOW_FARGATE_CACHE"]))
    assert found is not None
    return found


def processes_of_the_stack(state: dict[str, Any]) -> Iterator[psutil.Process]:
    stack = psutil.Process(state["pid"])
    yield stack
    for child in stack.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "BENTOML_PORT" not in child.environ():  # a task: a deployment's server, not the stack's
                yield child


def listening_ports(state: dict[str, Any]) -> set[int]:
    return {
        int(connection.laddr.port)
        for process in processes_of_the_stack(state)
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }


def port_of(address: str) -> int:
    return int(urlsplit(address if "//" in address else f"//{address}").port or 0)


def test_every_server_of_the_stack_refuses_foreign_requests(state: dict[str, Any]) -> None:
    ports = listening_ports(state)
    assert len(ports) >= 5

    for port in sorted(ports):
        for kind, headers in STRANGERS.items():
            for path in ("/", SEARCH, "/health"):
                answer = requests.post(
                    f"http://127.0.0.1:{port}{path}", json={"max_results": 1}, headers=headers, timeout=30
                )
                assert answer.status_code == 403, f"port {port} accepts a foreign {kind}"
                assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_mlflow_responds_to_programs_and_to_its_own_pages_but_sends_no_cors_headers(state: dict[str, Any]) -> None:
    url = state["mlflow_tracking_uri"]
    own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}

    for headers in ({}, own):
        answer = requests.post(f"{url}{SEARCH}", json={"max_results": 1}, headers=headers, timeout=30)
        assert answer.json()["experiments"]
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_the_stack_starts_no_server_that_is_not_checked_here(state: dict[str, Any]) -> None:
    known = ("aws_endpoint_url", "registry", "page_url", "mlflow_tracking_uri", "load_balancer_url")

    assert listening_ports(state) == {port_of(state[name]) for name in known}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
def test_a_page_with_a_valid_signature_is_refused(state: dict[str, Any], headers: dict[str, str]) -> None:
    keys = Keys(state["access_key_id"], state["secret_access_key"])
    request = signed("GET", f"{state['aws_endpoint_url']}/mlflow?list-type=2", keys, headers=headers)

    assert send(signed("GET", f"{state['aws_endpoint_url']}/mlflow?list-type=2", keys)).status_code == 200
    assert send(request).status_code == 403


def test_aws_s3_and_registry_only_accept_the_credentials_of_this_stack(state: dict[str, Any]) -> None:
    aws, registry = state["aws_endpoint_url"], f"http://{state['registry']}/v2/"
    others = Keys.random()

    for keys in (Keys("local", "local"), others, Keys(state["access_key_id"], others.secret_access_key)):
        for service, path in (("s3", "/mlflow?list-type=2"), ("sts", "/?Action=GetCallerIdentity&Version=2011-06-15")):
            assert send(signed("GET", f"{aws}{path}", keys, service=service)).status_code == 403
        password = keys.secret_access_key if keys.access_key_id == state["access_key_id"] else keys.registry_password
        assert requests.get(registry, auth=("AWS", password), timeout=30).status_code == 401
    for url in (f"{aws}/mlflow?list-type=2", f"{aws}/?Action=DescribeSubnets", f"{aws}/moto-api/data.json"):
        assert requests.get(url, timeout=30).status_code == 403
    assert requests.post(f"{aws}/moto-api/reset", timeout=30).status_code == 403
    assert requests.get(registry, timeout=30).status_code == 401


def test_clients_find_the_keys_in_the_environment_of_the_stack(local_stack: dict[str, str]) -> None:
    session = boto3.Session()

    assert session.client("s3").list_objects_v2(Bucket="mlflow")["Name"] == "mlflow"
    assert session.client("sts").get_caller_identity()["Account"]
    stranger = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local")
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        stranger.client("ecs").list_clusters()


def test_the_keys_are_readable_only_by_their_owner_and_not_on_a_command_line(
    local_stack: dict[str, str], state: dict[str, Any]
) -> None:
    file = local_state_file(Path(os.environ["MLFLOW_FARGATE_CACHE"]))
    secrets = (state["secret_access_key"], Keys(state["access_key_id"], state["secret_access_key"]).registry_password)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    shown = [word for process in processes_of_the_stack(state) for word in process.cmdline()]
    shown += [requests.get(state["page_url"], timeout=30).text, (file.parent / "stack.log").read_text()]
    shown += [(file.parent / "mlflow" / "mlflow.log").read_text(), json.dumps(list(local_stack))]
    shown += [subprocess.check_output([COMMAND, "local", "status", *more], text=True) for more in ([], ["--json"])]
    assert not [text for text in shown if any(secret in text for secret in secrets)]
