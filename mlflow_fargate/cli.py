"""The command `mlflow-fargate`: what MLflow's own command line has no verb for.

Deploying itself is `mlflow deployments … -t fargate`. Commands import what they need when they run, because the local
stack and the webhook service are extras.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from mlflow_fargate.errors import FargateError, LocalStackError
from mlflow_fargate.progress import progress_for_stderr
from mlflow_fargate.target import cache_directory, read_local_state

# Options of `webhook serve` → the environment variables that say the same.
_SETTINGS = {
    "target": "FARGATE_TARGET",
    "host": "FARGATE_WEBHOOK_HOST",
    "port": "FARGATE_WEBHOOK_PORT",
    "poll_seconds": "FARGATE_WEBHOOK_POLL_SECONDS",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-fargate")
def main() -> None:
    """Deploy MLflow models to AWS Fargate.

    Deploy with MLflow's command: mlflow deployments create -t fargate --name NAME -m models:/MODEL/Production
    """


@main.group()
def local() -> None:
    """The small AWS on this machine: try everything without an account (target fargate:/local)."""


@local.command()
@click.option("--detach", "-d", is_flag=True, help="Return when it runs, and leave it running.")
@click.option("--serve-artifacts", is_flag=True, help="Let the tracking server pass artifacts on instead of S3 itself.")
def up(detach: bool, serve_artifacts: bool) -> None:
    """Start AWS, image registry, load balancer and MLflow; Ctrl-C stops them."""
    stack = _import_stack()
    if detach:
        state = stack.start_detached(cache_directory(), progress_for_stderr(), serve_artifacts=serve_artifacts)
        click.echo(stack.describe(state))
    else:
        stack.run(cache_directory(), progress_for_stderr(), serve_artifacts=serve_artifacts)


@local.command()
def down() -> None:
    """Stop the stack. Models, images and runs stay on disk; deployments end with it."""
    if _import_stack().stop_running(cache_directory(), progress_for_stderr()):
        click.echo("stopped")
    else:
        click.echo("the local stack was not running")


@local.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(as_json: bool) -> None:
    """What runs, and at which addresses; exit code 1 when nothing does."""
    state = read_local_state(cache_directory())
    if state is None:
        click.echo(
            "null" if as_json else "the local stack is not running; start it with: mlflow-fargate local up --detach"
        )
        sys.exit(1)
    shown = {name: value for name, value in state.items() if name != "secret_access_key"}
    click.echo(json.dumps(shown, indent=2) if as_json else _import_stack().describe(state))


@local.command()
def env() -> None:
    """Shell lines that point MLflow and the AWS tools to the stack: eval "$(mlflow-fargate local env)"."""
    state = read_local_state(cache_directory())
    if state is None:
        raise LocalStackError("The local stack is not running.", hint="mlflow-fargate local up --detach")
    for name, value in _import_stack().environment(state).items():
        click.echo(f"export {name}={value}")


@main.group()
def webhook() -> None:
    """The service that redeploys when a registered model moves to Production."""


@webhook.command()
@click.option("--target", "-t", help="Deployment target, for example fargate:/eu-west-1.  [env FARGATE_TARGET]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8080]")
@click.option("--poll-seconds", type=float, help="How often to look at the model registry.  [default: 30]")
def serve(**options: Any) -> None:
    """Watch the model registry, take webhooks, and keep deployments at what the registry says. SIGTERM stops it."""
    try:
        from mlflow_fargate.webhook.serve import serve as serve_webhook  # noqa: PLC0415
        from mlflow_fargate.webhook.settings import parse_settings  # noqa: PLC0415
    except ImportError as error:
        raise _extra_is_missing("webhook", error) from error
    given = {_SETTINGS[key]: str(value) for key, value in options.items() if value is not None}
    serve_webhook(parse_settings({**os.environ, **given}), progress_for_stderr())


def _import_stack() -> Any:
    try:
        from mlflow_fargate.local import stack  # noqa: PLC0415
    except ImportError as error:
        raise _extra_is_missing("local", error) from error
    return stack


def _extra_is_missing(extra: str, error: ImportError) -> FargateError:
    return FargateError(
        f"This command needs the package '{error.name}'.", hint=f"pip install 'mlflow-fargate[{extra}]'"
    )


if __name__ == "__main__":
    main()
