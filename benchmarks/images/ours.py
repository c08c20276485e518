"""Our builder as a command: BASE SERVICE MODEL DESTINATION CACHE PREVIOUS."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.images.bed import PYTHON, REQUIREMENTS
from mlflow_fargate.image import LINUX_AMD64, Reference, Registry, build_image
from mlflow_fargate.progress import PlainProgress


def main() -> None:
    base, destination, previous = (Reference.parse(sys.argv[place]) for place in (1, 4, 6))
    service, model, cache = (Path(sys.argv[place]) for place in (2, 3, 5))
    with Registry(destination.registry) as registry:
        digest = registry.manifest_digest(previous.repository, previous.identifier)
        image = build_image(
            base=base,
            requirements=REQUIREMENTS,
            python_version=PYTHON,
            service=service,
            model={path.name: path for path in model.iterdir()},
            model_key=model.name,
            destination=destination,
            registry=registry,
            previous=previous.with_digest(digest) if digest else None,
            cache=cache,
            platform=LINUX_AMD64,
            progress=PlainProgress(),
        )
    print(image.report)


if __name__ == "__main__":
    main()
