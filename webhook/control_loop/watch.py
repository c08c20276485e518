"""Selects the deployments to watch: existing ones that follow the registry, and those that rules require. Pure.

deployments that exist ──┐
rules × models seen   ───┴─► Watch: a deployment (existing or absent), its rule, and any conflict between them
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.webhook.control_loop.model_registry import ModelState
from mlflow_fargate.webhook.control_loop.reconcile import ABSENT, Deployed
from mlflow_fargate.webhook.control_loop.rules import DeploymentRule, RuleSet


@dataclass(frozen=True)
class Watch:
    """A watched deployment."""

    deployed: Deployed
    rule: DeploymentRule | None = None  # None: it was created manually from a stage or an alias
    conflict: str | None = None  # why it cannot be managed; then nothing is done


def make_watches(
    listed: Iterable[Deployed], states: Mapping[str, ModelState], rules: RuleSet, own_endpoint: Collection[str] = ()
) -> tuple[list[Watch], list[str]]:
    """Returns what to watch, and errors in the rules in tags. `own_endpoint`: the target's endpoint, if known."""
    existing = {(one.endpoint, one.name): one for one in listed}
    wanted: dict[tuple[str | None, str], Watch] = {}
    problems: list[str] = []
    for model_name in sorted(states.keys() | rules.model_names):
        state = states.get(model_name)
        try:
            rule = rules.rule_for(model_name, state.tags if state else {})
        except InvalidOption as error:
            problems.append(error.message)
            continue
        if rule is None:
            continue
        key = (None if rule.endpoint in own_endpoint else rule.endpoint, rule.deployment_of(model_name))
        if key in wanted:
            other = wanted[key].deployed.model_name
            conflict = f"models '{other}' and '{model_name}' both map to deployment '{key[1]}'"
            wanted[key] = replace(wanted[key], conflict=conflict)
        else:
            wanted[key] = _watch(key, model_name, rule, existing.get(key))
    # On other endpoints, only deployments named by rules are watched.
    by_hand = [Watch(one) for key, one in existing.items() if key not in wanted and one.is_watched and not one.endpoint]
    return [*by_hand, *wanted.values()], problems


def _watch(key: tuple[str | None, str], model_name: str, rule: DeploymentRule, deployed: Deployed | None) -> Watch:
    endpoint, name = key
    if deployed is None:
        return Watch(Deployed(name, rule.follow, model_name, None, ABSENT, endpoint=endpoint), rule)
    if deployed.model_name not in {None, model_name} and deployed.follow != "pinned":
        return Watch(deployed, rule, conflict=f"it serves '{deployed.model_name}', but the rule is for '{model_name}'")
    follow = deployed.follow if deployed.follow == "pinned" else rule.follow
    return Watch(replace(deployed, follow=follow), rule)
