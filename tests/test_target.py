"""The target URI: every spelling of a place, and what is said about what is none."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import FargateError, InvalidOption, LocalStackError
from mlflow_fargate.target import local_state_file, parse_target


@pytest.mark.parametrize(
    ("uri", "region", "endpoint", "profile"),
    [
        ("fargate", None, "default", None),
        ("fargate:/eu-west-1", "eu-west-1", "default", None),
        ("fargate:eu-west-1", "eu-west-1", "default", None),
        ("fargate://eu-west-1", "eu-west-1", "default", None),
        ("FARGATE:/us-gov-west-1/prod", "us-gov-west-1", "prod", None),
        ("fargate://eu-west-1/prod?profile=ml", "eu-west-1", "prod", "ml"),
        ("fargate:?profile=ml", None, "default", "ml"),
    ],
)
def test_every_spelling_of_a_target_is_understood(
    uri: str, region: str | None, endpoint: str, profile: str | None
) -> None:
    target = parse_target(uri, environ={})

    assert (target.region, target.endpoint, target.profile) == (region, endpoint, profile)
    assert target.environment.aws_endpoint_url is None


@pytest.mark.parametrize(
    "uri", ["sagemaker", "fargate:/nowhere", "fargate:/eu-west-1/a/b", "fargate:/eu-west-1/Prod!", "fargate:?user=me"]
)
def test_what_is_no_target_is_refused(uri: str) -> None:
    with pytest.raises(InvalidOption):
        parse_target(uri, environ={})


@given(st.text())
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    with contextlib.suppress(FargateError):
        parse_target(text, environ={"MLFLOW_FARGATE_CACHE": "/nonexistent"})


def test_the_local_target_without_a_running_stack_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="mlflow-fargate local up"):
        parse_target("fargate:/local", environ={"MLFLOW_FARGATE_CACHE": str(tmp_path)})


def test_the_local_target_is_where_the_running_stack_says(tmp_path: Path) -> None:
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    state = {
        "pid": os.getpid(),
        "region": "us-east-1",
        "aws_endpoint_url": "http://127.0.0.1:1",
        "access_key_id": "local",
        "secret_access_key": "hush",
        "registry_mirrors": {"public.ecr.aws": "127.0.0.1:2"},
        "session_manager_plugin": ["python", "plugin.py"],
    }
    path.write_text(json.dumps(state))

    target = parse_target("fargate:/local/team", environ={"MLFLOW_FARGATE_CACHE": str(tmp_path)})

    assert (target.region, target.endpoint) == ("us-east-1", "team")
    assert target.environment.aws_endpoint_url == "http://127.0.0.1:1"
    assert target.environment.registry_mirrors == {"public.ecr.aws": "127.0.0.1:2"}
    assert target.environment.session_manager_plugin == ("python", "plugin.py")
    assert "hush" not in repr(target)


def test_a_stack_that_died_without_a_word_is_not_running(tmp_path: Path) -> None:
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": 2**22 + 12345}))

    with pytest.raises(LocalStackError):
        parse_target("fargate:/local", environ={"MLFLOW_FARGATE_CACHE": str(tmp_path)})


@pytest.mark.parametrize(
    ("region", "meant"), [("us-east1", "'us-east-1'"), ("eu-west", "'eu-west-1'"), ("locl", "'local'")]
)
def test_a_mistyped_region_gets_a_suggestion(region: str, meant: str) -> None:
    with pytest.raises(InvalidOption, match=f"did you mean .*{meant}"):
        parse_target(f"fargate:/{region}")
