"""Every request passes botocore's validators, whatever the options; AWS is not called.

A session that answers by the service's model replaces AWS: what is checked is the shape of each request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import botocore.session
import pytest
from botocore.model import Shape
from botocore.validate import ParamValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_fargate.aws import account as account_module
from mlflow_fargate.aws import tags
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.resource_types.strategy import deployment_configuration, read_strategy, refusal_of, refusal_tags
from mlflow_fargate.config import FARGATE_SIZES, parse_config
from mlflow_fargate.config.service_options import LOG_RETENTION_DAYS
from mlflow_fargate.plan import Found, make_plan
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import DeploymentSpec, EndpointSpec, Network, deployment_resources, endpoint_resources
from mlflow_fargate.target import Target

WORD = st.text("abcXYZ019_-", min_size=1, max_size=12)
ARN = st.builds("arn:aws:{}:eu-west-1:123456789012:{}".format, st.sampled_from(["iam", "acm"]), WORD)
SECRETS = st.dictionaries(WORD, st.builds("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{}".format, WORD))
SIZES = st.sampled_from([(cpu, memory) for cpu, sizes in FARGATE_SIZES.items() for memory in sizes])
PLAIN = {
    "architecture": st.sampled_from(["X86_64", "ARM64"]),
    "port": st.integers(1024, 65535),
    "environment": st.dictionaries(st.text("ABC", min_size=1, max_size=8), st.text(max_size=20), max_size=3),
    "secrets": SECRETS,
    "execution_role_arn": ARN,
    "task_role_arn": ARN,
    "permissions_boundary": st.builds("arn:aws:iam::123456789012:policy/{}".format, WORD),
    "role_path": st.builds("/{}/".format, WORD),
    "certificate_arn": ARN,
    "stop_timeout_seconds": st.integers(2, 120),
    "ephemeral_storage_gib": st.integers(21, 200),
    "container_health_check": st.text(min_size=1, max_size=30),
    "efs": st.dictionaries(
        st.builds("/mnt/{}".format, WORD),
        st.sampled_from(["fs-0a1b2c3d", "fs-0a1b2c3d:ro", "fs-0a1b2c3d:fsap-0a1b2c3d4e", "fs-0a1b2c3d:/x:ro"]),
        max_size=2,
    ),
    "desired_count": st.integers(0, 5000),
    "spot": st.just(True),
    "tags": st.dictionaries(WORD, WORD, max_size=3),
    "host": st.sampled_from(["churn.example.com", "*.example.com"]),
    "auth": st.sampled_from(["api_key", "none"]),
    "follow": st.text(max_size=20),
    "log_retention_days": st.sampled_from(LOG_RETENTION_DAYS),
    "health_check_grace_seconds": st.integers(0, 2**31 - 1),
    "deregistration_delay_seconds": st.integers(0, 3600),
    "assign_public_ip": st.booleans(),
    "enable_execute_command": st.booleans(),
}
SCALING = {
    "min_count": st.integers(0, 10),
    "target_memory_percent": st.floats(1, 100),
    "target_requests_per_minute": st.floats(1, 1e6),
    "scale_in_cooldown_seconds": st.integers(0, 3600),
    "schedule": st.dictionaries(WORD, st.sampled_from(["cron(0 20 * * ? *) 0", "rate(1 day) 1-4"]), max_size=2),
}
TENTHS = st.integers(30, 1000).map(lambda tenth: tenth / 10)
STRATEGIES = st.one_of(
    st.fixed_dictionaries({"strategy": st.just("blue_green")}),
    st.fixed_dictionaries(
        {"strategy": st.just("canary")},
        optional={"canary_percent": TENTHS, "canary_bake_time_minutes": st.integers(0, 1440)},
    ),
    st.fixed_dictionaries(
        {"strategy": st.just("linear")},
        optional={"linear_step_percent": TENTHS, "linear_step_bake_time_minutes": st.integers(0, 1440)},
    ),
)
OF_ALL_STRATEGIES = {
    "bake_time_minutes": st.integers(0, 1440),
    "test_green": st.booleans(),
    "test_timeout_minutes": st.integers(1, 20160),
    "infrastructure_role_arn": ARN,
}
NOT_WITH_A_STRATEGY = ("host", "target_requests_per_minute")


@st.composite
def shifts(draw: st.DrawFn) -> dict[str, Any]:
    """The options of a strategy that shifts traffic."""
    return {**draw(STRATEGIES), **draw(st.fixed_dictionaries({}, optional=OF_ALL_STRATEGIES))}


@st.composite
def specs(draw: st.DrawFn) -> DeploymentSpec:
    options = draw(st.fixed_dictionaries({}, optional=PLAIN))
    options["cpu"], options["memory"] = draw(SIZES)
    if draw(st.booleans()):
        options |= draw(st.fixed_dictionaries({"max_count": st.integers(10, 5000)}, optional=SCALING))
    if options.get("enable_execute_command"):
        options["task_role_arn"] = draw(ARN)
    if options.get("spot"):
        options["on_demand_base"] = draw(st.integers(0, 5))
    if draw(st.booleans()):
        options = {key: value for key, value in options.items() if key not in NOT_WITH_A_STRATEGY} | draw(shifts())
    config = parse_config(options)
    endpoint = EndpointSpec(
        draw(st.sampled_from(["default", "team-a"])),
        Network("vpc-1", ("subnet-1",), {}, ("subnet-1", "subnet-2"), assigns_public_ip=draw(st.booleans())),
        "eu-west-1",
        "123456789012",
        scheme=draw(st.sampled_from(["internet-facing", "internal"])),
        allowed_cidrs=draw(st.sampled_from([None, ("10.0.0.0/8", "fd00::/8")])),
        certificate_arn=config.certificate_arn,
        execution_role_arn=config.execution_role_arn,
        permissions_boundary=config.permissions_boundary,
        role_path=config.role_path,
        infrastructure_role_arn=config.infrastructure_role_arn,
        shifts_traffic=config.shifts_traffic,
    )
    name = draw(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,62}", fullmatch=True))
    provenance = Provenance(f"models:/{name}/Production", f"models:/{name}/7", "f" * 32, "python_function", name, "7")
    return DeploymentSpec(name, endpoint, config, "registry/image@sha256:" + "0" * 64, provenance, config.follow or "")


class CheckingSession:
    """Refuses what botocore would refuse, and answers with one of everything, as the service's model says."""

    region, account = "eu-west-1", "123456789012"

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.own_changes: dict[tuple[str, str], dict[str, Any]] = {}
        self._models: dict[str, Any] = {}

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        if service not in self._models:
            self._models[service] = botocore.session.get_session().get_service_model(service)
        model = self._models[service].operation_model("".join(part.capitalize() for part in operation.split("_")))
        report = ParamValidator().validate(parameters, model.input_shape)
        assert not report.has_errors(), f"{service} {operation}: {report.generate_report()}"
        self.operations.add(model.name)
        return example_of(model.output_shape) if model.output_shape else {}

    def find(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        return self.call(service, operation, **parameters)

    def delete(self, service: str, operation: str, /, **parameters: Any) -> None:
        self.call(service, operation, **parameters)

    def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> Iterator[Any]:
        self.call(service, operation, **parameters)
        return iter(())


def example_of(shape: Shape, depth: int = 0) -> Any:
    """A value of that shape: one item in each list, a word for each text."""
    if depth > 8:
        return None
    if shape.type_name == "structure":
        return {name: example_of(member, depth + 1) for name, member in shape.members.items()}  # type: ignore[attr-defined]
    if shape.type_name == "list":
        return [example_of(shape.member, depth + 1)]  # type: ignore[attr-defined]
    examples = {
        "boolean": True,
        "timestamp": datetime(2026, 1, 1, tzinfo=timezone.utc),
        "map": {},
        "string": "arn:aws:x:eu-west-1:123456789012:y/z/1",
    }
    return examples.get(shape.type_name, 1)


@pytest.fixture(scope="module")
def session() -> CheckingSession:
    return CheckingSession()


@pytest.fixture(scope="module")
def account(session: CheckingSession) -> Iterator[Account]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account_module, "AwsSession", lambda target: session)
        yield Account(Target("fargate:/eu-west-1"))


