"""An OCI registry on this machine, for ECR's images and in place of the public registry for base images.

`LocalRegistry` starts and stops it; http.py speaks HTTP, store.py keeps what is pushed.
It listens on the loopback interface only, behind the guard (guard.py), and requires user and password, like ECR.
"""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from types import TracebackType

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.registry.http import RegistryServer
from mlflow_fargate.local.registry.store import RegistryStore

_STOP_SECONDS = 5.0
USER = "AWS"  # as ECR's


class LocalRegistry:
    """A registry over `root`, served at `address` between start() and stop() (or in a `with`).

    `password` is the password of the user AWS; with None, every program on this machine can pull and push. `store` is
    the same registry without HTTP: pushes are immediately visible in both.
    """

    def __init__(self, root: Path, *, password: str | None, port: int = 0, create_on_push: bool = True) -> None:
        self.store = RegistryStore(root, create_on_push=create_on_push)
        self.password = password
        self._port = port
        self._server: RegistryServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> LocalRegistry:
        """Starts listening; LocalStackError if the port is taken."""
        try:
            self._server = RegistryServer(("127.0.0.1", self._port), self.store, self._login())
        except OSError as error:
            raise LocalStackError(
                f"The local registry cannot listen on 127.0.0.1:{self._port} ({error.strerror}).",
                hint="choose another port, or 0 for a free one",
            ) from error
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="registry", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the threads and connections; images stay on disk."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join(_STOP_SECONDS)
        self._server.close_connections()
        self._server.server_close()
        self._server = self._thread = None

    def _login(self) -> str | None:
        """Returns the Authorization header required to pull and push."""
        if self.password is None:
            return None
        return f"Basic {base64.b64encode(f'{USER}:{self.password}'.encode()).decode()}"

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start if a free port is to be chosen."""
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`, the host part of image references."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> LocalRegistry:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
