"""Converts a document to the classifiers' inputs, in training too: the IDs of its first ten words, and its image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

WORDS = 10
SIDE = 100

ReadWords = Callable[[str], list[str]]


def make_words_reader(pipeline: Any) -> ReadWords:
    """Returns a function that extracts the meaningful words of a text with a spaCy pipeline, in lower case."""
    return lambda text: [token.lower_ for token in pipeline(text) if token.is_alpha and not token.is_stop]


def make_inputs(words: list[str], picture: Image.Image, word_ids: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Returns a batch of one: `words` (1, 10), the first ten known words, and `image` (1, 100, 100, 3)."""
    known = [word_ids[word] for word in words if word in word_ids][:WORDS]
    ids = np.array([known + [0] * (WORDS - len(known))], dtype="int32")
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE)), dtype="float32")
    return {"words": ids, "image": pixels[np.newaxis] / 255}
