"""Builds the image of a model and pushes it to the endpoint's repository.

inputs         everything that goes into the image, and the key computed from it
runtime        what runs the model: its own library, or ONNX Runtime if the predictions match
model_image    resolve → (does the image exist?) → Bento → layers → push
webhook_image  the webhook service: this package (this_package) and its dependencies
models · base_image · repository    locate models, the base image and existing images
smoke_test · reporting              the test before an image is tagged, and progress messages

An image's tag is a digest of its inputs, and tags in the repository are immutable. If the tag exists, there is nothing
to build; if not, layers shared with other images are not uploaded again.
"""

from __future__ import annotations

from mlflow_fargate.publisher.base_image import registry_at
from mlflow_fargate.publisher.inputs import image_inputs, image_labels
from mlflow_fargate.publisher.model_image import Publisher
from mlflow_fargate.publisher.webhook_image import WebhookPublisher

__all__ = ["Publisher", "WebhookPublisher", "image_inputs", "image_labels", "registry_at"]
