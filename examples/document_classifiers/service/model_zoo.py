"""The walk-through's ModelZoo: both document classifiers on one deployment, with one reader for both.

mlflow deployments create -t fargate -m models:/documents-v1/1 --name zoo -C service=model_zoo.py \\
    -C models.two_level=models:/documents-v2/1 -C models.words=models:/documents-words/1
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from document_classifier import DocumentClassifier, DocumentReader, open_picture


@bentoml.service(name="model_zoo")
class ModelZoo:
    """Classifies the document in an image, on one level or on two."""

    def __init__(self) -> None:
        reader = DocumentReader()
        self.one_level, self.two_level = DocumentClassifier(reader), DocumentClassifier(reader, "two_level")
        self.labels = self.one_level.read_labels("labels.json")
        self.masters = self.two_level.read_labels("master_labels.json")
        self.subs = self.two_level.read_labels("sub_labels.json")

    @bentoml.api
    def predict_document_labels_mcr(self, image: Path) -> dict[str, str]:
        """Returns the kind of the document."""
        (kind,) = self.one_level.classify(open_picture(image))
        return {"document_type": self.labels[kind]}

    @bentoml.api
    def predict_document_labels_som(self, image: Path) -> dict[str, str]:
        """Returns the kind of the document on both levels."""
        master, sub = self.two_level.classify(open_picture(image))
        return {"master document type": self.masters[master], "sub document type": self.subs[sub]}
