"""Finds phrases that are not plain American English, by the habits that our prose falls into.

    python tests/support/wording.py            prints FILE:LINE, the habit, what to write; exits with 1 for any hit
    python tests/support/wording.py --count    prints the number of hits by habit and area, in the whole repository

Only patterns that are nearly always slips are listed; unclear sentences are left to reviews. Fenced blocks of documents
(recorded output, quoted messages) are not checked.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

# Where `make check` allows no hit: files, or folders with everything in them.
COVERED = (
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "examples", "benchmarks", "mkdocs.yml",
    "setup.py", "Makefile", "pyproject.toml", "onnx_converter", "mlflow_fargate/image", "mlflow_fargate/publisher",
    "mlflow_fargate/bento", "mlflow_fargate/model", "mlflow_fargate/sandbox", "mlflow_fargate/scoring",
    "mlflow_fargate/__init__.py", "mlflow_fargate/client.py", "mlflow_fargate/training.py",
    "mlflow_fargate/registry_store.py", "mlflow_fargate/resolved_model.py", "mlflow_fargate/atomic_files.py",
    "mlflow_fargate/redirects.py", "mlflow_fargate/target.py", "tests/image", "tests/model", "tests/test_bento.py",
    "tests/test_client.py", "tests/test_contract.py", "tests/test_distribution.py", "tests/test_publisher.py",
    "tests/test_runtime.py", "tests/test_sandbox.py", "tests/test_scoring.py", "tests/test_training.py",
    "tests/test_version_tags.py", "mlflow_fargate/local", "tests/local", "tests/end_to_end", "tests/support",
    "tests/conftest.py", "tests/test_docs.py", "tests/test_first_hour.py", "tests/test_fresh_system.py",
    "tests/test_pictures.py", "tests/test_recording.py", "mlflow_fargate/aws", "mlflow_fargate/config",
    "mlflow_fargate/deployments", "mlflow_fargate/doctor", "mlflow_fargate/resources", "mlflow_fargate/cli",
    "mlflow_fargate/deployment.py", "mlflow_fargate/doctor_facts.py", "mlflow_fargate/errors.py",
    "mlflow_fargate/plan.py", "mlflow_fargate/progress.py", "tests/aws", "tests/test_config.py",
    "tests/test_costs.py", "tests/test_deployer.py", "tests/test_deployment_rules.py", "tests/test_doctor.py",
    "tests/test_iam_policies.py", "tests/test_operations.py", "tests/test_plan.py", "tests/test_plan_text.py",
    "tests/test_progress.py", "tests/test_strategies.py", "tests/test_traffic.py", "tests/test_webhook_service.py",
    "webhook", "tests/webhook", "tests/test_command.py",
    "service_template", "tests/service_template", "tests/onnx_converter", "tests/test_atomic_files.py",
    "tests/test_ci_examples.py", "tests/test_layers.py", "tests/test_target.py",
)  # fmt: skip
NOT_COVERED = ("docs/cli.md",)
AREAS = {
    "documents": ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "mkdocs.yml", "Makefile"),
    "examples, benchmarks": ("examples", "benchmarks"),
    "mlflow_fargate": ("mlflow_fargate", "onnx_converter"),
    "webhook": ("webhook",),
    "service_template": ("service_template",),
    "tests": ("tests",),
}
_QUOTING = ("tests/support/wording.py", "tests/test_wording.py")
_SUFFIXES = {".md", ".py", ".yml", ".html", ".ipynb", ".service", ".toml", ""}
_MACHINE = (
    r"(?:it|them|AWS|ECS|MLflow|boto3|a model|the (?:model|registry|server|service|deployment|task|load balancer))"
)
_QUESTION = r"(?:what|which|how|why|where|whether|of|as|the (?:address|size|reason|difference))"


class Habit(NamedTuple):
    """A habit, what finds it, and what to write instead."""

    name: str
    pattern: re.Pattern[str]
    instead: str


def _habit(name: str, instead: str, *phrases: str) -> Habit:
    return Habit(name, re.compile(rf"\b(?:{'|'.join(phrases)})", re.IGNORECASE), instead)


# Persons ask, tell, want and try; things do not. "Your own" is English, "an own" is not.
HABITS = (
    _habit(
        "things that stand, hang, lie",
        "is in, is listed in, is attached to, represents",
        r"stands? (?:in|on|for|there|behind|beside|below|around)\b",
        r"stood (?:in|on)\b",
        r"hangs? on (?!to\b)",
        r"(?:lie|lies|lay) (?:in|on|at|there|below|beside)\b",
    ),
    _habit(
        "say/tell without an object",
        "shows, prints, reports",
        rf"(?:tell|tells|told) {_QUESTION}\b",
        r"(?:is|are|was|were) told\b",
    ),
    _habit(
        "asking machines",
        "calls, queries, sends, retries",
        rf"(?:ask|asks|asked|asking) (?:{_MACHINE}|again|about|seldom)\b",
        r"(?:was|be|is|are) asked\b",
    ),
    _habit(
        "is no X",
        "is not a, does not",
        r"(?<!there )(?:is|are|was|were) no (?!longer|more|one|such|different|need|way)[a-z]+(?= ?[.,;:)(]| but| of)",
        r"(?:it|which|Fargate) (?:has|have) not(?=[.,;])",
    ),
    _habit(
        "wants / shall / may",
        "requires, should, can",
        r"shall\b",
        r"may (?:not )?(?:look|call|do|push|move|hand|deploy|create|write|update|open|ask)\b",
        r"wants (?:an?|the|it|one|[a-z]+_[a-z_]+)\b",
    ),
    _habit(
        "taking away, making, putting",
        "deletes, resets, creates",
        r"(?:takes?|taken|took) (?:\w+ ){0,3}away\b",
        r"put(?:s|ting)? (?:back|there|off)\b",
        r"(?:is|are|was|were) made (?:when|for|by|of|from|there|anew|again|with)\b",
    ),
    _habit(
        "trying",
        "tested, smoke test",
        r"(?:is|are|was|were|been|not) tried\b",
        r"tried (?:with|on|there|here|before)\b",
        r"trial\b",
    ),
    _habit(
        "the one before",
        "the previous version, earlier",
        r"the (?:version|one|revision|last one) before\b",
        r"of before\b",
    ),
    _habit("whoever", "anyone who can, someone who", r"whoever\b", r"somebody\b"),
    _habit(
        "own, of yours",
        "a custom, your own, its own",
        r"an? own\b",
        r"of (?:yours|ours|one's own)\b",
        r"own services?\b",
    ),
)


class Hit(NamedTuple):
    path: str
    line: int
    habit: Habit
    text: str


def find(path: str, text: str) -> Iterator[Hit]:
    """Yields the hits in one file: in strings, comments and test names of Python, outside of blocks in documents."""
    for number, line in prose(path, text):
        for habit in HABITS:
            if found := habit.pattern.search(line):
                yield Hit(path, number, habit, found[0])


def prose(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yields number and text of the lines that a person reads."""
    if path.endswith(".py"):
        yield from _prose_of_python(text)
        return
    is_block = False
    for number, line in enumerate(text.splitlines(), 1):
        if path.endswith(".md") and line.lstrip().startswith("```"):
            is_block = not is_block
        elif not is_block:
            yield number, line


