"""Calls the deployed classifier exactly as the walk-through's client does, and measures its accuracy.

python -m examples.image_classifier.client http://…/digits PICTURES
"""

from __future__ import annotations

import sys
from pathlib import Path

import requests


def predict_label(url: str, picture: Path, session: requests.Session | None = None) -> str:
    """Returns the model's label for an image."""
    image_bytes = picture.read_bytes()
    post = (session or requests).post
    response = post(url + "/predict_image", files={"image": ("test_image", image_bytes)}, timeout=30)
    response.raise_for_status()
    return str(response.json()["label"])


def measure_accuracy(url: str, pictures: Path) -> float:
    """Returns the share of the images in `LABEL/*.png` that the model labels correctly, from 0 to 1."""
    paths = sorted(pictures.glob("*/*.png"))
    with requests.Session() as session:
        right = sum(predict_label(url, path, session) == path.parent.name for path in paths)
    return right / len(paths)


if __name__ == "__main__":
    print(f"{measure_accuracy(sys.argv[1], Path(sys.argv[2])):.4f}")
