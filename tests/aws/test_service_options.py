"""Options of task, service and rules on the local stack's AWS: written, read back, deleted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_fargate.aws.resource_types.task_definition import properties_of
from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployment import PLAIN_HTTP, DeploymentStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import ForeignResource, InvalidOption
from mlflow_fargate.image.layers.paths import SETTINGS
from mlflow_fargate.resolved_model import Provenance
from support.deployer import count_writes, create, use_account

MANY = {
    "ephemeral_storage_gib": 50,
    "efs": {"/mnt/data": "fs-0a1b2c3d:fsap-0a1b2c3d4e5f:ro", "/mnt/more": "fs-0a1b2c3d:/models"},
    "container_health_check": "true",
    "spot": True,
    "on_demand_base": 1,
    "tags": {"team": "pricing"},
    "host": "churn.example.com",
}


def call(deployer: Deployer, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    return deployer.account.session.call(service, operation, **parameters)


def service_of(deployer: Deployer) -> dict[str, Any]:
    answer = call(
        deployer, "ecs", "describe_services", cluster="mlflow-fargate-default", services=["churn"], include=["TAGS"]
    )
    found: dict[str, Any] = answer["services"][0]
    return found


@pytest.mark.slow
def test_options_are_written_and_an_update_without_a_difference_writes_nothing(deployer: Deployer) -> None:
    create(deployer, **MANY, wait=False)

    described = call(deployer, "ecs", "describe_task_definition", taskDefinition=deployer.get("churn").task_definition)
    task, service = described["taskDefinition"], service_of(deployer)
    mounts = {mount["containerPath"]: mount["readOnly"] for mount in task["containerDefinitions"][0]["mountPoints"]}
    assert task["ephemeralStorage"] == {"sizeInGiB": 50}
    assert mounts == {"/tmp": False, "/mnt/data": True, "/mnt/more": False}
    assert [item.get("efsVolumeConfiguration", {}).get("rootDirectory") for item in task["volumes"]][2] == "/models"
    assert task["containerDefinitions"][0]["healthCheck"]["command"] == ["CMD-SHELL", "true"]
    assert [item["capacityProvider"] for item in service["capacityProviderStrategy"]] == ["FARGATE", "FARGATE_SPOT"]
    assert {"key": "team", "value": "pricing"} in service["tags"]
    assert count_writes(deployer, lambda it: it.update("churn", None, None, NamedOptions({"wait": False}))) == Counter()


@pytest.mark.slow
def test_a_task_has_the_images_user_and_group_and_no_capabilities(deployer: Deployer) -> None:
    create(deployer, wait=False)

    described = call(deployer, "ecs", "describe_task_definition", taskDefinition=deployer.get("churn").task_definition)
    container = described["taskDefinition"]["containerDefinitions"][0]
    assert container["user"] == SETTINGS["User"] == "65532:65532"
    assert container["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
    assert "user and capabilities" not in changes_to(deployer, container)
    for weaker in ({"user": "65532"}, {"linuxParameters": {}}):
        assert changes_to(deployer, {**container, **weaker}) == {"user and capabilities": ("outdated", "updated")}


def changes_to(deployer: Deployer, container: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """What a plan would change in the deployment's task definition, if it had this container."""
    arn = deployer.get("churn").task_definition
    described = call(deployer, "ecs", "describe_task_definition", taskDefinition=arn)["taskDefinition"]
    desired = properties_of(described, {})
    found = properties_of({**described, "containerDefinitions": [container]}, {})
    return {name: (old, new) for name, old, new in desired.changes_since(found)} if desired != found else {}


@pytest.mark.slow
def test_a_host_leads_to_its_deployment_beside_the_path(deployer: Deployer) -> None:
    create(deployer, host="churn.example.com", **{"environment.VERSION": "1"})
    address = deployer.get("churn").url.removesuffix("/churn")

    by_host = requests.get(f"{address}/anything", headers={"Host": "churn.example.com"}, timeout=10)
    by_path = requests.get(f"{address}/churn/anything", timeout=10)
    neither = requests.get(f"{address}/anything", timeout=10)

    assert (by_host.json()["version"], by_path.json()["version"], neither.status_code) == ("1", "1", 404)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["churn.example.com", "*.example.com", None])
def test_on_https_a_deployment_is_known_by_the_host_that_its_certificate_covers(
    deployer: Deployer, host: str | None
) -> None:
    certificate = deployer.account.session.call("acm", "request_certificate", DomainName="*.example.com")
    team = replace(deployer, target=replace(deployer.target, endpoint="team"))
    options = {"certificate_arn": certificate["CertificateArn"], "wait": False} | ({"host": host} if host else {})
    try:
        create(team, **options)
        found = team.get("churn")
    finally:
        team.delete("churn")
        team.delete_endpoint("team")

    assert re.fullmatch(r"https://[^/]+/churn", found.load_balancer_url)
    assert not found.exposes_key
    if host == "churn.example.com":
        assert re.fullmatch(r"https://churn\.example\.com(:\d+)?/churn", found.url)
    else:
        assert found.url == found.load_balancer_url


