"""Runs S3 in a separate process, so that its CPU time is not counted for a builder: FOLDER. Prints its URL."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer


def main() -> None:
    with WsgiServer(S3App(Path(sys.argv[1]), keys=Keys("local", "local")), threads=8) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
