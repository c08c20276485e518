"""What the image serves: `Service`, one of the templates or the user's BentoML service.

This file is at the top of the image's source folder, with deployed.py, service.json and, for image classifiers,
labels.json; models have separate folders (MODEL_DIR, MODELS_DIR). It imports nothing heavy before a model is loaded,
because BentoML also imports this module on the machine that builds the Bento.

fargate_service contains

    template_service   a model behind MLflow's protocol       custom_service   the user's service.py, also guarded
    guarded_service    what protects both                     settings         what is served, and how
    serve              the entry point of the image           cause            why it did not start
    memory             what requests cost, and may cost
"""

from __future__ import annotations

import os
from pathlib import Path

from fargate_service.cause import explain_in_worker
from fargate_service.custom_service import is_custom, make_custom_service
from fargate_service.settings import read_description, read_settings
from fargate_service.template_service import make_template_service

SOURCE = Path(__file__).parent
description = read_description(SOURCE)
settings = read_settings(os.environ)

if settings.cause_file:
    explain_in_worker(settings.cause_file)
# User code does not run while the Bento is built: it needs packages that only the image has.
if is_custom(description) and not settings.is_build:
    Service = make_custom_service(description, settings, SOURCE)
else:
    Service = make_template_service(description, settings, SOURCE)
