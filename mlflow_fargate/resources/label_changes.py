"""What differs between the labels of two revisions, for users: the model, and options that are only in the label.

A label is JSON text (see specs.DeploymentSpec.label): what is deployed, and the options that were named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_fargate.config import OF_THE_IMAGE
from mlflow_fargate.plan import Difference, leaves

_DEFAULT = "default"


def label_changes(
    before: str | None, after: str | None, *, all_settings: bool = False
) -> dict[str, tuple[object, object]]:
    """Returns name → (before, after); of the options those that change the image, as properties show the others."""
    old, new = read_label_text(before), read_label_text(after)
    changes = {name: (was, is_now) for name, was, is_now in _model_changes(old, new)}
    was_set, is_set = old.get("settings", {}), new.get("settings", {})
    for key in sorted({*was_set, *is_set}):
        if key in OF_THE_IMAGE or all_settings:
            for path, was, is_now in leaves(key, was_set.get(key, _DEFAULT), is_set.get(key, _DEFAULT)):
                changes[path] = (was, is_now)
    for path, was, is_now in leaves("artifact_buckets", old.get("artifact_buckets"), new.get("artifact_buckets")):
        changes[path] = (was, is_now)
    return changes


def user_environment(before: str | None, after: str | None) -> frozenset[str] | None:
    """Returns the environment variables that either label's options name; None without any label."""
    labels = [read_label_text(label) for label in (before, after) if label]
    if not labels:
        return None
    return frozenset(name for label in labels for name in label.get("settings", {}).get("environment", {}))


def _model_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = before.get("provenance", {}), after.get("provenance", {})
    if old.get("version") and new.get("version") and old.get("name") == new.get("name"):
        candidates = [("model version", "version")]
    else:
        candidates = [("model", "resolved_uri")]
    # Of these only the first: a new version has other files, and often another URI.
    candidates += [("model files", "fingerprint"), ("model URI", "requested_uri")]
    shown = next((item for item in candidates if old.get(item[1]) != new.get(item[1])), None)
    for name, key in filter(None, [shown, ("flavor", "flavor"), ("runtime", "runtime")]):
        if old.get(key) != new.get(key):
            yield name, old.get(key), new.get(key)


def read_label_text(label: str | None) -> dict[str, Any]:
    """Returns the content of a label; empty if there is none, or it was damaged by hand."""
    try:
        table = json.loads(label or "{}")
    except ValueError:
        return {}
    parts = [table, *(table.get(key, {}) for key in ("provenance", "settings"))] if isinstance(table, dict) else [table]
    return table if all(isinstance(part, dict) for part in parts) else {}
