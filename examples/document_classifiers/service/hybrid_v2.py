"""The walk-through's two-level document classifier: `POST /predict_document_labels_som`, an image file → both levels.

mlflow deployments create -t fargate -m models:/documents-v2/1 --name documents \\
    -C service=hybrid_v2.py -C models.words=models:/documents-words/1
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from document_classifier import DocumentClassifier, DocumentReader, open_picture


@bentoml.service(name="two_level_document_classifier")
class TwoLevelDocumentService:
    """Classifies the document in an image on two levels."""

    def __init__(self) -> None:
        self.classifier = DocumentClassifier(DocumentReader())
        self.masters = self.classifier.read_labels("master_labels.json")
        self.labels = self.classifier.read_labels("sub_labels.json")

    @bentoml.api
    def predict_document_labels_som(self, image: Path) -> dict[str, str]:
        """Returns the kind of the document on both levels."""
        master, sub = self.classifier.classify(open_picture(image))
        return {"master document type": self.masters[master], "sub document type": self.labels[sub]}
