"""What a custom service was deployed with: its models and their labels.

    from deployed import load_model

    generator = load_model("generator")        # of -C models.generator=models:/digits/Production
    model = load_model()                       # of -m models:/digits/Production

The service's own files lie beside its service.py, as they did when it was deployed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

THE_MODEL = "model"  # the key of the one that was named by -m


def model_path(key: str = THE_MODEL) -> Path:
    """The folder of an MLflow model; KeyError when nothing was deployed under that key."""
    path = Path(os.environ["MODEL_DIR"]) if key == THE_MODEL else Path(os.environ["MODELS_DIR"]) / key
    if not (path / "MLmodel").is_file():
        there = sorted(folder.name for folder in path.parent.iterdir()) if path.parent.is_dir() else []
        raise KeyError(f"no model was deployed as {key!r}; -C models.{key}=models:/… names one (there: {there})")
    return path


def load_model(key: str = THE_MODEL) -> Any:
    """The model as an mlflow.pyfunc.PyFuncModel; other flavors load by themselves from `model_path`."""
    import mlflow.pyfunc  # noqa: PLC0415  # slow, and not every custom service needs it

    return mlflow.pyfunc.load_model(str(model_path(key)))
