"""Rules: which registered models are deployed, and how; from one YAML text or from the models' tags.

    models:
      churn: {stage: Production, endpoint: prod, config: {cpu: 1024, memory: 2048}}
      "fraud-*": {alias: champion, on_demotion: scale_to_zero}

With rules in tags, every registered model tagged `fargate.deploy=<endpoint>` is deployed. Its other tags set the
details: `fargate.follow` (stage or @alias), `fargate.name`, `fargate.on_demotion`, `fargate.config.<option>` for sizes
and times, within limits. Roles, secrets and networks cannot be set in tags, and endpoints are not created: permission
to tag does not imply permission to grant access or to spend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from mlflow_fargate.config import parse_config
from mlflow_fargate.deployment import DEPLOYMENT_NAME, NAME_HINT, Stage
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.target import check_endpoint_name

OnDemotion = Literal["keep", "scale_to_zero", "delete"]

DEPLOY_TAG = "fargate.deploy"
_CONFIG_TAG = "fargate.config."
_TAG_OPTIONS = {"cpu", "memory", "desired_count", "health_check_grace_seconds", "deregistration_delay_seconds"}
# What anyone who can tag a model can spend; more than that takes a rule.
TAG_LIMITS = {"cpu": 4096, "memory": 16384, "desired_count": 4}  # CPU units, MiB, tasks
MAX_DEPLOYMENTS_BY_TAG = 20
# A rule defines what is followed, each call waits for the rollout, and no model runs on the service's machine.
_NOT_FOR_RULES = {"follow", "wait", "wait_for_drain", "dry_run", "smoke_test", "convert", "build_sdists"}


@dataclass(frozen=True)
class DeploymentRule:
    """How the registered models that `models` matches are deployed."""

    models: str  # a name, or a pattern with * and ?
    follow: str  # a stage or '@alias'
    endpoint: str | None = None  # None: the target's own
    name: str | None = None  # of the deployment; None: the model's name, sanitized
    config: Mapping[str, Any] = field(default_factory=dict)
    on_demotion: OnDemotion = "keep"

    @property
    def is_pattern(self) -> bool:
        return "*" in self.models or "?" in self.models

    def matches(self, model_name: str) -> bool:
        """Returns True if the whole name matches; `*` is any text and `?` any one character."""
        if not self.is_pattern:
            return self.models == model_name
        pattern = re.escape(self.models).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, model_name, re.DOTALL) is not None

    def deployment_of(self, model_name: str) -> str:
        """Returns the deployment's name: invalid characters become '-', and it starts with a letter."""
        fit = self.name or re.sub(r"[^A-Za-z0-9_-]", "-", model_name)
        return (fit if fit[:1].isalpha() else f"m-{fit}")[:63]


@dataclass(frozen=True)
class RuleSet:
    """The rules in force; `by_tag`: the models' tags apply instead."""

    rules: tuple[DeploymentRule, ...] = ()
    by_tag: bool = False

    @property
    def model_names(self) -> set[str]:
        """The models named without a pattern."""
        return {rule.models for rule in self.rules if not rule.is_pattern}

    @property
    def patterns(self) -> set[str]:
        """The patterns to search the registry for."""
        return {rule.models for rule in self.rules if rule.is_pattern}

    def rule_for(self, model_name: str, tags: Mapping[str, str]) -> DeploymentRule | None:
        """Returns a model's rule; names take precedence over patterns. InvalidOption for invalid tags."""
        if self.by_tag:
            return _rule_in_tags(model_name, tags)
        matching = [rule for rule in self.rules if rule.matches(model_name)]
        return min(matching, key=lambda rule: rule.is_pattern, default=None)


BY_TAG = RuleSet(by_tag=True)


class _WrittenRule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stage: Stage | None = None
    alias: str | None = None
    endpoint: str | None = None
    name: str | None = None
    config: dict[str, Any] = {}
    on_demotion: OnDemotion = "keep"

    @field_validator("stage", mode="before")
    @classmethod
    def _in_any_case(cls, stage: object) -> object:
        return stage.capitalize() if isinstance(stage, str) else stage

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not DEPLOYMENT_NAME.fullmatch(name):
            raise ValueError(NAME_HINT)
        return name

    @model_validator(mode="after")
    def _follows_one_thing(self) -> _WrittenRule:
        if (self.stage is None) == (self.alias is None):
            raise ValueError("set either stage or alias")
        return self


