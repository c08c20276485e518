"""What goes into the image beside the model."""

from __future__ import annotations

from typing import Literal

from mlflow_fargate.config.option import IndexUrl, IndexUrls, OptionGroup, PackageNames, RequirementLines, option


class ImageOptions(OptionGroup):
    """Options of the image."""

    labels: str | None = option(
        None,
        "name of the labels file of an image classifier, beside the model or at its run's root",
        maps_to="MLflow artifact path",
        allowed="a path in the model or run, a URI, or none",
        examples=["labels.json"],
    )
    requirements: RequirementLines = option(
        (),
        "further Python packages, or other versions of the model's own",
        maps_to="MLflow requirements.txt",
        examples=["requirements=xgboost-cpu==3.0"],
        allowed="lines of a requirements file",
    )
    index_url: IndexUrl = option(
        None,
        "package index in the place of PyPI; ${NAME} in it is read from the environment, "
        "a password that is written out is used once and kept nowhere",
        maps_to="pip's --index-url",
        examples=["index_url=https://me:${INDEX_TOKEN}@pypi.example.com/simple"],
        repr=False,
        allowed="an http or https URL",
    )
    extra_index_urls: IndexUrls = option(
        (),
        "further package indexes; a package is taken from the first that has it, index_url last",
        maps_to="pip's --extra-index-url",
        repr=False,
        allowed="http or https URLs",
        examples=["https://pypi.example.com/simple"],
    )
    normalize: bool = option(
        True,
        "put the requirements right for serving: tensorflow-cpu, headless OpenCV, …; "
        "false: install what they name (but for MLflow itself)",
        maps_to="MLflow requirements.txt",
    )
    base_image: str | None = option(
        None,
        "image to build on; by default python:3.X-slim of the model's Python",
        maps_to="OCI image reference",
        examples=["python:3.11-slim"],
        allowed="an image's name, with a tag or digest",
    )
    system_packages: PackageNames = option(
        (),
        "packages of Debian that the model's libraries need, with what they depend on; none of their scripts is run",
        maps_to="Debian packages",
        allowed="names of packages",
        examples=["libgomp1"],
    )
    missing_libraries: Literal["error", "note"] = option(
        "error",
        "when packages need a shared library that the image does not have: stop before deploying, or only say so",
        maps_to="ELF: DT_NEEDED",
    )
    builder: Literal["layers", "docker", "podman", "buildah"] = option(
        "layers",
        "who makes the image: this plugin, layer by layer, or an engine that builds a Dockerfile",
        maps_to="Dockerfile",
        examples=["buildah"],
    )
    compression: Literal["zstd", "gzip"] = option(
        "zstd", "compression of the layers built here", maps_to="OCI layer media type"
    )
