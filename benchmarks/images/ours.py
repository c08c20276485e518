"""mlflow-fargate's builder as a command: BASE SERVICE MODEL DESTINATION CACHE PREVIOUS.

Most of its time for a new model is the import of MLflow, which a process that trains or watches has done already, so it
says how long it took after that.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.images.bed import PYTHON, REQUIREMENTS
from mlflow_fargate.image import Destination, ImageSpec, Model, Reference, Registry, build_image
from mlflow_fargate.progress import PlainProgress


def main() -> None:
    began = time.monotonic()
    base, destination, previous = (Reference.parse(sys.argv[place]) for place in (1, 4, 6))
    service, model, cache = (Path(sys.argv[place]) for place in (2, 3, 5))
    with Registry(destination.registry) as registry:
        digest = registry.manifest_digest(previous.repository, previous.identifier)
        spec = ImageSpec(
            base=base,
            requirements=tuple(REQUIREMENTS),
            python_version=PYTHON,
            service=service,
            model=Model({path.name: path for path in model.iterdir()}, model.name),
        )
        target = Destination(registry, destination, previous.with_digest(digest) if digest else None)
        image = build_image(spec, target, cache=cache, progress=PlainProgress())
    print(*image.report.layers, sep="\n")
    print(f"figure: after_imports_seconds={time.monotonic() - began:.3f}")


if __name__ == "__main__":
    main()