def _prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    texts = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in texts:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def files_below(places: Iterable[str]) -> list[str]:
    """Returns the files of these places that contain prose, except those that quote the habits."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", *places],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    return [name for name in listed if Path(name).suffix in _SUFFIXES and name not in _QUOTING]


def hits_in(names: Iterable[str]) -> list[Hit]:
    return [hit for name in names for hit in find(name, (ROOT / name).read_text("utf-8"))]


def count() -> str:
    """Returns a table of the hits by habit and area."""
    by_area = {area: Counter(hit.habit.name for hit in hits_in(files_below(places))) for area, places in AREAS.items()}
    lines = [" | ".join(["habit", *AREAS, "all"])]
    for name in [habit.name for habit in HABITS]:
        numbers = [by_area[area][name] for area in AREAS]
        lines.append(" | ".join([name, *map(str, numbers), str(sum(numbers))]))
    totals = [sum(by_area[area].values()) for area in AREAS]
    return "\n".join([*lines, " | ".join(["all", *map(str, totals), str(sum(totals))])])


def main() -> int:
    if "--count" in sys.argv[1:]:
        print(count())
        return 0
    hits = hits_in(name for name in files_below(COVERED) if name not in NOT_COVERED)
    for hit in hits:
        print(f"{hit.path}:{hit.line}: '{hit.text}' ({hit.habit.name}): write {hit.habit.instead}")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
