"""Publishes a deployment's image, with a model in S3, as a command: BASE S3_URL MODEL_URI REPOSITORY NAME CACHE.

Says at its end what this process held of memory at most, as the kernel counted it since it was started, how long it
took once its modules were imported, and how many requests left it.
"""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3

from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.config import parse_config
from mlflow_fargate.deployments.deployer import Deployer  # noqa: F401  # as in a deploying process
from mlflow_fargate.image import Reference
from mlflow_fargate.progress import PlainProgress
from mlflow_fargate.publisher import Publisher
from mlflow_fargate.target import parse_target


def main() -> None:
    base, s3_url, model_uri, repository, name, cache = sys.argv[1:7]
    began, requests = time.monotonic(), _count_requests()
    session = boto3.Session("local", "local", region_name="us-east-1")
    address = Reference.parse(repository).registry
    account = SimpleNamespace(
        endpoint=lambda _: SimpleNamespace(
            repository=SimpleNamespace(ensure=lambda: repository, newest_image=lambda: None)
        ),
        registry_login=lambda: (address, "AWS", "password"),
        artifacts=lambda: S3Artifacts(make_s3_client(session, s3_url)),
    )
    publisher = Publisher(parse_target("fargate:/us-east-1"), account, Path(cache), PlainProgress())  # type: ignore[arg-type]
    config = parse_config({"base_image": base, "smoke_test": "false", "missing_libraries": "note"})
    print(publisher.publish(name, publisher.resolve(model_uri, None), config))
    print(f"figure: after_imports_seconds={time.monotonic() - began:.3f}")
    print(f"figure: requests={len(requests)}")
    print(f"figure: peak_rss_bytes={peak_rss_bytes()}")


def _count_requests() -> list[str]:
    """Counts every request from now on, of requests and botocore."""
    seen: list[str] = []
    put = http.client.HTTPConnection.putrequest

    def counted(connection: http.client.HTTPConnection, method: str, url: str, **options: Any) -> None:
        seen.append(method)
        put(connection, method, url, **options)

    http.client.HTTPConnection.putrequest = counted  # type: ignore[method-assign,assignment]
    return seen


def peak_rss_bytes() -> int:
    """Returns VmHWM of this process; `ru_maxrss` would start at the parent's value."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
