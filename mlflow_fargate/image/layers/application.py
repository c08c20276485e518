"""The layers that only this image has: the service's code, and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, digest_of_file, files_below, make_layer_key
from mlflow_fargate.image.layers.paths import MODEL, MODELS, SOURCE
from mlflow_fargate.image.layers.streamed_file import StreamedFile

ModelFiles = Files | Callable[[], Files]
"""Path below the model's root → file; a callable is called only when the files are needed."""


@dataclass(frozen=True)
class Model:
    """A model's files, and a key that must change when they do. The files are not read until they are needed."""

    files: ModelFiles
    key: str
    about: str = "model"


def make_service_recipe(directory: Path, compression: Compression) -> Recipe:
    """Returns the layer with the code in `directory`, without Python's compiled files."""
    found = files_below(directory, SOURCE.lstrip("/"))
    files: dict[str, Path] = {name: path for name, path in found.items() if "/__pycache__/" not in name}
    digests = {name: digest_of_file(path) for name, path in files.items()}

    def entered() -> AbstractContextManager[Files]:
        return nullcontext(files)

    return Recipe("service", make_layer_key("service", compression, files=digests), entered, about="service code")


def make_model_recipes(model: Model, further: Mapping[str, Model], compression: Compression) -> list[Recipe]:
    """Returns the layers of the deployed model and of the additional ones, ordered by name."""
    beside = [make_model_recipe(one, compression, further=name) for name, one in sorted(further.items())]
    return [make_model_recipe(model, compression), *beside]


def make_model_recipe(model: Model, compression: Compression, *, further: str | None = None) -> Recipe:
    """Returns the layer with the model; `further` is the name of an additional model."""
    folder = (f"{MODELS}/{further}" if further else MODEL).lstrip("/")
    place = {"place": further} if further else {}

    @contextmanager
    def files() -> Iterator[Files]:
        found = model.files() if callable(model.files) else model.files
        yield {f"{folder}/{name}": path for name, path in found.items()}

    name = f"model-{further}" if further else "model"
    is_streamed = not callable(model.files) and any(isinstance(file, StreamedFile) for file in model.files.values())
    key = make_layer_key("model", compression, model=model.key, **place)
    return Recipe(name, key, files, is_streamed=is_streamed, about=model.about)
