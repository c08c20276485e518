"""Debian packages as a layer, without Docker, apt or root.

control     Debian's control data: paragraphs, versions, relations     (pure)
signature   Debian's signature, verified by sqv or gpgv
archive     Debian's archive, over HTTP, with verified signatures
resolve     dependencies that a base image lacks                          (pure)
unpack      the files of a .deb
system      the layer with all of them
"""

from __future__ import annotations

from mlflow_fargate.image.debian.system import make_system_recipe

__all__ = ["make_system_recipe"]
