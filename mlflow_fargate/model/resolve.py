"""Resolves a model URI to a `ResolvedModel`: its version, the location of its files, and its metadata.

It is resolved once, so what is deployed later is exactly what was read here. uri.py finds the folder, the stores of
artifacts.py read it, cache.py downloads it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlflow

from mlflow_fargate.errors import ModelNotFound, ModelUnusable, UntrustedSource, did_you_mean
from mlflow_fargate.model.artifacts import ArtifactStore, ArtifactStores, check_paths
from mlflow_fargate.model.documents import parse_conda, parse_mlmodel, parse_requirements, python_version
from mlflow_fargate.model.sources import is_local
from mlflow_fargate.model.uri import MODEL_URI_FORMS, ModelRegistry, Place
from mlflow_fargate.progress import Progress, format_bytes
from mlflow_fargate.requirement_files import included_lines
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel, without_credentials

_MLMODEL_LIMIT_BYTES = 8 << 20  # signatures of wide tables are long
_TEXT_LIMIT_BYTES = 1 << 20
_LABELS = "*labels*.json"
_POINTER, _POINTER_BYTES, _MOST_POINTERS = b"version https://git-lfs.github.com/spec/", range(120, 140), 20


def resolve_model(
    uri: str,
    *,
    stores: ArtifactStores,
    progress: Progress,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    labels: str | None = None,
) -> ResolvedModel:
    """Returns the model at `uri` with its files; raises ModelNotFound or ModelUnusable if it cannot be served.

    `tracking_uri` and `registry_uri` default to MLflow's settings. `labels` names the labels file of an image
    classifier (in the model, at its run's root, or a URI); None finds it by its name; 'none' uses no labels.
    """
    registry = _registry(tracking_uri, registry_uri)
    place = registry.follow(uri.strip())
    store = stores.for_uri(place.artifact_uri, progress.note)
    files = store.files(place.artifact_uri)
    _check_is_model(files, uri, place)
    model = _read_model(uri, place, files, store)
    found = _find_labels(model, labels, registry, stores)
    if found:
        root, file = found
        model = dataclasses.replace(model, labels_uri=f"{root}/{file.path}", labels_etag=file.etag)
        progress.note(f"labels: {without_credentials(model.labels_uri or '')}")
    size = format_bytes(model.size_bytes)
    is_named_otherwise = model.resolved_uri not in {model.requested_uri, model.artifact_uri}
    found_as = f"{model.resolved_uri}: " if is_named_otherwise else ""
    progress.note(f"{found_as}{len(files)} files, {size}, in {without_credentials(model.artifact_uri)}")
    return model


def tag_model_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Sets tags on a version in MLflow's model registry; raises ModelNotFound with the reason if MLflow refuses."""
    _registry(None, None).tag_version(name, version, tags)


def _registry(tracking_uri: str | None, registry_uri: str | None) -> ModelRegistry:
    return ModelRegistry(tracking_uri or mlflow.get_tracking_uri(), registry_uri or mlflow.get_registry_uri())


def _check_is_model(files: tuple[ModelFile, ...], uri: str, place: Place) -> None:
    shown, root = without_credentials(uri), without_credentials(place.artifact_uri)
    if not files:
        raise _no_files(shown, root, place)
    check_paths(files, root)
    if any(file.path == "MLmodel" for file in files):
        return
    below = [file.path for file in files if file.path.endswith("/MLmodel")]
    parent = root if shown.startswith("models:") else shown  # below a registered model's URI, there are no paths
    hint = (
        f"pass the folder that contains it: -m {parent.rstrip('/')}/{below[0].removesuffix('/MLmodel')}"
        if below
        else "log it with mlflow.FLAVOR.log_model()"
    )
    where = "it" if shown == root else f"'{root}'"
    raise ModelUnusable(f"'{shown}' is not an MLflow model: {where} does not contain a file named MLmodel.", hint=hint)


def _no_files(shown: str, root: str, place: Place) -> ModelNotFound:
    """Returns the error for a URI without files: often a registered model's name, or a wrong path in a run."""
    folder = Path(shown)
    if is_local(shown) and folder.is_file():
        return ModelNotFound(f"'{shown}' is a file.", hint="a model is a folder that contains a file named MLmodel")
    where = f"'{shown}'" if shown.rstrip("/") == root else f"'{shown}' resolves to '{root}', which"
    is_name = is_local(shown) and re.fullmatch(r"[\w.-]+", shown)
    hint = f"for a registered model: models:/{shown}/VERSION" if is_name else place.other_models
    if is_local(shown) and not hint:
        hint = did_you_mean(folder.name, [found.parent.name for found in folder.parent.glob("*/MLmodel")])
    return ModelNotFound(
        f"{where} does not exist or contains no files.", hint=hint or f"supported model URIs: {MODEL_URI_FORMS}"
    )


def _read_model(uri: str, place: Place, files: tuple[ModelFile, ...], store: ArtifactStore) -> ResolvedModel:
    limits = {
        "MLmodel": _MLMODEL_LIMIT_BYTES,
        "requirements.txt": _TEXT_LIMIT_BYTES,
        "python_env.yaml": _TEXT_LIMIT_BYTES,
        "conda.yaml": _TEXT_LIMIT_BYTES,
    }
    if any(file.path == "requirements.txt" for file in files):
        del limits["conda.yaml"]  # it says the same
    names = [file.path for file in files if file.path in limits]
    with ThreadPoolExecutor(len(names)) as pool:
        contents = dict(
            zip(names, pool.map(lambda name: store.read(place.artifact_uri, name, limits[name]), names), strict=True)
        )
    root = without_credentials(place.artifact_uri)
    _check_no_pointers(files, place.artifact_uri, contents, store)
    metadata = parse_mlmodel(contents["MLmodel"], f"{root}/MLmodel")
    _check_not_empty(files, root, metadata)
    conda = parse_conda(contents.get("conda.yaml", b""), f"{root}/conda.yaml")

    def lines_of(name: str) -> tuple[str, ...] | None:
        if all(file.path != name for file in files):
            return None
        content = contents.get(name) or store.read(place.artifact_uri, name, _TEXT_LIMIT_BYTES)
        return parse_requirements(content, f"{root}/{name}")

    lines = lines_of("requirements.txt") or conda.pip_lines
    return ResolvedModel(
        requested_uri=without_credentials(uri),
        resolved_uri=place.resolved_uri,
        artifact_uri=place.artifact_uri,
        files=tuple(_with_digest(file, contents) for file in files),
        metadata=metadata,
        requirements=tuple(included_lines(lines, lines_of)),
        conda_packages=conda.packages,
        python_version=python_version(contents.get("python_env.yaml", b""), metadata, f"{root}/python_env.yaml")
        or conda.python,
        name=place.name,
        version=place.version,
        run_id=place.run_id or metadata.get("run_id"),
        created=_created(place.created_ms, metadata),
        registered_ms=place.created_ms if place.version else None,
    )


def _check_no_pointers(
    files: tuple[ModelFile, ...], root: str, contents: Mapping[str, bytes], store: ArtifactStore
) -> None:
    """Raises ModelUnusable for a clone without Git LFS: small files have taken the place of large ones.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    for file in [file for file in files if file.size_bytes in _POINTER_BYTES][:_MOST_POINTERS]:
        content = contents.get(file.path) or store.read(root, file.path, _TEXT_LIMIT_BYTES)
        if content.startswith(_POINTER):
            raise ModelUnusable(
                f"{without_credentials(root)}/{file.path} is a Git LFS pointer, not the file itself.",
                hint="run `git lfs pull` where the model was copied from, then copy or log it again",
            )


def _check_not_empty(files: tuple[ModelFile, ...], root: str, metadata: Mapping[str, Any]) -> None:
    named = {text for conf in metadata["flavors"].values() for text in conf.values() if isinstance(text, str)}
    if empty := next((file.path for file in files if file.path in named and not file.size_bytes), None):
        raise ModelUnusable(
            f"{root}/{empty} is empty.", hint="the model was not copied completely: copy or log it again"
        )


def _with_digest(file: ModelFile, contents: Mapping[str, bytes]) -> ModelFile:
    # Without ETags, two models of the same size would look identical; MLmodel contains a unique ID and a time.
    if file.etag or file.path not in contents:
        return file
    return dataclasses.replace(file, etag=sha256(contents[file.path]).hexdigest())


def _created(registered_ms: object, metadata: Mapping[str, Any]) -> datetime | None:
    """Returns when the version was registered, else when the model was logged; None: neither is a valid time."""
    with suppress(ValueError, OverflowError, OSError):
        if registered_ms is not None:
            return datetime.fromtimestamp(max(0, int(str(registered_ms))) // 1000, timezone.utc)
        logged = datetime.fromisoformat(metadata.get("utc_time_created", ""))
        return logged.replace(tzinfo=timezone.utc, microsecond=0) if logged.year >= 1970 else None
    return None


def _find_labels(
    model: ResolvedModel, named: str | None, registry: ModelRegistry, stores: ArtifactStores
) -> tuple[str, ModelFile] | None:
    """Returns root and file of the labels: in the model first, then at the root of its run."""
    if named == "none":
        return None
    if named and (not is_local(named) or named.startswith(("/", "file:"))):
        root, _, name = named.rpartition("/")
        return _the_labels(root, stores.for_uri(root).files(root, recursive=False), name, stores)
    if inside := _pick_labels(model, model.files, named, model.resolved_uri):
        return model.artifact_uri, inside
    # The run that a plain path or s3:// URI refers to can be on any server.
    has_run = model.run_id and model.resolved_uri.startswith(("models:", "runs:"))
    if beside_run := _run_root(registry, model.run_id if has_run else None, is_needed=named is not None):
        files = stores.for_uri(beside_run).files(beside_run, recursive=False)
        if beside := _pick_labels(model, files, named, beside_run):
            return _the_labels(beside_run, files, beside.path, stores)
    if named:
        raise ModelNotFound(
            f"Labels file '{named}' was not found in '{model.resolved_uri}' or at the root of its run.",
            hint="log the file to the model's run with mlflow.log_artifact(), or give the file's URI: labels=s3://…",
        )
    return None


def _run_root(registry: ModelRegistry, run_id: str | None, *, is_needed: bool) -> str | None:
    try:
        return registry.run_root(run_id) if run_id else None
    except UntrustedSource:
        if is_needed:
            raise
        return None  # most models have no labels and do not need their run


def _pick_labels(model: ResolvedModel, files: tuple[ModelFile, ...], named: str | None, where: str) -> ModelFile | None:
    by_path = {file.path: file for file in files}
    for usual in (named,) if named else ("extra_files/labels.json", "labels.json"):
        if usual in by_path:
            return by_path[usual]
    pattern = named or _LABELS
    alike = [file for file in files if fnmatchcase(file.path.rpartition("/")[2], pattern)]
    if len(alike) > 1 and not named and not model.takes_images:
        return None  # only an image classifier needs one of them
    if len(alike) > 1:
        raise ModelUnusable(
            f"{without_credentials(where)} has several labels files: {', '.join(file.path for file in alike)}.",
            hint=f"choose one with labels={alike[0].path} (or labels=none)",
        )
    return alike[0] if alike else None


def _the_labels(root: str, files: tuple[ModelFile, ...], name: str, stores: ArtifactStores) -> tuple[str, ModelFile]:
    check_paths(tuple(file for file in files if file.path == name), root)
    for file in files:
        if file.path == name and file.etag:
            return root, file
        if file.path == name:
            content = stores.for_uri(root).read(root, name, _TEXT_LIMIT_BYTES)
            return root, dataclasses.replace(file, etag=sha256(content).hexdigest())
    raise ModelNotFound(f"Labels file {without_credentials(f'{root}/{name}')} not found.")
