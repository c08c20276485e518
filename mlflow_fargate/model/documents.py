"""Parses the text files of a model: MLmodel, conda.yaml, python_env.yaml and requirements.txt. Pure.

Anyone who can log a model writes them, so size, nesting, YAML aliases and numbers of lines are bounded before anything
is built from them, every value has a checked type, and everything else in a file is dropped. The only error is
ModelUnusable.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml

from mlflow_fargate.errors import ModelUnusable
from mlflow_fargate.requirement_files import COMMENT, split_lines, without_hashes

# Only texts: 3.10 is not a number, and no number, date or tag is computed. With libyaml if PyYAML has it.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MAX_NODES = 200_000  # a model has hundreds
_CHARACTERS_A_NODE = 80  # long texts count as several
_MAX_DEPTH = 50
_MAX_REQUIREMENTS = 1000
_MAX_LINE = 2000
_MAX_HASHES = 20_000  # characters, in a line: a package has up to a hundred files
_MAX_PARENTHESES = 20  # of a marker, where packaging's parser is recursive
_VERSION = r"(\d{1,2}(?:\.\d{1,3}){0,2})"
# Packages of a conda.yaml that the image has anyway, or for GPUs.
_IN_EVERY_IMAGE = re.compile(r"(python|pip|setuptools|wheel|mlflow(-skinny)?|cuda.*|cudnn)(?![\w-])")
# NAME VERSION, NAME=VERSION=BUILD or NAME[version='>=1,<2'], with or without CHANNEL::
_CONDA_PACKAGE = re.compile(r"(?:\S*::)?([\w.-]+)\s*(?:\[version=)?['\"]?([<>=!~]*)\s*([^\s'\"\]]*)")
# A byte order mark names the encoding, for YAML and pip. That of UTF-16 is the beginning of that of UTF-32.
_Marks = tuple[tuple[bytes, str], ...]
_MARKS: _Marks = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)
_TEXTS = {
    "run_id": _RUN_ID,
    "mlflow_version": re.compile(r"[\w.+!-]{1,100}"),
    "utc_time_created": re.compile(r".{1,64}"),
}


def parse_mlmodel(content: bytes, shown: str) -> dict[str, Any]:
    """Returns what is used of an MLmodel: `flavors`, each with a mapping, and what else the file has in valid form.

    These are the texts `run_id`, `mlflow_version` and `utc_time_created`, `signature` with its `inputs` as JSON, and
    `metadata` with its `license`.
    """
    if not content.strip():
        raise ModelUnusable(f"{shown} is empty.", hint="the model was not copied completely: copy or log it again")
    document = _load_yaml(content, shown, _MARKS[:1])  # MLflow reads this file only in UTF-8
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(flavors, dict):
        raise ModelUnusable(f"{shown} lists no flavors, so the model cannot be loaded.")
    parsed: dict[str, Any] = {
        "flavors": {name: conf if isinstance(conf, dict) else {} for name, conf in flavors.items()}
    }
    for name, form in _TEXTS.items():
        value = document.get(name)
        if isinstance(value, str) and value != "null" and form.fullmatch(value):
            parsed[name] = value
    inputs = _text_in(document.get("signature"), "inputs")
    if inputs and inputs != "null":
        parsed["signature"] = {"inputs": _checked_inputs(inputs, shown)}
    if stated := _text_in(document.get("metadata"), "license"):
        parsed["metadata"] = {"license": stated}
    return parsed


def parse_requirements(content: bytes, shown: str) -> tuple[str, ...]:
    """Returns the lines of a requirements file without comments and empty lines."""
    return _bounded_lines(split_lines(_decode(content, shown)), shown)


class Conda(NamedTuple):
    """What is used of a conda.yaml."""

    python: str | None
    pip_lines: tuple[str, ...]
    packages: tuple[str, ...]  # NAME==VERSION or NAME, of what only conda would install


def parse_conda(content: bytes, shown: str) -> Conda:
    """Parses a conda.yaml; MLflow before 1.17 wrote no requirements.txt next to it."""
    environment = _load_yaml(content, shown)
    listed = environment.get("dependencies") if isinstance(environment, dict) else None
    dependencies = _without_nulls(listed)
    pythons = [re.fullmatch(rf"python\s*==?\s*{_VERSION}", one) for one in dependencies if isinstance(one, str)]
    pip = [_without_nulls(one.get("pip")) for one in dependencies if isinstance(one, dict)]
    lines = [text for part in pip for line in part if isinstance(line, str) for text in split_lines(line)]
    packages = [_conda_package(one) for one in dependencies if isinstance(one, str)]
    return Conda(
        next((found[1] for found in pythons if found), None),
        _bounded_lines(lines, shown),
        _bounded_lines((one for one in packages if not _IN_EVERY_IMAGE.match(one)), shown),
    )


def _without_nulls(listed: object) -> list[Any]:
    return [one for one in listed if one not in ("", "~", "null")] if isinstance(listed, list) else []


def _conda_package(spec: str) -> str:
    """Returns a package in pip's form, without its channel and build."""
    found = _CONDA_PACKAGE.match(spec.strip())
    name, sign, version = found.groups() if found else (spec, "", "")
    if sign in ("", "=", "=="):
        sign, version = "==", version.partition("=")[0]
    return f"{name}{sign}{version}" if version.strip("*") else name


