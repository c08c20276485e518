"""How an option is declared, and the types of its values where JSON has no such type.

Command lines give strings and Python callers real types; both are meant to be the same.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict


def option(
    default: Any,
    description: str,
    *,
    maps_to: str,
    unit: str | None = None,
    key: str | None = None,
    examples: list[str] | None = None,
    **limits: Any,
) -> Any:
    """The field of an option whose `-C` key is `key`, or else the field's name.

    `maps_to`: what AWS, OCI or MLflow call it. `limits` are pydantic's: ge, le, pattern, ….
    """
    extra: JsonDict = {"maps_to": maps_to, **({"unit": unit} if unit else {})}
    made = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**made, alias=key, description=description, examples=examples, json_schema_extra=extra, **limits)


class OptionGroup(BaseModel):
    """Options that belong together; unknown keys and impossible values are errors."""

    # Numbers as text too: a YAML file says `environment: {OMP_NUM_THREADS: 1}`.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True)


def _split_commas(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _read_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Table = Annotated[dict[str, str], BeforeValidator(_read_json)]
