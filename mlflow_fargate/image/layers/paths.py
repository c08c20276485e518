"""Paths in the image, and how it starts. `service_template` and `local/` rely on them."""

from __future__ import annotations

from typing import Any

SITE = "/opt/app/site"  # the packages of the lock
SOURCE = "/opt/app/src"  # the service's code and service.json
LOCKS = "/opt/app/locks"  # NAME.txt: the pins and hashes of the layer NAME, for image/sbom.py
MODEL = "/opt/app/model"  # the MLflow model directory
MODELS = "/opt/app/models"  # additional ones, one folder each
PORT = 3000

SETTINGS: dict[str, Any] = {
    # A number, so that a runtime can verify that it is not root; no entry in /etc/passwd is needed.
    "User": "65532:65532",
    "WorkingDir": SOURCE,
    "Entrypoint": ["python3", "-m", "fargate_service.serve"],
    # Fargate gives a volume the owner and mode of the image's folder only if the image declares it, else root's.
    # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/bind-mounts.html
    "Volumes": {"/tmp": {}},  # noqa: S108
    "ExposedPorts": {f"{PORT}/tcp": {}},
    "StopSignal": "SIGTERM",
}

ENVIRONMENT = {
    "PYTHONPATH": f"{SITE}:{SOURCE}",
    "MODEL_DIR": MODEL,
    "MODELS_DIR": MODELS,
    # The root file system can be read-only, except /tmp.
    "HOME": "/tmp",  # noqa: S108
    "BENTOML_HOME": "/tmp/bentoml",  # noqa: S108
    "BENTOML_HOST": "0.0.0.0",  # noqa: S104
    "BENTOML_PORT": str(PORT),
    "BENTOML_DO_NOT_TRACK": "true",
    # Nothing collects BentoML's traces by default, and creating them takes a quarter of a millisecond per request.
    # environment.OTEL_SDK_DISABLED=false turns them on.
    "OTEL_SDK_DISABLED": "true",
    # Where BentoML's supervisor runs, a worker that cannot load its model stops the container; otherwise it restarts
    # forever, unnoticed by ECS.
    "BENTOML_CONTAINERIZED": "true",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
