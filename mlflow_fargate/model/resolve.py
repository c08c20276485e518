"""A model URI becomes a `ResolvedModel`: which version it is, where its files lie, what it is made of.

It is resolved once: what is deployed later is exactly what was seen here. uri.py finds the folder, the stores of
artifacts.py read in it, cache.py downloads it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import mlflow
import yaml

from mlflow_fargate.errors import ModelNotFound, ModelUnusable, UntrustedSource
from mlflow_fargate.model.artifacts import ArtifactStore, ArtifactStores, check_paths
from mlflow_fargate.model.sources import is_local
from mlflow_fargate.model.uri import MODEL_URI_FORMS, ModelRegistry, Place
from mlflow_fargate.progress import Progress, format_bytes
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel, without_credentials

_MLMODEL_LIMIT_BYTES = 8 << 20  # signatures of wide tables are long
_TEXT_LIMIT_BYTES = 1 << 20
_LABELS = "*labels*.json"


def resolve_model(
    uri: str,
    *,
    stores: ArtifactStores,
    progress: Progress,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    labels: str | None = None,
) -> ResolvedModel:
    """The model behind `uri`, down to its files; ModelNotFound or ModelUnusable when there is none to serve.

    `tracking_uri` and `registry_uri`: None for MLflow's own settings. `labels` names the labels file of an image
    classifier (in the model, at its run's root, or a URI); None: found by its name; 'none': there is to be none.
    """
    registry = _registry(tracking_uri, registry_uri)
    place = registry.follow(uri.strip())
    store = stores.for_uri(place.artifact_uri)
    files = store.files(place.artifact_uri)
    _check_is_model(files, uri, place.artifact_uri)
    model = _read_model(uri, place, files, store)
    found = _find_labels(model, labels, registry, stores)
    if found:
        root, file = found
        model = dataclasses.replace(model, labels_uri=f"{root}/{file.path}", labels_etag=file.etag)
        progress.note(f"labels: {without_credentials(model.labels_uri or '')}")
    size = format_bytes(model.size_bytes)
    progress.note(f"{model.requested_uri} is {model.resolved_uri}: {len(files)} files, {size}, {model.artifact_uri}")
    return model


def tag_model_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    """Writes tags on a version in MLflow's model registry; ModelNotFound says why when it does not take them."""
    _registry(None, None).tag_version(name, version, tags)


def _registry(tracking_uri: str | None, registry_uri: str | None) -> ModelRegistry:
    return ModelRegistry(tracking_uri or mlflow.get_tracking_uri(), registry_uri or mlflow.get_registry_uri())


def _check_is_model(files: tuple[ModelFile, ...], uri: str, root: str) -> None:
    shown, root = without_credentials(uri), without_credentials(root)
    if not files:
        raise ModelNotFound(f"{shown} leads to {root}, and there are no files.", hint=f"model URIs: {MODEL_URI_FORMS}")
    check_paths(files, root)
    if any(file.path == "MLmodel" for file in files):
        return
    below = [file.path for file in files if file.path.endswith("/MLmodel")]
    hint = f"a model lies in: {below[0].removesuffix('/MLmodel')}" if below else "log it with mlflow.FLAVOR.log_model()"
    raise ModelUnusable(f"{shown} is not an MLflow model: {root} holds no file named MLmodel.", hint=hint)


def _read_model(uri: str, place: Place, files: tuple[ModelFile, ...], store: ArtifactStore) -> ResolvedModel:
    limits = {
        "MLmodel": _MLMODEL_LIMIT_BYTES,
        "requirements.txt": _TEXT_LIMIT_BYTES,
        "python_env.yaml": _TEXT_LIMIT_BYTES,
    }
    names = [file.path for file in files if file.path in limits]
    with ThreadPoolExecutor(len(names)) as pool:
        contents = dict(
            zip(names, pool.map(lambda name: store.read(place.artifact_uri, name, limits[name]), names), strict=True)
        )
    metadata = _parse_mlmodel(contents["MLmodel"], place.artifact_uri)
    run_id = place.run_id or metadata.get("run_id")
    return ResolvedModel(
        requested_uri=without_credentials(uri),
        resolved_uri=place.resolved_uri,
        artifact_uri=place.artifact_uri,
        files=tuple(_with_digest(file, contents) for file in files),
        metadata=metadata,
        requirements=_requirement_lines(contents.get("requirements.txt", b"")),
        python_version=_python_version(contents.get("python_env.yaml", b""), metadata),
        name=place.name,
        version=place.version,
        run_id=str(run_id) if run_id else None,
    )


def _with_digest(file: ModelFile, contents: Mapping[str, bytes]) -> ModelFile:
    # Without ETags two models of the same sizes would look the same; MLmodel holds an id and a time of its own.
    if file.etag or file.path not in contents:
        return file
    return dataclasses.replace(file, etag=sha256(contents[file.path]).hexdigest())


def _parse_mlmodel(content: bytes, root: str) -> dict[str, Any]:
    try:
        metadata = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ModelUnusable(f"{without_credentials(root)}/MLmodel is not YAML: {error}") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("flavors"), dict):
        raise ModelUnusable(f"{without_credentials(root)}/MLmodel names no flavors, so nothing can load it.")
    return metadata


