"""Small rules of the story: what a deployment follows, what it can be called."""

from __future__ import annotations

import pytest

from mlflow_fargate.deployer import check_name, follow_of
from mlflow_fargate.errors import InvalidOption


@pytest.mark.parametrize(
    ("uri", "followed"),
    [
        ("models:/churn/Production", "Production"),
        ("models:/churn/production", "Production"),
        ("models:/churn@champion", "@champion"),
        ("models:/churn/3", "pinned"),
        ("models:/churn/latest", "pinned"),
        ("models:/m-0123456789abcdef", "pinned"),
        ("runs:/0123/model", "pinned"),
        ("s3://bucket/Production", "pinned"),
    ],
)
def test_a_deployment_follows_what_its_model_uri_says(uri: str, followed: str) -> None:
    assert follow_of(uri) == followed


@pytest.mark.parametrize("name", ["", "1st", "a/b", "a b", "../up", "a" * 64, "näme", "a\n"])
def test_a_name_that_cannot_become_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption):
        check_name(name)
