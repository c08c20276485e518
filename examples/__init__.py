"""Scripts that train and deploy, custom services, and the demo."""

from __future__ import annotations

import os

# These libraries log processor features and a missing git by default, which would bury the examples' own output.
for _name, _value in {"TF_CPP_MIN_LOG_LEVEL": "2", "GIT_PYTHON_REFRESH": "quiet"}.items():
    os.environ.setdefault(_name, _value)
