"""What an ALB decides: which rule a request falls under, and which target gets it. Pure, but for the dice of weights.

Source: Elastic Load Balancing user guide, "Listener rules" and "Condition types for listener rules".
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

Target = tuple[str, int]  # host and port
# No wildcard at all, or none in the last two labels.
_DOMAIN = re.compile(r"[^*?]+|.*\.[^*?.]+\.[^*?.]+")


@dataclass(frozen=True)
class FixedResponse:
    """An answer that needs no target."""

    status: int
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class WeightedTargets:
    """A share of a forward action: `targets` are those that may get requests now, so the healthy ones."""

    targets: tuple[Target, ...] = ()
    weight: int = 1


@dataclass(frozen=True)
class RoutingRule:
    """What to do with requests that match one of each kind of patterns; a kind without patterns matches all.

    `fixed_response` goes before `targets`. `*` stands for any characters, `?` for one; paths are compared with case and
    as sent, without the query; hosts without case and port; the values of headers, each of which must match, without
    case.
    """

    priority: int
    path_patterns: tuple[str, ...] = ()
    host_patterns: tuple[str, ...] = ()
    header_patterns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    targets: tuple[WeightedTargets, ...] = ()
    fixed_response: FixedResponse | None = None

    def matches(self, host: str, path: str, headers: Mapping[str, str]) -> bool:
        is_path = not self.path_patterns or any(_compile(pattern).fullmatch(path) for pattern in self.path_patterns)
        is_host = not self.host_patterns or self.names_host(host)
        return is_path and is_host and all(_has(headers, name, patterns) for name, patterns in self.header_patterns)

    def names_host(self, host: str) -> bool:
        """Whether one of its host patterns fits."""
        return any(_fits(pattern, host) for pattern in self.host_patterns)

    def vouches_for(self, host: str) -> bool:
        """Whether a pattern fits that names a host or a domain. `*` and `*.com` fit a stranger's host as well."""
        return any(_fits(pattern, host) for pattern in self.host_patterns if _DOMAIN.fullmatch(pattern))


DEFAULT_RULE = RoutingRule(priority=50_001, fixed_response=FixedResponse(404, "no deployment has this path\n"))


def choose_rule(rules: Sequence[RoutingRule], host: str, path: str, headers: Mapping[str, str]) -> RoutingRule | None:
    """The first rule that matches; `rules` are sorted by priority, `headers` are found by names without case."""
    return next((rule for rule in rules if rule.matches(host, path, headers)), None)


class Balancer:
    """Chooses the target with the fewest requests under way, in turn where several are equal."""

    def __init__(self) -> None:
        self._outstanding: Counter[Target] = Counter()
        self._turn = 0
        self._dice = random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose_target(self, groups: Sequence[WeightedTargets]) -> Target | None:
        """None: the group that the weights chose has no target; as in an ALB no other group steps in."""
        weights = [group.weight for group in groups]
        if not any(weights):
            return None
        targets = self._dice.choices(groups, weights)[0].targets
        if not targets:
            return None
        self._turn += 1
        start = self._turn % len(targets)
        return min(targets[start:] + targets[:start], key=lambda target: self._outstanding[target])

    @contextmanager
    def occupied(self, target: Target) -> Iterator[None]:
        """A request is under way there meanwhile."""
        self._outstanding[target] += 1
        try:
            yield
        finally:
            self._outstanding[target] -= 1


def _has(headers: Mapping[str, str], name: str, patterns: Sequence[str]) -> bool:
    value = headers.get(name, "").lower()
    return any(_compile(pattern.lower()).fullmatch(value) for pattern in patterns)


def _fits(pattern: str, host: str) -> bool:
    return _compile(pattern.lower()).fullmatch(_hostname(host)) is not None


def _hostname(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    wildcards = {"*": ".*", "?": "."}
    return re.compile("".join(wildcards.get(character, re.escape(character)) for character in pattern), re.DOTALL)
