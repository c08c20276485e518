"""The service's modules import each other by plain name, as in the image; here they come from the checkout."""

from __future__ import annotations

import sys

from mlflow_fargate.bento import template_folder

sys.path.insert(0, str(template_folder()))