def ask_for_everything(account: Account, before: DeploymentSpec, after: DeploymentSpec) -> None:
    """Creates, changes and deletes each resource of `after`; what is changed was created with `before`."""
    endpoint = replace(before.endpoint, name=after.endpoint.name)
    before = replace(before, name=after.name, endpoint=endpoint)
    old = {
        (item.resource_type, item.name): item for item in (*endpoint_resources(endpoint), *deployment_resources(before))
    }
    ids = {"vpc": "vpc-1"}
    for resource in (*endpoint_resources(after.endpoint), *deployment_resources(after)):
        if not resource.is_wanted:
            continue
        resource_type = account._resource_types.by_name[resource.resource_type]
        ids[resource.resource_type] = resource_type.create(resource, ids)
        was = old.get((resource.resource_type, resource.name), resource)
        found = Found("arn:aws:x:eu-west-1:1:log-group:service/cluster/name", was.properties)
        change = make_plan([resource], {(resource.resource_type, resource.name): found}).changes[0]
        if was.is_wanted and change.action == "change":
            resource_type.change(resource, found, ids)
        resource_type.delete(found)


@given(options=shifts(), said=st.text())
def test_a_strategy_is_read_from_a_service_as_it_was_written_also_where_it_was_refused(
    options: dict[str, Any], said: str
) -> None:
    wanted = parse_config(options).strategy_settings
    rolls = {"tags": tags.small(refusal_tags(wanted, said)), "deploymentConfiguration": {"strategy": "ROLLING"}}

    assert read_strategy({"deploymentConfiguration": deployment_configuration(wanted)}) == wanted
    assert read_strategy(rolls) == wanted
    assert str(wanted["strategy"]) in str(refusal_of(rolls))
    assert parse_config(wanted).strategy_settings == wanted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=specs(), after=specs())
def test_botocore_accepts_every_request_for_any_options(
    account: Account, before: DeploymentSpec, after: DeploymentSpec
) -> None:
    ask_for_everything(account, before, after)


def test_the_requests_that_matter_are_among_them(account: Account, session: CheckingSession) -> None:
    endpoint = EndpointSpec("default", Network("vpc-1", ("subnet-1", "subnet-2")), "eu-west-1", "123456789012")
    provenance = Provenance("models:/m/1", "models:/m/1", "f" * 32, "python_function")
    before, after = (
        DeploymentSpec("m", endpoint, parse_config({"max_count": 4, "cpu": cpu, "memory": 2048}), "i", provenance, "")
        for cpu in (512, 1024)
    )

    ask_for_everything(account, before, after)

    made = {"RegisterTaskDefinition", "CreateService", "UpdateService", "CreateRule", "PutScalingPolicy", "CreateRole"}
    assert made <= session.operations
