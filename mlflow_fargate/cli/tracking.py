"""`mlflow-fargate tracking`: uses a tracking server that infrastructure/tracking-server.yaml created."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import click

from mlflow_fargate.cli.deployment.options import target_option
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.target import NETWORK_VARIABLES, parse_target

_TUNNEL_URI = "http://localhost:5000"  # the near end of the output TunnelCommand
_OUTPUTS = {
    "MLFLOW_TRACKING_URI": "TrackingUri",
    "FARGATE_ARTIFACT_BUCKET": "ArtifactBucket",
    **dict(zip(NETWORK_VARIABLES, ("VpcId", "SubnetIds", "TaskSecurityGroupId"), strict=True)),
}
_SECRETS = {"admin": "AdminSecretArn", "ci": "CiSecretArn"}
_READ_FIELD = """python3 -c 'import json, sys; print(json.load(sys.stdin)["password"])'"""


@click.group()
def tracking() -> None:
    """Use a tracking server that a CloudFormation stack created."""


@tracking.command(short_help="Print variables for MLflow and for create, from a stack's outputs.")
@click.argument("stack")
@target_option
@click.option("--tunnel", is_flag=True, help=f"Use {_TUNNEL_URI}, where the stack's TunnelCommand leads to the server.")
@click.option(
    "--user", type=click.Choice(list(_SECRETS)), default="admin", show_default=True, help="MLflow user to log in as."
)
def env(stack: str, target: str, tunnel: bool, user: str) -> None:
    """Print variables for MLflow and for `mlflow deployments create`, from the outputs of the stack STACK.

    \b
      eval "$(mlflow-fargate tracking env STACK)"

    New deployments then use the stack's network without further options. The password is not printed: the shell that
    evaluates the lines reads it with the AWS CLI.
    """
    from mlflow_fargate.aws.account import Account  # noqa: PLC0415

    parsed = parse_target(target)
    account = Account(parsed)
    outputs = _usable(stack, account.region, account.stack(stack))
    if tunnel:
        outputs["TrackingUri"] = _TUNNEL_URI
    for name, output in _OUTPUTS.items():
        click.echo(f"export {name}={shlex.quote(outputs[output])}")
    for line in _login(user, outputs, account.region, parsed.profile):
        click.echo(line)


def _usable(stack: str, region: str, found: tuple[str, dict[str, str]] | None) -> dict[str, str]:
    """Returns the stack's outputs; InvalidOption if the server cannot be used."""
    if found is None:
        raise InvalidOption(
            f"There is no stack '{stack}' in {region}.",
            hint="check the name and the region (-t fargate:/REGION); infrastructure/tracking-server.yaml creates one",
        )
    status, outputs = found
    if status in {"CREATE_IN_PROGRESS", "REVIEW_IN_PROGRESS"}:
        hint = f"wait for it: aws cloudformation wait stack-create-complete --region {region} --stack-name {stack}"
        if status == "REVIEW_IN_PROGRESS":
            hint = "execute its change set in the console, or use aws cloudformation deploy again"
        raise InvalidOption(f"Stack '{stack}' is in {status}: it is not created yet.", hint=hint)
    if status.startswith(("ROLLBACK_", "CREATE_FAILED", "DELETE_")):
        events = f"aws cloudformation describe-stack-events --region {region} --stack-name {stack}"
        hint = f"look for the cause: {events}; then delete the stack and create it again"
        raise InvalidOption(f"Stack '{stack}' is in {status}, so it has no usable server.", hint=hint)
    if missing := [name for name in _OUTPUTS.values() if not outputs.get(name)]:
        hint = "name a stack that infrastructure/tracking-server.yaml created, or update it with the current file"
        raise InvalidOption(f"Stack '{stack}' has no output {', '.join(missing)}.", hint=hint)
    if not status.endswith("_COMPLETE"):
        click.echo(f"Stack '{stack}' is in {status}: the server may not respond.", err=True)
    return outputs


def _login(user: str, outputs: Mapping[str, str], region: str, profile: str | None) -> Iterator[str]:
    secret = outputs.get(_SECRETS[user])
    if secret is None:
        said = f"The stack has no output {_SECRETS[user]}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        click.echo(said, err=True)
        return
    read = ["aws", "secretsmanager", "get-secret-value", "--region", region, f"--secret-id={secret}"]
    read += [*(("--profile", profile) if profile else ()), "--query", "SecretString", "--output", "text"]
    yield f"export MLFLOW_TRACKING_USERNAME={user}"
    yield f'export MLFLOW_TRACKING_PASSWORD="$({shlex.join(read)} | {_READ_FIELD})"'