def _requirement_lines(content: bytes) -> tuple[str, ...]:
    lines = (line.strip() for line in content.decode("utf-8", errors="replace").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _python_version(python_env: bytes, metadata: Mapping[str, Any]) -> str | None:
    # Not parsed as YAML, to which 3.10 is the number 3.1.
    told = re.search(rb"^python:\s*['\"]?(\d+(?:\.\d+)*)", python_env, re.MULTILINE)
    if told:
        return told[1].decode()
    flavor = metadata["flavors"].get("python_function") or {}
    version = flavor.get("python_version") if isinstance(flavor, dict) else None
    return str(version) if version else None


def _find_labels(
    model: ResolvedModel, named: str | None, registry: ModelRegistry, stores: ArtifactStores
) -> tuple[str, ModelFile] | None:
    """Root and file of the labels: in the model first, then at the root of the run that made it."""
    if named == "none":
        return None
    if named and (not is_local(named) or named.startswith(("/", "file:"))):
        root, _, name = named.rpartition("/")
        return _the_labels(root, stores.for_uri(root).files(root, recursive=False), name, stores)
    if inside := _pick_labels(model.files, named, model.resolved_uri):
        return model.artifact_uri, inside
    # The run that a bare path or s3:// URI tells of may be on any server.
    has_run = model.run_id and model.resolved_uri.startswith(("models:", "runs:"))
    if beside_run := _run_root(registry, model.run_id if has_run else None, is_needed=named is not None):
        files = stores.for_uri(beside_run).files(beside_run, recursive=False)
        if beside := _pick_labels(files, named, beside_run):
            return _the_labels(beside_run, files, beside.path, stores)
    if named:
        raise ModelNotFound(
            f"There is no labels file '{named}' in {model.resolved_uri}, nor at its run's root.",
            hint="log it in the model's run: mlflow.log_artifact('labels.json'); or name its URI: labels=s3://…",
        )
    return None


def _run_root(registry: ModelRegistry, run_id: str | None, *, is_needed: bool) -> str | None:
    try:
        return registry.run_root(run_id) if run_id else None
    except UntrustedSource:
        if is_needed:
            raise
        return None  # most models have no labels, and need nothing of their run


def _pick_labels(files: tuple[ModelFile, ...], named: str | None, where: str) -> ModelFile | None:
    by_path = {file.path: file for file in files}
    for usual in (named,) if named else ("extra_files/labels.json", "labels.json"):
        if usual in by_path:
            return by_path[usual]
    pattern = named or _LABELS
    alike = [file for file in files if fnmatchcase(file.path.rpartition("/")[2], pattern)]
    if len(alike) > 1:
        raise ModelUnusable(
            f"{without_credentials(where)} has several labels files: {', '.join(file.path for file in alike)}.",
            hint=f"name the one to serve with: labels={alike[0].path} (or labels=none)",
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
    raise ModelNotFound(f"There is no labels file {without_credentials(f'{root}/{name}')}.")
