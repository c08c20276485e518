"""Packages of Debian as a layer, without Docker, apt or root.

control     what Debian writes down: paragraphs, versions, relations between packages     (pure)
signature   the text that Debian signed, checked by sqv or gpgv
archive     Debian's archive, over HTTP with its signature checked
resolve     what a package needs that a base image does not have                          (pure)
unpack      the files of a .deb
system      the layer of all that
"""

from __future__ import annotations

from mlflow_fargate.image.debian.system import make_system_recipe

__all__ = ["make_system_recipe"]
