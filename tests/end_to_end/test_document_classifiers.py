"""The walk-through's document classifiers and ModelZoo: trained, deployed to the local stack, and queried."""

from __future__ import annotations

import io

import pytest
import requests
from mlflow.deployments import get_deploy_client

from examples.document_classifiers.documents import MASTER_OF, Document, draw_documents
from support.deployed_services import deployed, service_of, train

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

EXAMPLE = "document_classifiers"
SHOWN = list(draw_documents(2, seed=2026))  # none of those that the networks were trained on
WORDS = {"models.words": "models:/documents-words/1", "cpu": 2048, "memory": 4096}


@pytest.fixture(scope="module")
def documents(local_stack: dict[str, str]) -> None:
    """documents-words, documents-v1 and documents-v2, registered."""
    pytest.importorskip("spacy", reason="spaCy is not installed; make test-all installs it")
    train(EXAMPLE, "documents", 15)


def show(url: str, document: Document, field: str = "image") -> dict[str, str]:
    """Returns the service's response to the walk-through's request."""
    file = io.BytesIO()
    document.picture.save(file, "PNG")
    response = requests.post(url, files={field: ("test_image", file.getvalue())}, timeout=120)
    response.raise_for_status()
    answer: dict[str, str] = response.json()
    return answer


def test_the_classifier_predicts_the_kind_of_document(documents: None) -> None:
    with deployed(
        "documents", "models:/documents-v1/1", {"service": service_of(EXAMPLE, "hybrid_v1.py"), **WORDS}
    ) as url:
        told = [show(f"{url}/predict_document_labels_mcr", document) for document in SHOWN]

    assert told == [{"document_type": document.kind} for document in SHOWN]


def test_the_two_level_classifier_predicts_both_levels(documents: None) -> None:
    with deployed(
        "documents", "models:/documents-v2/1", {"service": service_of(EXAMPLE, "hybrid_v2.py"), **WORDS}
    ) as url:
        told = [show(f"{url}/predict_document_labels_som", document) for document in SHOWN]

    assert told == [
        {"master document type": MASTER_OF[document.kind], "sub document type": document.kind} for document in SHOWN
    ]


def test_the_zoo_serves_both_routes_of_one_deployment(documents: None) -> None:
    config = {"service": service_of(EXAMPLE, "model_zoo.py"), "models.two_level": "models:/documents-v2/1", **WORDS}
    with deployed("zoo", "models:/documents-v1/1", config) as url:
        one_level = [show(f"{url}/predict_document_labels_mcr", document) for document in SHOWN[:4]]
        two_levels = [show(f"{url}/predict_document_labels_som", document) for document in SHOWN[:4]]
        refused = requests.post(f"{url}/predict_document_labels_mcr", files={"image": ("x.png", b"none")}, timeout=60)
        found = get_deploy_client("fargate:/local").get_deployment("zoo")

    assert [answer["document_type"] for answer in one_level] == [document.kind for document in SHOWN[:4]]
    assert [answer["sub document type"] for answer in two_levels] == [document.kind for document in SHOWN[:4]]
    assert refused.status_code == 400
    assert found["model_version"] == "1"
