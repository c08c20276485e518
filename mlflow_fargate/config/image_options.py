"""What the image contains in addition to the model."""

from __future__ import annotations

from typing import Literal

from mlflow_fargate.config.option import IndexUrl, IndexUrls, OptionGroup, PackageNames, RequirementLines, option


class ImageOptions(OptionGroup):
    """Options of the image."""

    labels: str | None = option(
        None,
        "labels file for an image classifier; by default, a JSON file with 'labels' in its name, next to the model "
        "or at the root of its run; none: use no labels",
        maps_to="MLflow artifact path",
        allowed="a path in the model or run, a URI, or none",
        examples=["labels.json"],
    )
    requirements: RequirementLines = option(
        (),
        "Python packages to add, or different versions of the model's packages",
        maps_to="MLflow requirements.txt",
        examples=["requirements=xgboost-cpu==3.0"],
        allowed="lines of a requirements file",
    )
    index_url: IndexUrl = option(
        None,
        "package index to use instead of PyPI; ${NAME} is read from the environment; a password in the URL is used "
        "once and not stored",
        maps_to="pip's --index-url",
        examples=["index_url=https://me:${INDEX_TOKEN}@pypi.example.com/simple"],
        repr=False,
        allowed="an http or https URL",
    )
    extra_index_urls: IndexUrls = option(
        (),
        "additional package indexes; indexes are searched in order, index_url last, and a package comes from the first "
        "one that has it",
        maps_to="pip's --extra-index-url",
        repr=False,
        allowed="http or https URLs",
        examples=["https://pypi.example.com/simple"],
    )
    find_links: IndexUrls = option(
        (),
        "pages with links to files of packages, in addition to the indexes",
        maps_to="pip's --find-links",
        repr=False,
        allowed="http or https URLs",
        examples=["https://data.pyg.org/whl/torch-2.8.0+cpu.html"],
    )
    normalize: bool = option(
        True,
        "replace packages with smaller ones for serving (tensorflow-cpu, headless OpenCV, …); false: replace only "
        "mlflow, with mlflow-skinny",
        maps_to="MLflow requirements.txt",
    )
    base_image: str | None = option(
        None,
        "base image; by default, python:3.X-slim with the model's Python version",
        maps_to="OCI image reference",
        examples=["python:3.11-slim"],
        allowed="the name of an image, with a tag or digest",
        pattern=r"^[^\s@]+(@sha(256|512):[0-9a-f]+)?$",
    )
    system_packages: PackageNames = option(
        (),
        "Debian packages that the model's libraries need, installed with their dependencies; their install scripts are "
        "not run",
        maps_to="Debian packages",
        allowed="names of packages",
        examples=["libgomp1"],
    )
    missing_libraries: Literal["error", "note"] = option(
        "error",
        "if packages need a shared library that is not in the image: stop before deploying (error), or only report "
        "it (note)",
        maps_to="ELF: DT_NEEDED",
    )
    builder: Literal["layers", "docker", "podman", "buildah"] = option(
        "layers",
        "what builds the image: this plugin, layer by layer (layers), or a container engine, from a Dockerfile",
        maps_to="Dockerfile",
        examples=["buildah"],
    )
    compression: Literal["zstd", "gzip"] = option("zstd", "compression of new layers", maps_to="OCI layer media type")
