"""Our builder with a model in S3, as a command: BASE SERVICE S3_URL MODEL_URI DESTINATION CACHE.

Says at its end how much memory this process held at most, as the kernel counted it since it was started.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import boto3

from benchmarks.images.bed import PYTHON
from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.image import LINUX_AMD64, Reference, Registry, StreamedFile, build_image
from mlflow_fargate.progress import PlainProgress


def main() -> None:
    base, destination = Reference.parse(sys.argv[1]), Reference.parse(sys.argv[5])
    service, cache = Path(sys.argv[2]), Path(sys.argv[6])
    session = boto3.Session("local", "local", region_name="us-east-1")
    store, root = S3Artifacts(make_s3_client(session, sys.argv[3])), sys.argv[4]
    files = store.files(root)
    with Registry(destination.registry) as registry:
        image = build_image(
            base=base,
            requirements=(),
            python_version=PYTHON,
            service=service,
            model={file.path: StreamedFile(file.size_bytes, partial(store.stream, root, file)) for file in files},
            model_key=",".join(str(file.etag) for file in files),
            destination=destination,
            registry=registry,
            cache=cache,
            platform=LINUX_AMD64,
            progress=PlainProgress(),
        )
    print(image.report)
    print(f"peak RSS {peak_rss_bytes() / 1e6:.0f} MB")


def peak_rss_bytes() -> int:
    """VmHWM of this process; `ru_maxrss` would begin with what the process that started it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
