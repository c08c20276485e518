"""How an option is declared, and the types of its values where JSON has no such type.

Command lines give strings and Python callers real types; both are meant to be the same.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.config import JsonDict

from mlflow_fargate.resolved_model import without_credentials


def option(
    default: Any,
    description: str,
    *,
    maps_to: str,
    unit: str | None = None,
    key: str | None = None,
    examples: list[str] | None = None,
    allowed: str | None = None,
    **limits: Any,
) -> Any:
    """The field of an option whose `-C` key is `key`, or else the field's name.

    `maps_to`: what AWS, OCI or MLflow call it. `limits` are pydantic's: ge, le, pattern, …; `allowed` says in words
    what they cannot. tests/test_config.py knows what an option has to say of itself.
    """
    words = {"maps_to": maps_to, "unit": unit, "allowed": allowed}
    extra: JsonDict = {name: said for name, said in words.items() if said}
    made = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**made, alias=key, description=description, examples=examples, json_schema_extra=extra, **limits)


class OptionGroup(BaseModel):
    """Options that belong together; unknown keys and impossible values are errors."""

    # Numbers as text too: a YAML file says `environment: {OMP_NUM_THREADS: 1}`. What was given may hold a password.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True, hide_input_in_errors=True
    )


def _split_commas(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _read_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def _check_url(value: object) -> object:
    if value is not None and not (isinstance(value, str) and _URL.fullmatch(value)):
        raise ValueError("write it as https://HOST/PATH")
    return value


def _write_urls(value: str | tuple[str, ...] | None) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value and without_credentials(value)
    return [without_credentials(url) for url in value]


_URL = re.compile(r"https?://[^\s/]+(/\S*)?")
_NO_PASSWORDS = PlainSerializer(_write_urls, when_used="json")

IndexUrl = Annotated[str | None, BeforeValidator(_check_url), _NO_PASSWORDS]
IndexUrls = Annotated[
    tuple[Annotated[str, BeforeValidator(_check_url)], ...], BeforeValidator(_split_commas), _NO_PASSWORDS
]


def _check_package_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a Debian package")
    return names


_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
PackageNames = Annotated[tuple[str, ...], BeforeValidator(_split_commas), AfterValidator(_check_package_names)]
RequirementLines = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_commas),
    PlainSerializer(lambda lines: [without_credentials(line) for line in lines], when_used="json"),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Table = Annotated[dict[str, str], BeforeValidator(_read_json)]
