"""A deployed document classifier: from an image to the network's inputs, and its answer.

Beside the network lie `tokenizer.json`, the fitted Keras Tokenizer, and the labels. The spaCy pipeline is a model of
its own, deployed as `-C models.words=…`. RapidOCR reads the pictures; its networks come in its wheel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow.spacy
import numpy as np
from bentoml.exceptions import InvalidArgument
from deployed import THE_MODEL, load_model, model_path
from document_reading import make_inputs, make_words_reader
from PIL import Image
from rapidocr_onnxruntime import RapidOCR

MAX_PIXELS = 50 * 10**6


def open_picture(file: Path) -> Image.Image:
    """Returns the image in an uploaded file; raises InvalidArgument (400) if it is not an image."""
    try:
        picture = Image.open(file, formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))
        # Only the header has been read so far: a small file can contain a huge image.
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError("too large")
        return picture.convert("RGB")
    except Exception as error:  # decoders raise many types of exceptions
        raise InvalidArgument("The uploaded file is not a readable image.") from error


class DocumentReader:
    """Reads the words of an image; shared by all classifiers of a service, because it holds the largest networks."""

    def __init__(self) -> None:
        self._ocr = RapidOCR()
        self._read_words = make_words_reader(mlflow.spacy.load_model(str(model_path("words"))))

    def read(self, picture: Image.Image) -> list[str]:
        """Returns the words in reading order; empty if there is no text."""
        found, _ = self._ocr(np.asarray(picture)[..., ::-1])  # it expects OpenCV's color order
        words: list[str] = self._read_words("\n".join(text for _, text, _ in found or ()))
        return words


class DocumentClassifier:
    """The network deployed as `key`, with its tokenizer and labels."""

    def __init__(self, reader: DocumentReader, key: str = THE_MODEL) -> None:
        self._folder = model_path(key)
        self._reader = reader
        self._network = load_model(key)
        self._word_ids = json.loads(self._read("tokenizer.json")["config"]["word_index"])
        self.classify(Image.new("RGB", (64, 64)))  # the first prediction is slow: make it before any request

    def read_labels(self, file: str) -> dict[str, str]:
        """{"0": label, …}"""
        labels: dict[str, str] = self._read(file)
        return labels

    def classify(self, picture: Image.Image) -> list[str]:
        """Returns the class number of each of the network's heads, in the order of their names."""
        answers = self._network.predict(make_inputs(self._reader.read(picture), picture, self._word_ids))
        heads = [answers[name] for name in sorted(answers)] if isinstance(answers, dict) else [answers]
        return [str(np.asarray(head)[0].argmax()) for head in heads]

    def _read(self, file: str) -> Any:
        return json.loads((self._folder / file).read_text(encoding="utf-8"))