def python_version(python_env: bytes, metadata: Mapping[str, Any], shown: str = "python_env.yaml") -> str | None:
    """Returns the version in a python_env.yaml, else the one in a parsed MLmodel; None: neither states one."""
    stated = re.search(rf"^python:\s*['\"]?{_VERSION}(?!\d)", _decode(python_env, shown), re.MULTILINE)
    flavor = metadata["flavors"].get("python_function", {}).get("python_version")
    found = stated or (re.match(rf"{_VERSION}(?!\d)", flavor) if isinstance(flavor, str) else None)
    return found[1] if found else None


def _load_yaml(content: bytes, shown: str, marks: _Marks = _MARKS) -> Any:
    text = _decode(content, shown, marks)
    try:
        if not _is_bounded(yaml.parse(text, _LOADER)):
            raise ModelUnusable(
                f"{shown} is nested too deeply, or too large with its YAML aliases expanded.",
                hint=f"at most {_MAX_DEPTH} levels and {_MAX_NODES} values are supported",
            )
        return yaml.load(text, _LOADER)  # noqa: S506  # only texts
    except (yaml.YAMLError, ValueError) as error:
        raise ModelUnusable(f"{shown} is not valid YAML: {str(error)[:500]}") from error


def _decode(content: bytes, shown: str, marks: _Marks = _MARKS) -> str:
    """Returns the text of a file in UTF-8, or in the encoding of its byte order mark."""
    encoding = next((name for mark, name in marks if content.startswith(mark)), "utf-8")
    try:
        text, strange = content.decode(encoding), "\0"
    except UnicodeDecodeError:
        text, strange = content.decode(encoding, "replace"), "\0\ufffd"
    for number, line in enumerate(text.splitlines(), 1):
        if not set(strange).isdisjoint(COMMENT.sub("", line)):  # no one reads a comment
            raise ModelUnusable(
                f"{shown} is not text in UTF-8: see line {number}.",
                hint="save it in UTF-8 (iconv converts it), and log the model again",
            )
    return text


def _is_bounded(events: Iterable[yaml.Event]) -> bool:
    """Returns whether a document is small, also with its aliases expanded: a few hundred bytes can be gigabytes."""
    sizes: dict[str, int] = {}  # by anchor
    opened: list[tuple[str | None, int]] = []  # of each open collection: its anchor, and the size before it
    size = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor or "", _MAX_NODES)  # one within itself has no end
        elif isinstance(event, yaml.ScalarEvent):
            opened.append((event.anchor, size))
            size += 1 + len(event.value) // _CHARACTERS_A_NODE
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, size))
            size += 1
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = size - before
        if size > _MAX_NODES or len(opened) > _MAX_DEPTH:
            return False
    return True


def _text_in(value: object, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _checked_inputs(text: str, shown: str) -> str:
    """Returns the signature's inputs, a JSON list of objects; the shapes of tensors are lists of whole numbers."""
    try:
        shapes = [one.get("tensor-spec", {}).get("shape", []) for one in list(json.loads(text))]
        if all(isinstance(shape, list) and {type(length) for length in shape} <= {int} for shape in shapes):
            return text
    except (ValueError, RecursionError, AttributeError, TypeError):
        pass
    raise ModelUnusable(f"{shown}: the signature's inputs are not a JSON list of columns or tensors.")


def _bounded_lines(lines: Iterable[str], shown: str) -> tuple[str, ...]:
    kept = tuple(lines)
    if len(kept) > _MAX_REQUIREMENTS:
        raise ModelUnusable(f"{shown} has more than {_MAX_REQUIREMENTS} lines.")
    for line in kept:
        if len(line) > _MAX_HASHES or len(without_hashes(line)[0]) > _MAX_LINE or line.count("(") > _MAX_PARENTHESES:
            raise ModelUnusable(f"{shown} contains a line that is too long or nested too deeply: {line[:100]!r}…")
    return kept
