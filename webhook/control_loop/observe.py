"""Reads both sides: the deployments in AWS, and their models in the model registry.

One registry request, however many models are watched, and one list call to AWS per endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlflow_fargate.errors import FargateError
from mlflow_fargate.resolved_model import printable, without_credentials
from mlflow_fargate.webhook.control_loop.actor import Deployments
from mlflow_fargate.webhook.control_loop.model_registry import ModelState, ModelStateSource
from mlflow_fargate.webhook.control_loop.reconcile import Deployed
from mlflow_fargate.webhook.control_loop.rules import DEPLOY_TAG, RuleSet
from mlflow_fargate.webhook.control_loop.watch import Watch, limit_tags, make_watches

_SHOWN_PROBLEMS, _LONGEST_PROBLEM = 10, 300


class Observed(NamedTuple):
    """The watched deployments, the registry's state by model, and errors in the rules in tags."""

    watches: list[Watch]
    states: Mapping[str, ModelState]
    problems: list[str]


def observe(client: Deployments, registry: ModelStateSource, rules: RuleSet) -> Observed:
    """Reads the target's deployments, then the registry, then the other endpoints named in rules."""
    items = client.list_deployments()
    # A rule can name the target's own endpoint.
    own = {str(item["endpoint"]) for item in items if item.get("endpoint")}
    listed = [Deployed.parse(item) for item in items]
    names = {one.model_name for one in listed if one.is_watched and one.model_name} | rules.model_names
    tag = DEPLOY_TAG if rules.by_tag else None
    states = registry.look(names, patterns=rules.patterns, tag=tag) if names or rules.patterns or tag else {}
    # Only the endpoints of valid rules: anyone can tag a model.
    wanted, _ = make_watches([], states, rules, own)
    others = {watch.deployed.endpoint for watch in wanted if watch.deployed.endpoint}
    unread = _missing(client, others) if rules.by_tag and others else {}
    for endpoint in sorted(others - unread.keys()):
        try:
            listed += [Deployed.parse(item, endpoint) for item in client.list_deployments(endpoint=endpoint)]
        except FargateError as error:  # an endpoint named in a rule or a tag must not stop the others
            unread[endpoint] = f"endpoint '{endpoint}' cannot be read: {without_credentials(str(error))}"
    watches, problems = make_watches(listed, states, rules, own)
    watches = [watch for watch in watches if watch.deployed.endpoint not in unread]
    watches, too_many = limit_tags(watches) if rules.by_tag else (watches, [])
    return Observed(watches, states, [*problems, *unread.values(), *too_many])


def _missing(client: Deployments, named: set[str]) -> dict[str, str]:
    """Returns why tags cannot name these endpoints: a tag must not create a load balancer.

    One call, however many endpoints are named.
    """
    try:
        existing = {str(endpoint["name"]) for endpoint in client.list_endpoints()}
    except FargateError as error:
        said = without_credentials(str(error))
        return {name: f"endpoint '{name}' is named in tags, and endpoints cannot be listed: {said}" for name in named}
    return {name: f"endpoint '{name}' is named in tags, and does not exist" for name in named - existing}


def in_short(problems: Sequence[str]) -> str | None:
    """Returns the first problems as one text: anyone who can tag models can cause thousands."""
    shown = [printable(problem, _LONGEST_PROBLEM) for problem in problems[:_SHOWN_PROBLEMS]]
    further = [f"{len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    return "; ".join([*shown, *further]) or None
