"""Loads the models and finds the files that a custom service was deployed with.

    from deployed import load_model

    generator = load_model("generator")        # from -C models.generator=models:/digits/Production
    model = load_model()                       # from -m models:/digits/Production

The service's own files are next to its service.py, as they were when it was deployed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

THE_MODEL = "model"  # the key of the model given with -m


def model_path(key: str = THE_MODEL) -> Path:
    """Returns the folder of an MLflow model; raises KeyError if no model was deployed under that key."""
    path = Path(os.environ["MODEL_DIR"]) if key == THE_MODEL else Path(os.environ["MODELS_DIR"]) / key
    if not (path / "MLmodel").is_file():
        there = sorted(folder.name for folder in path.parent.iterdir()) if path.parent.is_dir() else []
        raise KeyError(f"no model was deployed as {key!r}; add one with -C models.{key}=models:/… (deployed: {there})")
    return path


def load_model(key: str = THE_MODEL) -> Any:
    """Returns the model as an mlflow.pyfunc.PyFuncModel; load other flavors yourself from `model_path`."""
    import mlflow.pyfunc  # noqa: PLC0415  # slow, and not every custom service needs it

    return mlflow.pyfunc.load_model(str(model_path(key)))
