"""Scripts that train and deploy, services of one's own, and the demo."""

from __future__ import annotations

import os

# What these libraries tell unasked (the processor's features, that there is no git) would hide what the examples tell.
for _name, _value in {"TF_CPP_MIN_LOG_LEVEL": "2", "GIT_PYTHON_REFRESH": "quiet"}.items():
    os.environ.setdefault(_name, _value)
