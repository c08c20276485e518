"""Where a model is allowed to come from. Pure: nothing here opens a connection.

Anyone who can write to a model registry, a run or a model's files chooses URIs that are followed with the user's
credentials. Such a URI can point to S3, to the tracking server's own artifact service, or to a folder if the tracking
server and the registry are themselves on this machine; nothing else is allowed. A URI that the user passes can also be
a folder on this machine.

Origins are compared as in RFC 6454: scheme, host and port; user and password in a URL are not part of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import PureWindowsPath
from urllib.parse import SplitResult, unquote, urlsplit

import idna

from mlflow_fargate.errors import UntrustedSource, did_you_mean
from mlflow_fargate.resolved_model import without_credentials

ARTIFACT_SERVICE = "/api/2.0/mlflow-artifacts/artifacts"
# What a tracking server needs to serve artifacts from there.
_AZURE = ", with azure-identity, azure-storage-blob and azure-storage-file-datalake"
_SERVERS_PACKAGE = {"gs": ", with google-cloud-storage", "wasbs": _AZURE, "abfss": _AZURE, "hdfs": ", with pyarrow"}
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Parsers disagree on these, and no artifact store needs them in a model's address.
_AMBIGUOUS = re.compile(r"[\x00-\x1f\x7f\\?#]")


@dataclass(frozen=True)
class Origin:
    """The origin of a URL: http or https, the normalized host, and the port."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin | None:
    """Returns the origin of an http or https URL; None for other URLs and invalid hosts or ports."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _normal_host(parts.hostname or "")
    except ValueError:  # a port such as '80a' or 99999, half an IPv6 address, a host that is invalid in IDNA
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return None
    return Origin(parts.scheme, host, _DEFAULT_PORTS[parts.scheme] if port is None else port)


def _normal_host(host: str) -> str:
    """Returns the host in lower case, IDNA 2008, IP addresses shortened. A trailing dot is kept: it is another host."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if host.isascii():
        return host.lower()
    return idna.encode(host, uts46=True).decode()  # as requests does; IDNAError is a ValueError


def scheme_of(uri: str) -> str:
    """Returns the scheme in lower case, or '' if there is none. `urlsplit` raises ValueError for some hostile URIs."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    return found[1].lower() if found else ""


def is_local(uri: str) -> bool:
    """Returns True for paths and file: URIs; a Windows drive letter is not a scheme."""
    return scheme_of(uri) in {"", "file"} or bool(PureWindowsPath(uri).drive)


def path_on_server(uri: str, tracking_uri: str) -> str:
    """Returns the path of `uri` within the tracking server's artifact service; '' is its root.

    `uri` is mlflow-artifacts:/PATH, mlflow-artifacts://HOST:PORT/PATH or the equivalent http address.
    Raises UntrustedSource unless the tracking server itself serves it.
    """
    path = _path_on_server(uri, tracking_uri)
    if path is None and scheme_of(uri) not in {"http", "https", "mlflow-artifacts"}:
        raise UntrustedSource(
            f"{without_credentials(uri)!r} cannot be read: {scheme_of(uri)}: is not supported.",
            hint=did_you_mean(scheme_of(uri), ("models", "runs"))
            or "models are read from S3, from a folder on this machine, or from the tracking server if it serves the "
            f"artifacts (mlflow server --serve-artifacts{_SERVERS_PACKAGE.get(scheme_of(uri), '')})",
        )
    if path is None:
        server = without_credentials(tracking_uri)
        raise UntrustedSource(
            f"{without_credentials(uri)!r} is not in S3 and not served by the tracking server, {server}.",
            hint="credentials are not sent to other servers: log the model again to this tracking server, or, if this "
            "is the same server by another name, set MLFLOW_TRACKING_URI to that name",
        )
    return path


def _path_on_server(uri: str, tracking_uri: str) -> str | None:
    server = origin_of(tracking_uri)
    if server is None or _AMBIGUOUS.search(uri):
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    path = _path_of(parts, server, urlsplit(tracking_uri).path)
    if path is None or any(segment in {".", ".."} for segment in path.split("/")):
        return None
    return "/".join(segment for segment in path.split("/") if segment)


def _path_of(parts: SplitResult, server: Origin, prefix: str) -> str | None:
    if parts.scheme == "mlflow-artifacts":
        is_own = not parts.netloc or origin_of(f"{server.scheme}://{parts.netloc}") == server
        return parts.path if is_own else None
    if origin_of(parts.geturl()) != server:
        return None
    service = f"{prefix.rstrip('/')}{ARTIFACT_SERVICE}/"
    return unquote(parts.path[len(service) :]) if f"{parts.path}/".startswith(service) else None


def check_source(uri: str, tracking_uri: str, registry_uri: str) -> None:
    """Raises UntrustedSource unless `uri`, returned by the tracking server or registry, is an allowed location."""
    if scheme_of(uri) in {"s3", "s3a"}:
        return
    if not is_local(uri):
        path_on_server(uri, tracking_uri)
    elif _is_shared_folder(uri) or not (_is_here(tracking_uri) and _is_here(registry_uri)):
        raise UntrustedSource(
            f"{uri!r} is a folder on the MLflow server's machine ({without_credentials(registry_uri)}), not on this "
            "one.",
            hint="log the model to S3, or start the server with --serve-artifacts; to use a folder on this machine "
            "that you trust, pass its path instead of the registered model",
        )


def _is_here(server_uri: str) -> bool:
    """Returns True for stores in a folder or an SQLite file."""
    return is_local(server_uri) or scheme_of(server_uri).partition("+")[0] == "sqlite"


def _is_shared_folder(uri: str) -> bool:
    """Returns True for //server/share in any form: Windows would log in there with the user's password hash."""
    if scheme_of(uri) != "file":
        return PureWindowsPath(uri).drive.startswith("\\\\")
    path = unquote(uri.partition(":")[2])
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host not in {"", "localhost"}:
            return True
        path = slash + path
    return PureWindowsPath(path).drive.startswith("\\\\")
