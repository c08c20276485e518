"""What benchmarks/limits.py sends: ordinary requests, the largest that are permitted, and hostile ones."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.limits_models import COLUMNS
from tests.support.hostile_bodies import csv_bodies, json_bombs, json_values
from tests.support.hostile_images import FORMATS, black_png, hostile_images

JSON = "application/json"
IMAGE = "application/octet-stream"
SIDE = 100


@dataclass(frozen=True)
class Load:
    """One kind of request; of the largest bodies, sorted by size, the first is sent that is not refused with 413."""

    name: str
    path: str
    content_type: str
    bodies: Sequence[bytes]
    is_largest: bool = False
    is_hostile: bool = False


def tables() -> list[Load]:
    """Returns what is sent to the scikit-learn model."""
    path = "/invocations"
    hostile_json = [*json_bombs().values(), *(body for form in json_values().values() for body in form.values())]
    return [
        Load("1 row", path, JSON, [_table(1)]),
        Load("1,000 rows", path, JSON, [_table(1000)]),
        Load("3.5 MB", path, JSON, [_table(17_000)]),
        Load("largest body", path, JSON, [_table(1000 * rows) for rows in (97, 72, 48, 24, 12, 6)], is_largest=True),
        Load("hostile JSON", path, JSON, hostile_json, is_hostile=True),
        Load("hostile CSV", path, "text/csv", list(csv_bodies().values()), is_hostile=True),
    ]


def images() -> list[Load]:
    """Returns what is sent to the classifiers."""
    path, random = "/predict_image", np.random.default_rng(1)
    small = _file(random.integers(0, 40, (SIDE, SIDE, 3), dtype="uint8") // 16, "PNG")
    phone = _file(random.integers(0, 256, (250, 333, 3), dtype="uint8").repeat(12, 0).repeat(12, 1), "JPEG")
    largest = [black_png(side, side, 4) for side in (7000, 5000, 3500, 2500, 1800, 1200, 800)]
    hostile = [body for image_format in FORMATS for body in hostile_images(image_format).values()]
    pixels = random.random((1, SIDE, SIDE, 3)).round(4)
    tensors = [json.dumps({"instances": pixels.repeat(count, 0).tolist()}).encode() for count in (80, 40, 20, 10, 5, 1)]
    return [
        Load(f"PNG of {len(small) / 1000:.0f} kB", path, IMAGE, [small]),
        Load("JPEG of 12 megapixels", path, IMAGE, [phone]),
        Load("largest PNG", path, IMAGE, largest, is_largest=True),
        Load("largest body", "/invocations", JSON, tensors, is_largest=True),
        Load("hostile images", path, IMAGE, hostile, is_hostile=True),
    ]


def _table(rows: int) -> bytes:
    data = np.random.default_rng(1).random((rows, len(COLUMNS))).tolist()
    return json.dumps({"dataframe_split": {"columns": COLUMNS, "data": data}}).encode()


def _file(pixels: np.ndarray, image_format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, image_format)
    return content.getvalue()
