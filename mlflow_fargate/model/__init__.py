"""A model URI becomes files on this machine.

resolve      the story: URI → ResolvedModel (which version, which files, which labels)
uri          through the model registry and runs to the folder where the model lies
sources      which places a URI from MLflow may lead to; origins compared
server       requests to the tracking server, which follow no redirect
artifacts    the stores in which folders lie: S3, the tracking server's artifact service, this machine
cache        files, downloaded once
flavors      has the model the flavor that was asked for
logged       what training code has in hand → URI; moving stages and aliases
"""

from __future__ import annotations

from mlflow_fargate.model.artifacts import ArtifactStore, ArtifactStores
from mlflow_fargate.model.cache import download_model, labels_file
from mlflow_fargate.model.flavors import check_flavor
from mlflow_fargate.model.resolve import resolve_model, tag_model_version

__all__ = [
    "ArtifactStore",
    "ArtifactStores",
    "check_flavor",
    "download_model",
    "labels_file",
    "resolve_model",
    "tag_model_version",
]
