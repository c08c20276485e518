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
from mlflow_fargate.webhook.control_loop.rules import MAX_DEPLOYMENTS_BY_TAG, DeploymentRule, RuleSet

_TOO_MANY = f"tags can deploy {MAX_DEPLOYMENTS_BY_TAG} models; more require rules"

RULE_WITHOUT_EFFECT = (
    "a rule names this deployment, but it is pinned, so the rule has no effect; to follow the registry, update it with "
    "-m models:/NAME/STAGE or -m models:/NAME@ALIAS"
)

_Key = tuple[str | None, str]  # endpoint (None: the target's own) and name of a deployment


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
    wanted: dict[_Key, dict[str, DeploymentRule]] = {}
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
        wanted.setdefault(key, {})[model_name] = rule
    watches = []
    for key, rule_of in wanted.items():
        deployed = existing.get(key)
        serving = deployed.model_name if deployed and deployed.follow != "pinned" else None
        # The model that a deployment serves keeps it: a newcomer must not be able to stop it from being updated.
        # Before it exists, its name belongs to the model of the same name.
        owner = serving or (key[1] if deployed is None and key[1] in rule_of else None)
        kept = {owner: rule_of[owner]} if owner in rule_of else {} if owner else rule_of
        does = "already serves" if serving else "is for"
        problems += [
            f"model '{name}' is not deployed: deployment '{key[1]}' {does} model '{owner}'"
            for name in rule_of.keys() - kept
        ]
        if kept:
            watches.append(_watch(key, kept, deployed))
    taken = {(watch.deployed.endpoint, watch.deployed.name) for watch in watches}
    # On other endpoints, only deployments named by rules are listed. Pinned ones are listed, and left as they are.
    by_hand = [Watch(one) for key, one in existing.items() if key not in taken and not one.endpoint]
    return [*by_hand, *watches], problems


def limit_tags(watches: Iterable[Watch]) -> tuple[list[Watch], list[str]]:
    """Returns the watches without deployments that tags would create beyond the limit, and errors for those.

    Deployments that exist are kept, and count first.
    """
    watches = list(watches)
    existing = [watch for watch in watches if watch.deployed.state != ABSENT]
    absent = [watch for watch in watches if watch.deployed.state == ABSENT]
    room = max(0, MAX_DEPLOYMENTS_BY_TAG - sum(watch.rule is not None for watch in existing))
    return [*existing, *absent[:room]], [f"'{one.deployed.key}' is not deployed: {_TOO_MANY}" for one in absent[room:]]


def _watch(key: _Key, rule_of: Mapping[str, DeploymentRule], deployed: Deployed | None) -> Watch:
    endpoint, name = key
    model_name, rule = next(iter(rule_of.items()))
    conflict = None
    if len(rule_of) > 1:
        names = "' and '".join(rule_of)
        conflict = f"models '{names}' both map to deployment '{name}'"
    if deployed is None:
        return Watch(Deployed(name, rule.follow, model_name, None, ABSENT, endpoint=endpoint), rule, conflict)
    follow = deployed.follow if deployed.follow == "pinned" else rule.follow
    return Watch(replace(deployed, follow=follow), rule, conflict)
