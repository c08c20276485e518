"""Small rules of the story: what a deployment follows, what it can be called."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.rules import check_name, check_same_model, follow_of, needs_another_image, provenance_of
from mlflow_fargate.errors import InvalidOption, ModelNotFound
from mlflow_fargate.resolved_model import ModelFile, Provenance, ResolvedModel
from mlflow_fargate.resources import DeploymentSpec, EndpointSpec, Network, deployment_resources


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


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, False),
        ({"cpu": "512", "environment.A": "b", "strategy": "blue_green"}, False),
        ({"architecture": "X86_64", "compression": "zstd"}, False),  # as it was
        ({"architecture": "ARM64"}, True),
        ({"runtime": "auto"}, True),
        ({"requirements": "shap==0.49.1"}, True),
        ({"base_image": "registry.example.com/python:3.11"}, True),
        ({"labels": "labels.txt"}, True),  # the file may have changed
    ],
)
def test_an_update_without_a_model_builds_another_image_only_for_what_shapes_it(
    options: dict[str, str], needed: bool
) -> None:
    kept, named = parse_config({"labels": "labels.txt", "desired_count": 2}), NamedOptions(options)

    assert needs_another_image(kept, named.over(kept), named) == needed


MODEL = ResolvedModel(
    "models:/churn/1", "models:/churn/1", "s3://b/1", (), {}, name="churn", version="1", run_id="r", registered_ms=1
)


@pytest.mark.parametrize(
    ("now", "has_other_labels", "is_same"),
    [
        (MODEL, False, True),
        (replace(MODEL, registered_ms=2), False, False),
        (replace(MODEL, run_id="s"), False, False),
        (replace(MODEL, files=(ModelFile("model.pkl", 1),)), False, False),
        (replace(MODEL, labels_uri="s3://b/labels.txt"), False, False),
        (replace(MODEL, labels_uri="s3://b/labels.txt"), True, True),
        (replace(MODEL, labels_uri="s3://b/labels.txt", registered_ms=2), True, False),
    ],
)
def test_a_version_is_the_deployed_model_if_its_files_run_and_registration_are(
    now: ResolvedModel, has_other_labels: bool, is_same: bool
) -> None:
    deployed = provenance_of(MODEL, "sklearn")

    with (
        nullcontext()
        if is_same
        else pytest.raises(ModelNotFound, match="churn version 1 is not the model that was deployed")
    ):
        check_same_model(deployed, now, has_other_labels=has_other_labels)


def test_an_earlier_release_did_not_record_when_a_version_was_registered() -> None:
    check_same_model(replace(provenance_of(MODEL, "sklearn"), registered_ms=None), MODEL, has_other_labels=False)


@pytest.mark.parametrize("name", ["", "1st", "a/b", "a b", "../up", "a" * 64, "näme", "a\n"])
def test_a_name_that_cannot_become_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption):
        check_name(name)


def test_deployments_of_two_endpoints_never_share_a_name_in_aws() -> None:
    def names_of(endpoint: str, name: str) -> set[tuple[str, str]]:
        where = EndpointSpec(endpoint, Network("vpc-1", ()), "us-east-1", "123456789012")
        spec = DeploymentSpec(name, where, parse_config({}), "image", Provenance("", "", "", ""), "pinned")
        # Resources within the endpoint's cluster, listener or role are named within it.
        return {
            (it.resource_type, it.name)
            for it in deployment_resources(spec)
            if it.resource_type not in ("listener rule", "service")
        }

    assert not names_of("team", "a-b") & names_of("team-a", "b")
