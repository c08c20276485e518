"""The option inference_log: what is refused before a rollout, the role that it makes, and what of it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.costs import read_prices
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.rules import check_log_columns
from mlflow_fargate.doctor.checks import check_inference_log
from mlflow_fargate.doctor_facts import Unknown
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.resolved_model import ResolvedModel
from support.deployer import create, use_account

URL = "s3://logs/predictions"
INPUTS = json.dumps([{"name": "age", "type": "long"}, {"name": "email", "type": "string"}])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inference_log": "https://logs/x"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": "s3://logs"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": "s3://logs//x"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": "s3://Logs/x"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": "s3://logs/*"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": "s3://logs/${aws:username}"}, "must be s3://BUCKET/PREFIX"),
        ({"inference_log": URL, "inference_log_sampling_fraction": "0"}, "must be at least 0.0001"),
        ({"inference_log": URL, "inference_log_sampling_fraction": "1.1"}, "must be at most 1"),
        ({"inference_log": URL, "inference_log_max_body": "1001"}, "must be at most 1000 (kB)"),
        ({"inference_log_drop": "email"}, "inference_log_drop requires inference_log=s3://BUCKET/PREFIX"),
        (
            {"inference_log": URL, "inference_log_drop": "email", "inference_log_hash": "email"},
            "inference_log_drop and inference_log_hash both name email",
        ),
        ({"inference_log": URL, "stop_timeout_seconds": 5}, "inference_log requires stop_timeout_seconds=10 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        parse_config(options)

    assert said in refused.value.message


def test_without_a_record_its_other_options_are_reset_with_it() -> None:
    kept = parse_config({"inference_log": URL, "inference_log_drop": "email", "cpu": 512, "memory": 1024})

    assert parse_config({"inference_log": ""}, kept).named == {"cpu": 512, "memory": 1024}


def model(inputs: str | None) -> ResolvedModel:
    metadata = {"signature": {"inputs": inputs}} if inputs else {}
    return ResolvedModel("models:/churn/1", "models:/churn/1", "s3://m", (), metadata, name="churn", version="1")


@pytest.mark.parametrize(
    ("inputs", "hint"),
    [
        (INPUTS, "did you mean 'email'?"),
        ('[{"name": "age"}]', "its inputs are age"),
        ('[{"type": "tensor"}]', "its inputs are without names"),
    ],
)
def test_a_column_that_is_not_in_the_signature_is_refused(inputs: str, hint: str) -> None:
    config = parse_config({"inference_log": URL, "inference_log_hash": "emial"})
    with pytest.raises(
        InvalidOption, match="Option inference_log_hash: 'emial' is not an input of churn version 1"
    ) as it:
        check_log_columns(config, model(inputs))

    assert it.value.hint == hint
    check_log_columns(config, model(None))
    check_log_columns(replace_service(config), model(INPUTS))
    check_log_columns(parse_config({"inference_log": URL, "inference_log_drop": "email"}), model(INPUTS))


def replace_service(config: Any) -> Any:
    return config.model_copy(update={"service": "mine.py"})


@pytest.mark.parametrize(
    ("found", "verdict", "said"),
    [
        (None, "OK", "the bucket is in this region"),
        (Unknown("denied"), "SKIP", "denied"),
        (InvalidOption("There is no bucket.", hint="create it"), "FAIL", "There is no bucket."),
    ],
)
def test_the_doctor_says_what_a_deployment_would_be_refused_with(found: Any, verdict: str, said: str) -> None:
    finding = check_inference_log(found, URL)

    assert finding.verdict == verdict and said in finding.said


# On the local stack's AWS


def refusal(deployer: Deployer, **options: Any) -> InvalidOption:
    with pytest.raises(InvalidOption) as refused:
        create(deployer, inference_log=URL, **options)
    assert list(deployer.list()) == []
    return refused.value


def answering(deployer: Deployer, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> Deployer:
    """A deployer for which AWS answers these operations so."""
    account = Account(deployer.target)
    call = account.session.call

    def answered(service: str, operation: str, /, **parameters: Any) -> Any:
        answer = answers.get(operation)
        if isinstance(answer, Exception):
            raise answer
        return answer or call(service, operation, **parameters)

    monkeypatch.setattr(account.session, "call", answered)
    pages = account.session.pages
    monkeypatch.setattr(
        account.session,
        "pages",
        lambda service, operation, key, /, **more: (
            iter(answers[operation][key]) if operation in answers else pages(service, operation, key, **more)
        ),
    )
    return replace(deployer, account=account)


@pytest.mark.slow
def test_a_bucket_that_cannot_be_written_is_found_before_anything_is_created(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = refusal(deployer)
    elsewhere = refusal(answering(deployer, monkeypatch, {"head_bucket": {"BucketRegion": "eu-central-1"}}))
    denied = AwsError("Forbidden", operation="s3:HeadBucket", code="403")
    foreign = refusal(answering(deployer, monkeypatch, {"head_bucket": denied}))
    decision = {"EvalActionName": "s3:PutObject", "EvalDecision": "implicitDeny"}
    simulated = {"simulate_principal_policy": {"EvaluationResults": [decision]}, "head_bucket": {"BucketRegion": None}}
    role = "arn:aws:iam::123456789012:role/churn"
    powerless = refusal(answering(deployer, monkeypatch, simulated), task_role_arn=role)

    assert "there is no bucket 'logs'" in absent.message and "aws s3 mb s3://logs --region us-east-1" in str(
        absent.hint
    )
    assert "the bucket is in eu-central-1, the endpoint in us-east-1" in elsewhere.message
    assert "AWS denies access to the bucket 'logs'" in foreign.message
    assert f"the tasks' role {role} is not allowed to write there" in powerless.message


@pytest.mark.slow
def test_the_record_has_a_role_for_its_prefix_which_is_shown_and_ends_with_the_deployment(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = deployer.account.session
    session.call("s3", "create_bucket", Bucket="logs")
    create(deployer, inference_log=URL, inference_log_sampling_fraction=0.25, wait=False)
    (role,) = (one for one in session.call("iam", "list_roles")["Roles"] if "_log-churn-" in one["RoleName"])
    name = role["RoleName"]
    policy = session.call("iam", "get_role_policy", RoleName=name, PolicyName="mlflow-fargate-inference-log")
    tags = session.call("iam", "list_role_tags", RoleName=name)["Tags"]
    definition = session.call("ecs", "describe_task_definition", taskDefinition=deployer.get("churn").task_definition)
    said = "\n".join(deployer.progress.lines)  # type: ignore[attr-defined]
    use_account(monkeypatch, deployer)
    shown = CliRunner().invoke(main, ["status", "-t", "fargate:/us-east-1", "--name", "churn"])
    again, _ = deployer.preview("churn", None, None, NamedOptions())
    off, _ = deployer.preview("churn", None, None, NamedOptions({"inference_log": ""}))
    deployer.delete("churn")

    assert policy["PolicyDocument"]["Statement"] == [
        {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": "arn:aws:s3:::logs/predictions/*"}
    ]
    assert {"Key": "managed-by", "Value": "mlflow-fargate"} in tags
    assert definition["taskDefinition"]["taskRoleArn"] == role["Arn"]
    assert f"create inference log role {name}" in said
    assert "inference log: 25% of requests and answers are recorded in s3://logs/predictions" in said
    assert "inference_log" in shown.output and URL in shown.output
    assert again.is_empty
    assert [change.resource_type for change in off.changes if change.action == "delete"] == []
    assert session.find("iam", "get_role", RoleName=name) is None
    assert session.call("s3", "head_bucket", Bucket="logs")


def test_the_writes_of_a_record_are_in_the_cost() -> None:
    assert 0.2 < 730 * 60 * read_prices().s3_put < 0.25