class _WrittenRules(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: dict[str, _WrittenRule]


def parse_rules(text: str, where: str) -> RuleSet:
    """Returns the rules in a YAML text; InvalidOption names `where`, the rule and what is wrong."""
    try:
        written = _WrittenRules.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidOption(f"{where} is not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise InvalidOption(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}.") from error
    return RuleSet(tuple(_checked(_rule(models, rule), where) for models, rule in written.models.items()))


def _rule(models: str, written: _WrittenRule) -> DeploymentRule:
    follow = written.stage or f"@{(written.alias or '').removeprefix('@')}"
    return DeploymentRule(models, follow, written.endpoint, written.name, written.config, written.on_demotion)


def _checked(rule: DeploymentRule, where: str) -> DeploymentRule:
    try:
        if rule.is_pattern and rule.name:
            raise InvalidOption("a pattern matches several models, which cannot share one name.")
        if wrong := _NOT_FOR_RULES & rule.config.keys():
            raise InvalidOption(f"config.{min(wrong)} cannot be set in a rule.")
        parse_config(rule.config)
        if rule.endpoint is not None:
            check_endpoint_name(rule.endpoint)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: models.{rule.models}: {error.message}") from error
    return rule


def _rule_in_tags(model_name: str, tags: Mapping[str, str]) -> DeploymentRule | None:
    endpoint = tags.get(DEPLOY_TAG)
    if not endpoint:
        return None
    config = {key.removeprefix(_CONFIG_TAG): value for key, value in tags.items() if key.startswith(_CONFIG_TAG)}
    where = f"the tags of '{model_name}'"
    if wrong := config.keys() - _TAG_OPTIONS:
        raise InvalidOption(
            f"{where}: option '{min(wrong)}' cannot be set in tags.",
            hint=f"tags can set {', '.join(sorted(_TAG_OPTIONS))}; use a rule for other options",
        )
    name = tags.get("fargate.name")
    if name is not None and not DEPLOYMENT_NAME.fullmatch(name):
        raise InvalidOption(f"{where}: '{name}' is not a valid deployment name.")
    demotion = tags.get("fargate.on_demotion", "keep")
    if demotion not in {"keep", "scale_to_zero"}:
        raise InvalidOption(f"{where}: fargate.on_demotion must be keep or scale_to_zero; deleting requires a rule.")
    on_demotion: OnDemotion = "scale_to_zero" if demotion == "scale_to_zero" else "keep"
    # The model's name is literal here, even with a '*' in it.
    rule = DeploymentRule(model_name, tags.get("fargate.follow", "Production"), endpoint, name, config, on_demotion)
    _check_limits(_checked(rule, where), where)
    return rule


def _check_limits(rule: DeploymentRule, where: str) -> None:
    options = parse_config(rule.config)
    set_in_tags = {"cpu": options.cpu, "memory": options.memory_mib, "desired_count": options.desired_count}
    for option, limit in TAG_LIMITS.items():
        if set_in_tags[option] > limit:
            raise InvalidOption(f"{where}: {option} can be at most {limit} in tags; more requires a rule.")


class RuleBook:
    """The rules in force: `read` returns their text at each poll; an invalid one only sets `error`.

    Without `read`, there are none, or those in the models' tags (`by_tag`).
    """

    def __init__(self, read: Callable[[], str] | None = None, where: str = "", *, by_tag: bool = False) -> None:
        self._read = read
        self._where = where
        self._text: str | None = None
        self._rules = RuleSet(by_tag=by_tag)
        self.error: str | None = None  # what is wrong with the current text
        if read is not None:
            self._text = read()
            self._rules = parse_rules(self._text, where)

    @property
    def rules(self) -> RuleSet:
        """The rules as of the last poll."""
        return self._rules

    def current(self) -> RuleSet:
        """Returns the current rules, or the last valid ones."""
        if self._read is None:
            return self._rules
        try:
            text = self._read()
            if text != self._text or self.error:
                self._rules = parse_rules(text, self._where)
                self._text = text
            self.error = None
        except (InvalidOption, OSError, UnicodeDecodeError) as error:
            self.error = f"{error} (the last valid rules remain in effect)"
        return self._rules
