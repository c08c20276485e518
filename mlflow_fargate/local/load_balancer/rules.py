"""An ALB's decisions: which rule matches a request, and which target gets it. Pure, except for random weights.

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
    """A response that needs no target."""

    status: int
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class WeightedTargets:
    """A share of a forward action: `targets` are those that get requests now, usually the healthy ones."""

    targets: tuple[Target, ...] = ()
    weight: int = 1
    group: str = ""  # the target group, as CloudWatch's dimension names it


@dataclass(frozen=True)
class RoutingRule:
    """What to do with requests that match one pattern of each kind; a kind without patterns matches everything.

    `fixed_response` takes precedence over `targets`. `*` matches any characters, `?` exactly one. Paths are compared as
    sent, case-sensitively and without the query; hosts ignore case and port; header values ignore case, and all
    headers must match.
    """

    priority: int
    path_patterns: tuple[str, ...] = ()
    host_patterns: tuple[str, ...] = ()
    header_patterns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    targets: tuple[WeightedTargets, ...] = ()
    fixed_response: FixedResponse | None = None
    idle_timeout_seconds: float | None = None  # of the load balancer with this rule; None: the usual one

    def matches(self, host: str, path: str, headers: Mapping[str, str]) -> bool:
        is_path = not self.path_patterns or any(_compile(pattern).fullmatch(path) for pattern in self.path_patterns)
        is_host = not self.host_patterns or self.names_host(host)
        return is_path and is_host and all(_has(headers, name, patterns) for name, patterns in self.header_patterns)

    def names_host(self, host: str) -> bool:
        """Returns whether one of its host patterns matches."""
        return any(_matches(pattern, host) for pattern in self.host_patterns)

    def vouches_for(self, host: str) -> bool:
        """Returns whether a pattern that names a host or domain matches. `*` and `*.com` match any stranger's host."""
        return any(_matches(pattern, host) for pattern in self.host_patterns if _DOMAIN.fullmatch(pattern))


DEFAULT_RULE = RoutingRule(priority=50_001, fixed_response=FixedResponse(404, "no deployment has this path\n"))


def choose_rule(rules: Sequence[RoutingRule], host: str, path: str, headers: Mapping[str, str]) -> RoutingRule | None:
    """Returns the first rule that matches; `rules` are sorted by priority, `headers` ignore the case of names."""
    return next((rule for rule in rules if rule.matches(host, path, headers)), None)


class Balancer:
    """Chooses the target with the fewest requests in progress, in turn if several have the same number."""

    def __init__(self) -> None:
        self._outstanding: Counter[Target] = Counter()
        self._turn = 0
        self._dice = random.Random()  # noqa: S311 - spreads load, keeps no secret

    def choose_target(self, groups: Sequence[WeightedTargets]) -> Target | None:
        """Returns a target; None if the group chosen by weight has none (as in an ALB, no other group is used)."""
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
        """Counts a request to the target while the context is open."""
        self._outstanding[target] += 1
        try:
            yield
        finally:
            self._outstanding[target] -= 1


def _has(headers: Mapping[str, str], name: str, patterns: Sequence[str]) -> bool:
    value = headers.get(name, "").lower()
    return any(_compile(pattern.lower()).fullmatch(value) for pattern in patterns)


def _matches(pattern: str, host: str) -> bool:
    return _compile(pattern.lower()).fullmatch(_hostname(host)) is not None


def _hostname(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    wildcards = {"*": ".*", "?": "."}
    return re.compile("".join(wildcards.get(character, re.escape(character)) for character in pattern), re.DOTALL)
