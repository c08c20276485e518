"""How a model is served: which template, and the contents of its `service.json`. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_fargate.bento.custom_service_files import CustomService
from mlflow_fargate.errors import ModelUnusable
from mlflow_fargate.resolved_model import ResolvedModel

Template = Literal["image_classifier", "pyfunc", "custom"]

LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class ServedModel:
    """A model, and how it is served."""

    model: ResolvedModel
    template: str  # a Template
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the template's
    custom_service: CustomService | None = None
    further_models: Mapping[str, ResolvedModel] = field(
        default_factory=dict, hash=False
    )  # by the key that the service loads them with


def choose_template(model: ResolvedModel) -> Template:
    """Returns the template for `model`: image_classifier for a network that takes images and has a labels file."""
    return "image_classifier" if model.labels_uri is not None and model.takes_images else "pyfunc"


def make_service_description(served: ServedModel) -> dict[str, Any]:
    """Returns the contents of service.json: which models the service serves, and how."""
    model, custom = served.model, served.custom_service
    custom_options = {"file": custom.file, "digest": custom.digest} if custom else {}
    return {
        "template": served.template,
        "flavor": next((name for name in sorted(model.flavors) if name != "python_function"), "python_function"),
        "model": {
            "name": model.name,
            "version": model.version,
            "run_id": model.run_id,
            "uri": model.resolved_uri,
        },
        "labels": LABELS_FILE if served.template == "image_classifier" else None,
        "options": {**served.options, **custom_options},
        "models": {key: further.resolved_uri for key, further in sorted(served.further_models.items())},
    }


def parse_labels(content: bytes) -> dict[str, Any]:
    """Returns labels by class number ("0", "1", …) from a labels file; raises ModelUnusable if it is not one.

    Accepts {"0": "buildings", …}, {"buildings": 0, …} and ["buildings", …].
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"The labels file is not valid JSON: {error}") from error
    if isinstance(document, list):
        document = dict(enumerate(document))
    if isinstance(document, dict) and document and not _has_class_numbers(document):
        document = {number: name for name, number in document.items() if type(number) is int}
    labels = {str(number): label for number, label in document.items()} if isinstance(document, dict) else {}
    is_named = all(isinstance(label, str | int | float) for label in labels.values())
    if not labels or not is_named or sorted(labels) != sorted(str(number) for number in range(len(labels))):
        raise ModelUnusable(
            "The labels file does not have one label for each of the classes 0, 1, 2, …",
            hint='write it as {"0": "first label", "1": "second label"}',
        )
    return labels


def _has_class_numbers(labels: Mapping[object, object]) -> bool:
    return all(str(key).isdecimal() for key in labels)
