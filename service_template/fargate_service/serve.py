"""The image's entry point: serves the service in this process, and if that ends badly, writes why as its last line.

    python3 -m fargate_service.serve

A few BentoML services need more than one process; for these it runs the supervisor of `bentoml serve`. The source's
folder is a valid Bento, so `bentoml serve service:Service` gives the same answers.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from fargate_service.cause import explain_and_exit
from fargate_service.settings import CAUSE_FILE
from fargate_service.start import few_collections

if TYPE_CHECKING:
    import bentoml

# Longer than the 60 s for which a load balancer keeps idle connections: if the server closes a connection while
# the load balancer is using it, a client gets a 502.
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html
KEEP_ALIVE_SECONDS = 75


class _Stopped(SystemExit):
    """SIGTERM arrived before the server handles it."""


def main() -> NoReturn:
    """Serves until SIGTERM and exits with 0, or with 1 after the cause of the failure."""
    # The kernel does not end a container's first process by a signal that it does not handle.
    signal.signal(signal.SIGTERM, _stop)
    try:
        _serve()
    except _Stopped:
        raise
    except (Exception, SystemExit) as error:  # the latter is the user's code calling sys.exit()
        explain_and_exit(error)
    sys.exit(0)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(0)


def _serve() -> None:
    # Imported here: what fails from now on is explained.
    with few_collections():
        from bentoml._internal.context import server_context  # noqa: PLC0415
        from bentoml._internal.log import configure_server_logging  # noqa: PLC0415

        configure_server_logging()
        server_context.worker_index = 1  # makes `bentoml.importing()` raise for missing packages
        from service import Service  # noqa: PLC0415

    host, port = os.environ.get("BENTOML_HOST", "0.0.0.0"), int(os.environ.get("BENTOML_PORT", "3000"))  # noqa: S104
    if needs_supervisor(Service):
        _run_supervisor(Service, host, port)
        return
    from fargate_service.one_process import serve_in_this_process  # noqa: PLC0415

    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="prometheus-"))
    serve_in_this_process(Service, host, port, keep_alive_seconds=KEEP_ALIVE_SECONDS)


def needs_supervisor(service: bentoml.Service) -> bool:
    """Returns whether `service` needs more than one process, or what BentoML's supervisor does before it starts them.

    In one process, the services that it depends on are plain objects, without workers, batches or hooks.
    """
    services = service.all_services(exclude_urls=True).values()
    return (
        any(one.has_custom_command() or one.needs_task_db() or _has_workers(one) for one in services)
        or any(_has_hook(one, "deployment") for one in services)
        or any(_has_batches_or_hooks(one) for one in services if one is not service)
    )


def _has_workers(service: bentoml.Service) -> bool:
    return service.config.get("workers", 1) not in (None, 1)


def _has_batches_or_hooks(service: bentoml.Service) -> bool:
    return (
        any(api.batchable for api in service.apis.values())
        or _has_hook(service, "startup")
        or _has_hook(service, "shutdown")
    )


def _has_hook(service: bentoml.Service, kind: str) -> bool:
    members: list[Any] = [getattr(service.inner, name, None) for name in dir(service.inner)]
    return any(getattr(member, f"__bentoml_{kind}_hook__", False) is True for member in members)


def _run_supervisor(service: bentoml.Service, host: str, port: int) -> None:
    """Raises what a worker could not start with; the supervisor itself would only say that none is left."""
    from _bentoml_impl.server import serve_http  # type: ignore[import-untyped]  # noqa: PLC0415

    file = Path(tempfile.mkdtemp(prefix="cause-")) / "cause"
    os.environ[CAUSE_FILE] = str(file)
    service.inject_config()
    try:
        serve_http("service:Service", working_dir=".", host=host, port=port, timeout_keep_alive=KEEP_ALIVE_SECONDS)
    except Exception as error:
        explain_and_exit(error, file.read_text(encoding="utf-8") if file.exists() else None)


if __name__ == "__main__":
    main()