@pytest.mark.slow
def test_a_deployment_that_requires_https_is_refused_without_it_before_anything_is_created(deployer: Deployer) -> None:
    def refused(counted: Deployer) -> None:
        with pytest.raises(InvalidOption) as caught:
            create(counted, require_https=True)
        assert "Endpoint 'default' does not use HTTPS, which require_https=true demands." in caught.value.message
        assert "certificate_arn=ARN" in (caught.value.hint or "")

    assert count_writes(deployer, refused) == {}


@pytest.mark.slow
def test_an_endpoint_with_a_certificate_meets_the_requirement_of_https(deployer: Deployer) -> None:
    certificate = deployer.account.session.call("acm", "request_certificate", DomainName="*.example.com")
    team = replace(deployer, target=replace(deployer.target, endpoint="team"))
    try:
        create(team, certificate_arn=certificate["CertificateArn"], require_https=True, wait=False)
        assert team.get("churn").settings.require_https
    finally:
        team.delete("churn")
        team.delete_endpoint("team")


@pytest.mark.parametrize(
    ("url", "secret", "is_exposed"),
    [
        ("http://lb.us-east-2.elb.amazonaws.com/churn", "arn:s", True),
        ("http://lb.us-east-2.elb.amazonaws.com/churn", None, False),
        ("https://churn.example.com/churn", "arn:s", False),
        ("http://127.0.0.1:8000/churn", "arn:s", False),
    ],
)
def test_a_key_is_exposed_by_plain_http_to_another_machine(url: str, secret: str | None, is_exposed: bool) -> None:
    status = DeploymentStatus(
        *("churn", "default", url, url, "COMPLETED", "", 1, 1, "image", Provenance("", "", "", "")),
        *(parse_config(None), "pinned", "arn:t", "", ""),
        api_key_secret=secret,
    )

    assert status.exposes_key is is_exposed


@pytest.mark.slow
def test_create_and_status_warn_of_a_key_over_plain_http(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    use_account(monkeypatch, deployer)
    create(deployer, auth="api_key")
    command = ["status", "-t", "fargate:/us-east-1", "--name", "churn"]
    at_home = CliRunner().invoke(main, command)
    # As on AWS, where the load balancer is on another machine.
    monkeypatch.setattr(DeploymentStatus, "exposes_key", property(lambda status: status.api_key_secret is not None))
    deployer.update("churn", None, None, NamedOptions({"environment.A": "1"}))
    shown = CliRunner().invoke(main, command)

    assert "WARNING" not in at_home.output
    assert PLAIN_HTTP in deployer.progress.lines[-1]  # type: ignore[attr-defined]
    assert PLAIN_HTTP in shown.stderr and PLAIN_HTTP not in shown.stdout


@pytest.mark.exhaustive
def test_tags_capacity_and_host_follow_an_update(deployer: Deployer) -> None:
    create(deployer, **MANY, wait=False)
    changes = {"tags": {"stage": "live"}, "spot": "", "on_demand_base": "", "host": "", "wait": False}

    deployer.update("churn", None, None, NamedOptions(changes))

    service = service_of(deployer)
    keys = {tag["key"] for tag in service["tags"]}
    assert "stage" in keys and "team" not in keys
    assert [item["capacityProvider"] for item in service["capacityProviderStrategy"]] == ["FARGATE"]
    assert count_writes(deployer, lambda it: it.update("churn", None, None, NamedOptions({"wait": False}))) == Counter()


@pytest.mark.exhaustive
def test_a_host_that_leads_elsewhere_is_refused(deployer: Deployer) -> None:
    create(deployer, wait=False)
    create(deployer, name="other", wait=False)
    deployer.update("churn", None, None, NamedOptions({"host": "one.example.com", "wait": False}))

    with pytest.raises(ForeignResource, match="host rule"):
        deployer.update("other", None, None, NamedOptions({"host": "one.example.com", "wait": False}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"efs": {"/tmp/x": "fs-0a1b2c3d"}}, "not a valid mount path"),
        ({"efs": {"/mnt/../etc": "fs-0a1b2c3d"}}, "not a valid mount path"),
        ({"efs": {"/mnt/data": "nfs://somewhere"}}, "must be FILE_SYSTEM"),
        ({"on_demand_base": 1}, "requires spot=true"),
        ({"tags": {"managed-by": "me"}}, "is reserved"),
        ({"tags": {"aws:x": "me"}}, "is reserved"),
        ({"tags": {"team": "a\nb"}}, "is not a valid tag"),
        ({"host": "a b"}, "host"),
        ({"ephemeral_storage_gib": 20}, "ephemeral_storage_gib"),
        ({"role_path": "ml"}, "role_path"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        parse_config(options)
