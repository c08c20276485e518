"""Replacing a deployment's API key without downtime.

    rotate    a new key is added, and new tasks accept both       callers change to the new key
    finish    the old key is removed, and new tasks accept only the new one

Tasks read their keys when they start, so each step is a rollout. Repeating a step finishes what was interrupted.
"""

from __future__ import annotations

import secrets

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption

_NONE = NamedOptions()


def rotate(deployer: Deployer, name: str, options: NamedOptions = _NONE) -> None:
    """Adds a second key and waits until all tasks accept both. `options`: wait, timeout_seconds."""
    status, secret = _with_key(deployer, name)
    keys, _ = deployer.account.read_api_keys(secret)
    if len(keys) == 1:
        deployer.account.write_api_keys(secret, [*keys, secrets.token_urlsafe(32)])
    _replace_tasks(deployer, status, options)


def finish(deployer: Deployer, name: str, options: NamedOptions = _NONE) -> None:
    """Removes the older of two keys and waits until no task accepts it. `options`: wait, timeout_seconds.

    InvalidOption if not all running tasks accept the newer key yet: callers would be refused.
    """
    status, secret = _with_key(deployer, name)
    keys, since = deployer.account.read_api_keys(secret)
    names = [name, *deployer.endpoint.variants(name)]
    are_done = all(
        deployer.get(one).state == "COMPLETED" and deployer.endpoint.rollout_began(one) >= since for one in names
    )
    if len(keys) > 1 and not are_done:
        raise InvalidOption(
            f"Not all tasks of '{name}' accept the new API key yet.",
            hint="wait until the rollout has completed (mlflow-fargate status -f), or run key --rotate again",
        )
    if len(keys) > 1:
        deployer.account.write_api_keys(secret, keys[-1:])
    _replace_tasks(deployer, status, options)


def usage(deployer: Deployer, name: str) -> str:
    """Returns how to call the deployment; commands read the key from Secrets Manager, and it is not in the text."""
    status = deployer.get(name)
    keys = len(deployer.account.read_api_keys(status.api_key_secret)[0]) if status.api_key_secret else 0
    profile = f" --profile {deployer.target.profile}" if deployer.target.profile else ""
    read = (
        f"KEY=$(aws secretsmanager get-secret-value --region {deployer.account.region}{profile} \\",
        "  --secret-id \\",
        f"  {status.api_key_secret} \\",
        f"  --query SecretString --output text | cut -d' ' -f{keys})",
    )
    header = ' -H "Authorization: Bearer $KEY"' if keys else ""
    header += "".join(f" -H '{header}: {value}'" for header, value in status.headers.items())
    lines = [
        *(read if keys else ()),
        f"curl{header} -d @rows.json \\",
        "  -H 'Content-Type: application/json' \\",
        f"  {status.url}/invocations",
        "",
        "from mlflow.deployments import get_deploy_client",
        f'client = get_deploy_client("{deployer.target.uri}")',
        f'client.predict("{name}", rows)',
        "",
        f"In a browser{' (any user name; the password is the key)' if keys else ''}:",
        f"  {status.url}/",
    ]
    if keys > 1:
        lines += [
            "",
            "Two keys are valid. KEY is the new one; the old one is removed with:",
            "  mlflow-fargate key --finish",
        ]
    return "\n".join(lines)


def _with_key(deployer: Deployer, name: str) -> tuple[DeploymentStatus, str]:
    status = deployer.get(name)
    if owner := status.settings.variant_of:
        raise InvalidOption(
            f"'{name}' is a variant of '{owner}' and has its API key.",
            hint=f"replace that: mlflow-fargate key -t {deployer.target.uri} --name {owner} --rotate",
        )
    if status.api_key_secret is None:
        raise InvalidOption(
            f"Deployment '{name}' has no API key (auth=none): everyone can call it.",
            hint=f"add one: mlflow deployments update -t {deployer.target.uri} --name {name} -C auth=api_key",
        )
    return status, status.api_key_secret


def _replace_tasks(deployer: Deployer, status: DeploymentStatus, options: NamedOptions) -> None:
    endpoint, config = deployer.endpoint, options.over()
    names = [status.name, *endpoint.variants(status.name)]
    earlier = {name: frozenset(event.id for event in endpoint.events(name)) for name in names}
    requested = {name: endpoint.replace_tasks(name) for name in names}
    for name in names if config.wait else ():
        deployer.progress.step(f"Waiting for the rollout of {name}")
        watched = (deployer.rollouts.test_of(name), earlier[name], requested[name])
        endpoint.wait_until_rolled_out(name, config.rollout_seconds, deployer.progress, *watched)
