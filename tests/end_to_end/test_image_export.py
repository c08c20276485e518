"""`mlflow-fargate image export` writes the image that a deployment would run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")


def test_the_image_of_a_model_is_exported_without_a_deployment(doubler: str, tmp_path: Path) -> None:
    command = [COMMAND, "image", "export", "-t", "fargate:/local/taken", "-m", doubler, str(tmp_path / "layout")]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    (entry,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())["config"]
    assert done.stdout.strip() == entry["digest"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    assert config["User"] == "65532:65532"
    assert all((blobs / layer["digest"][7:]).exists() for layer in manifest["layers"])


def test_the_image_is_exported_as_a_dockerfile_with_all_files_it_copies(doubler: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    command = [COMMAND, "image", "export", "-t", "fargate:/local/taken", "-m", doubler, "--dockerfile", str(context)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(context / "Dockerfile")
    copied = [line.split()[1] for line in (context / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    assert copied == ["requirements.txt", "src", "model"]
    assert all((context / name).exists() for name in copied)
    assert (context / "model" / "MLmodel").is_file()
    assert "--hash=sha256:" in (context / "requirements.txt").read_text()
