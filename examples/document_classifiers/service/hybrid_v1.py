"""The walk-through's document classifier: `POST /predict_document_labels_mcr`, an image file → {"document_type": …}.

mlflow deployments create -t fargate -m models:/documents-v1/1 --name documents \\
    -C service=hybrid_v1.py -C models.words=models:/documents-words/1
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from document_classifier import DocumentClassifier, DocumentReader, open_picture


@bentoml.service(name="document_classifier")
class DocumentService:
    """Classifies the document in an image."""

    def __init__(self) -> None:
        self.classifier = DocumentClassifier(DocumentReader())
        self.labels = self.classifier.read_labels("labels.json")

    @bentoml.api
    def predict_document_labels_mcr(self, image: Path) -> dict[str, str]:
        """Returns the kind of the document."""
        (kind,) = self.classifier.classify(open_picture(image))
        return {"document_type": self.labels[kind]}
