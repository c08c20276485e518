"""Virtual environments for the peers, with pinned versions: MLServer requires an older FastAPI than the others."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench-serving"
_SAME = (
    "mlflow==3.17.2",
    "numpy==2.4.6",
    "pandas==3.1.1",
    "scikit-learn==1.9.1",
    "xgboost-cpu==3.2.0",
    "joblib==1.6.0",
)
# All run in `peers`, mlflow-fargate too, with the same libraries. bentoml is the version under test.
REQUIREMENTS = {
    "peers": (
        *_SAME,
        f"bentoml=={version('bentoml')}",
        "fastapi==0.165.0",
        "httptools==0.9.0",
        "litserve==0.2.19",
        "onnx==1.23.2",
        "onnxruntime==1.32.0",
        "orjson==3.13.0",
        "pillow==13.0.0",
        "python-multipart==0.0.34",
        "tensorflow-cpu==2.21.0",
        "uvicorn==0.54.0",
        "uvloop==0.23.0",
    ),
    "mlserver": (
        *(line for line in _SAME if not line.startswith("xgboost")),
        "xgboost==3.2.0",  # what its plugin requires
        "mlserver==1.7.1",
        "mlserver-mlflow==1.7.1",
        "mlserver-sklearn==1.7.1",
        "mlserver-xgboost==1.7.1",
    ),
}


def python_of(name: str) -> Path:
    """Returns the interpreter of the environment, which is made on first use."""
    lines = REQUIREMENTS[name]
    key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    folder = FOLDER / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        # As in an image: otherwise each start compiles, where PYTHONDONTWRITEBYTECODE is set, and takes more memory.
        install = [*uv, "pip", "install", "-q", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, *lines], check=True)
        (folder / "ready").touch()
    return python


def main_versions() -> str:
    """Returns the versions of the servers and of the libraries that they share."""
    lines = dict.fromkeys(line for lines in REQUIREMENTS.values() for line in lines)
    return ", ".join(line.replace("==", " ") for line in lines)
