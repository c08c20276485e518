"""Trains the walk-through's document classifiers and registers them, with the spaCy pipeline that both use.

    python -m examples.document_classifiers.train NAME [EPOCHS]

Registers NAME-words, NAME-v1 (one level) and NAME-v2 (two levels). The inputs of both networks are the IDs of ten words
and a 100x100 image. Set MLFLOW_TRACKING_URI to your tracking server. Requires spaCy: pip install spacy
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import spacy
import tensorflow as tf
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import infer_signature

from examples.document_classifiers.documents import KINDS, MASTER_OF, MASTERS, Document, draw_documents
from examples.document_classifiers.service.document_reading import SIDE, WORDS, make_inputs, make_words_reader

DOCUMENTS_OF_A_KIND = 80
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """Training data for the networks."""

    inputs: Arrays
    kinds: Sequence[str]
    tokenizer: str  # the fitted Keras Tokenizer, as its to_json() writes it
    words: int


def train(name: str, *, epochs: int, seed: int = 1) -> list[ModelVersion]:
    """Trains and returns the registered versions: words, one level, two levels."""
    keras.utils.set_random_seed(seed)
    mlflow.set_experiment(name)
    pipeline = spacy.blank("en")  # splits words and knows stop words; needs no download
    data = make_data(list(draw_documents(DOCUMENTS_OF_A_KIND, seed=seed)), pipeline)
    with mlflow.start_run():
        words = mlflow.spacy.log_model(pipeline, name="words", registered_model_name=f"{name}-words")
        one_level = log_classifier(data, {"document": KINDS}, {"labels.json": KINDS}, epochs=epochs)
        heads = {"master": MASTERS, "sub": KINDS}
        labels = {"master_labels.json": MASTERS, "sub_labels.json": KINDS}
        two_levels = log_classifier(data, heads, labels, epochs=epochs)
    versions = [mlflow.register_model(uri, f"{name}-{level}") for uri, level in ((one_level, "v1"), (two_levels, "v2"))]
    return [mlflow.MlflowClient().get_model_version(f"{name}-words", words.registered_model_version), *versions]


def make_data(documents: Sequence[Document], pipeline: Any) -> Data:
    """Returns the training data; the text of these documents is known, so no OCR is needed."""
    read_words = make_words_reader(pipeline)
    words = [read_words(document.text) for document in documents]
    tokenizer = tf.keras.preprocessing.text.Tokenizer()
    tokenizer.fit_on_texts(words)
    rows = [
        make_inputs(of_one, document.picture, tokenizer.word_index)
        for of_one, document in zip(words, documents, strict=True)
    ]
    inputs = {key: np.concatenate([row[key] for row in rows]) for key in ("words", "image")}
    kinds = [document.kind for document in documents]
    return Data(inputs, kinds, tokenizer.to_json(), len(tokenizer.word_index) + 1)


def make_network(words: int, heads: Mapping[str, Sequence[str]]) -> keras.Model:
    """Returns a network: ten word IDs and an image → a softmax for each head."""
    ids = keras.Input((WORDS,), dtype="int32", name="words")
    picture = keras.Input((SIDE, SIDE, 3), name="image")
    text = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(words, 16)(ids))
    look = keras.layers.Conv2D(8, 5, strides=5, activation="relu")(picture)
    features = keras.layers.Concatenate()([text, keras.layers.GlobalMaxPooling2D()(look)])
    features = keras.layers.Dense(32, activation="relu")(features)
    answers = {
        name: keras.layers.Dense(len(labels), activation="softmax", name=name)(features)
        for name, labels in heads.items()
    }
    return keras.Model([ids, picture], answers if len(answers) > 1 else next(iter(answers.values())))


def log_classifier(
    data: Data, heads: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]], *, epochs: int
) -> str:
    """Trains a network, logs it with its tokenizer and labels files, and returns its URI."""
    network = make_network(data.words, heads)
    targets = {name: np.array([_number_of(kind, classes) for kind in data.kinds]) for name, classes in heads.items()}
    network.compile(optimizer=keras.optimizers.Adam(5e-3), loss="sparse_categorical_crossentropy")
    network.fit(data.inputs, targets if len(heads) > 1 else next(iter(targets.values())), epochs=epochs, verbose=0)
    one = {key: array[:1] for key, array in data.inputs.items()}
    signature = infer_signature(one, network.predict(one, verbose=0))
    logged = mlflow.tensorflow.log_model(network, name="-".join(heads), signature=signature)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(data.tokenizer)
        for file, classes in labels.items():
            (Path(folder) / file).write_text(json.dumps({str(number): label for number, label in enumerate(classes)}))
        mlflow.MlflowClient().log_model_artifacts(logged.model_id, folder)
    return str(logged.model_uri)


def _number_of(kind: str, classes: Sequence[str]) -> int:
    return classes.index(kind if kind in classes else MASTER_OF[kind])


if __name__ == "__main__":
    for version in train(sys.argv[1], epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 15):
        print(f"registered {version.name} version {version.version}")
