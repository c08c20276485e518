"""The story's first half: a model becomes an image in the endpoint's repository.

inputs         all that goes into the image, and the key of it
runtime        what computes in it: the model's own library, or ONNX Runtime if that answers the same
model_image    resolve → (is the image there already?) → Bento → layers → push
webhook_image  the webhook service: this package (this_package), what it needs, and no model
models · base_image · repository    where models, the base and images that exist are found
smoke_test · reporting              what is tested before an image gets its name, and what people are told

An image's tag is made of all that went into it, and tags in the repository never move. So where the tag exists there is
nothing to build, and where it does not, the layers that other images share are not sent again.
"""

from __future__ import annotations

from mlflow_fargate.publisher.inputs import image_inputs, image_labels
from mlflow_fargate.publisher.model_image import Publisher
from mlflow_fargate.publisher.webhook_image import WebhookPublisher

__all__ = ["Publisher", "WebhookPublisher", "image_inputs", "image_labels"]
