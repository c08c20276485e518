"""Turns a model URI into files on this machine.

resolve      entry point: URI → ResolvedModel (version, files, labels)
uri          follows the model registry and runs to the model's folder
sources      where a URI from MLflow is allowed to point; compares origins
server       requests to the tracking server, without following redirects
documents    MLmodel, conda.yaml and requirements → typed, bounded values
artifacts    artifact stores: S3, the tracking server's artifact service, this machine
cache        files, downloaded once
logged       what training code has → URI; moves stages and aliases
"""

from __future__ import annotations

from mlflow_fargate.model.artifacts import ArtifactStore, ArtifactStores
from mlflow_fargate.model.cache import download_model, labels_file
from mlflow_fargate.model.resolve import resolve_model, tag_model_version

__all__ = [
    "ArtifactStore",
    "ArtifactStores",
    "download_model",
    "labels_file",
    "resolve_model",
    "tag_model_version",
]
