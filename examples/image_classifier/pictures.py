"""Training images: scikit-learn's handwritten digits as image files, one folder per label.

`write_pictures` replaces a download; `read_data` reads any folder of that layout, as the walk-through's training code
does, so you can use other images without changing the code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = (100, 100)


def write_pictures(folder: Path) -> None:
    """Writes `train/LABEL/*.png` and `test/LABEL/*.png` (every fifth picture), 100x100 in color."""
    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if number % 5 == 0 else "train"
        path = folder / part / LABELS[digit] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
        gray.resize(SIZE, Image.Resampling.BICUBIC).convert("RGB").save(path)


def read_data(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Returns images (n, 100, 100, 3) in 0..1, their label numbers, and {"0": label, …} from the folder names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = [(path, number) for number, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    pictures = np.stack([read_picture(path) for path, _ in paths])
    return pictures, np.array([number for _, number in paths]), {str(i): name for i, name in enumerate(names)}


def read_picture(path: Path) -> np.ndarray:
    """Returns one image in the model's input format."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize(SIZE), dtype=np.float32) / 255
