"""The layers that are ours alone: the service's code, and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, digest_of_file, files_below, make_layer_key
from mlflow_fargate.image.layers.paths import MODEL, MODELS, SOURCE
from mlflow_fargate.image.layers.streamed_file import StreamedFile

ModelFiles = Files | Callable[[], Files]
"""Path below the model's root → file; a callable is called only when the files are needed."""


def make_service_recipe(directory: Path, compression: Compression) -> Recipe:
    """The layer with the code in `directory`; what Python compiled there stays behind."""
    found = files_below(directory, SOURCE.lstrip("/"))
    files: dict[str, Path] = {name: path for name, path in found.items() if "/__pycache__/" not in name}
    digests = {name: digest_of_file(path) for name, path in files.items()}

    def entered() -> AbstractContextManager[Files]:
        return nullcontext(files)

    return Recipe("service", make_layer_key("service", compression, files=digests), entered)


def make_model_recipes(
    model: ModelFiles, model_key: str, further: Mapping[str, tuple[ModelFiles, str]], compression: Compression
) -> list[Recipe]:
    """The layers with the model that is deployed and, each by its key, the further ones with their model keys."""
    beside = [
        make_model_recipe(files, files_key, compression, further=key)
        for key, (files, files_key) in sorted(further.items())
    ]
    return [make_model_recipe(model, model_key, compression), *beside]


def make_model_recipe(
    model: ModelFiles, model_key: str, compression: Compression, *, further: str | None = None
) -> Recipe:
    """The layer with the model; `model_key` stands for its files, which are not looked at before they are needed.

    `further` is the key of a model beside the one that is deployed.
    """
    folder = (f"{MODELS}/{further}" if further else MODEL).lstrip("/")
    place = {"place": further} if further else {}

    @contextmanager
    def files() -> Iterator[Files]:
        found = model() if callable(model) else model
        yield {f"{folder}/{name}": path for name, path in found.items()}

    name = f"model-{further}" if further else "model"
    is_streamed = not callable(model) and any(isinstance(file, StreamedFile) for file in model.values())
    key = make_layer_key("model", compression, model=model_key, **place)
    return Recipe(name, key, files, is_streamed=is_streamed)
