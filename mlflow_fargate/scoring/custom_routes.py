"""Picks the API of a custom BentoML service by the names of the inputs, from its OpenAPI document.

Source: https://docs.bentoml.com/en/latest/build-with-bentoml/services.html (an API's parameters are the request's keys)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.scoring.documents import is_frame

MLFLOW_ROUTE = "/invocations"


@dataclass(frozen=True)
class CustomRoute:
    """An API: its path, the names of its inputs, and which of them are required or files."""

    path: str
    inputs: tuple[str, ...]
    required: frozenset[str]
    files: frozenset[str]

    def __str__(self) -> str:
        return f"{self.path} ({', '.join(self.inputs) or 'no inputs'})"


def custom_routes(openapi: Mapping[str, Any]) -> Iterator[CustomRoute]:
    """Yields the APIs of the service that `openapi` describes."""
    for path, methods in openapi.get("paths", {}).items():
        for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
            schema = content.get("schema", {})
            fields = schema.get("properties", {})
            files = frozenset(name for name, field in fields.items() if field.get("format") == "binary")
            yield CustomRoute(str(path), tuple(fields), frozenset(schema.get("required", ())), files)


def choose_route(routes: tuple[CustomRoute, ...], inputs: Any) -> tuple[CustomRoute, dict[str, Any]]:
    """Returns the one API that accepts `inputs`, and its request: a dict keyed by input name.

    A table with one row (MLflow's command reads [{"number": 7}] as one) is that row; a value that is not a dict is the
    only input of the only API. Raises InvalidOption, listing the APIs, if none or several accept the inputs.
    """
    request = _by_name(inputs)
    if request is None and len(routes) == 1 and len(routes[0].inputs) == 1:
        return routes[0], {routes[0].inputs[0]: inputs}
    fitting = [route for route in routes if request is not None and route.required <= request.keys() <= {*route.inputs}]
    if len(fitting) == 1 and request is not None:
        return fitting[0], request
    raise InvalidOption(
        f"{len(fitting) or 'None'} of the service's APIs accept{'' if fitting else 's'} these inputs.",
        hint=f"pass a dict keyed by the input names of one API: {', '.join(map(str, routes)) or 'it has none'}",
    )


def _by_name(inputs: Any) -> dict[str, Any] | None:
    if isinstance(inputs, Mapping):
        return {str(name): value for name, value in inputs.items()}
    if is_frame(inputs) and len(inputs) == 1:
        return {str(name): inputs[name].tolist()[0] for name in inputs.columns}
    return None
