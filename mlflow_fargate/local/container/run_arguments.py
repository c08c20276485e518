"""Turns a task into the arguments of `podman create` or `docker create`, and reads what `inspect` prints. Pure.

A container gets what Fargate gives it: user, read-only root, empty volumes, limits, capabilities. Values that must not
appear in a list of processes (secrets, keys of roles) go through the command's environment: `--env NAME` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
KILLED = 137  # 128 + SIGKILL
_NEVER = "0001-01-01"
# Soft and hard limit of open files on Fargate:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
_OPEN_FILES = ("nofile", 65535, 65535)
# Variables that engines' commands read themselves.
CLIENT_VARIABLES = re.compile(
    r"PATH|HOME|TMPDIR|(LD|XDG|CONTAINERS|BUILDAH)_\w+|DOCKER_(HOST|CONFIG|CONTEXT|TLS|TLS_VERIFY|CERT_PATH|API_VERSION)"
    r"|CONTAINER_(HOST|SSHKEY|CONNECTION)|STORAGE_(DRIVER|OPTS)"
)
# Others that change what these commands do, or end them with a message that has the value; Go's: pkg.go.dev/runtime.
_HARMFUL = re.compile(
    r"GO(MEMLIMIT|GC|MAXPROCS|DEBUG|TRACEBACK)|_CONTAINERS_\w+|NOTIFY_SOCKET|LISTEN_\w+|DOCKER_(DEFAULT_PLATFORM|CONTENT_TRUST\w*)"
)
_NO_NAME = re.compile(r".*[*=].*|", re.DOTALL)  # with * at its end, podman passes all variables that begin like it


@dataclass(frozen=True)
class EngineTraits:
    """How an engine differs from others, and what it can enforce on this machine."""

    is_podman: bool
    cpus: int
    limits: tuple[str, ...] = ("memory", "cpu")
    # Hard limits of this machine, which an engine may not be allowed to raise; names without one are not in it.
    most: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ContainerState:
    """What `inspect` shows of a container."""

    has_started: bool
    is_running: bool
    exit_code: int
    out_of_memory: bool
    pid: int  # on this machine; 0 if it is not running
    host_port: int | None

    @classmethod
    def of_json(cls, text: str) -> ContainerState:
        """Parses the output of `inspect`: a list of one container."""
        data = json.loads(text)[0]
        state = data["State"]
        bound = (data.get("NetworkSettings") or {}).get("Ports") or {}
        ports = [int(binding["HostPort"]) for bindings in bound.values() for binding in bindings or ()]
        return cls(
            has_started=not str(state.get("StartedAt") or _NEVER).startswith(_NEVER),
            is_running=bool(state.get("Running")),
            exit_code=int(state.get("ExitCode") or 0),
            out_of_memory=bool(state.get("OOMKilled")),
            pid=int(state.get("Pid") or 0),
            host_port=ports[0] if ports else None,
        )


def make_arguments(
    spec: ContainerSpec,
    *,
    labels: Mapping[str, str],
    traits: EngineTraits,
    role: Mapping[str, str],
    host_port: int | None,
    volumes: str,
    network: str | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Returns the arguments after `create --name NAME`, and the variables that the command needs in its environment.

    With `host_port`, the container has this machine's network, and the variables that images read name that port of
    127.0.0.1; with `network`, it has that container's. `role` is the environment of a task with a role. The names of
    the task's volumes begin with `volumes`.
    """
    container, limits = spec.container, spec.container.limits
    hidden = {**role, **spec.secrets}
    _check_names(hidden)
    words = ["--pull=never", "--log-driver", "none", "--stop-timeout", str(container.stop_timeout_seconds)]
    for name, value in labels.items():
        words += ["--label", f"{name}={value}"]
    words += _network(spec, host_port, network)
    words += make_limits(traits, memory_mib=limits.memory_mib or spec.memory_mib, cpu_units=spec.cpu_units)
    words += make_ulimits(limits.ulimits, traits)
    words += ["--http-proxy=false"] if traits.is_podman else []  # it would add this machine's proxies, and passwords
    words += ["--user", limits.user] if limits.user else []
    words += make_read_only(traits) if limits.has_read_only_root else []
    for volume, path, is_read_only in limits.mounts:
        options = ",".join(map(_quoted, (f"source={volumes}-{volume}", f"destination={path}")))
        words += ["--mount", f"type=volume,{options}{',ro' if is_read_only else ''}"]
    words += [word for name in limits.dropped_capabilities for word in ("--cap-drop", name)]
    # The address last: a definition that names the container's port would have it listen on every address.
    for name, value in {**dict(container.environment), **_address(host_port)}.items():
        words += ["--env", f"{name}={value}"] if name not in hidden else []
    words += [word for name in hidden for word in ("--env", name)]
    words += ["--workdir", container.working_directory] if container.working_directory else []
    first, *rest = container.entry_point or ("",)
    words += ["--entrypoint", first] if container.entry_point else []
    return [*words, container.image, *rest, *(container.command or ())], hidden


def _check_names(hidden: Iterable[str]) -> None:
    forms = (CLIENT_VARIABLES, _HARMFUL, _NO_NAME)
    if reserved := [name for name in hidden if any(form.fullmatch(name) for form in forms)]:
        raise TaskFailedToStart(
            f"CannotCreateContainerError: a local container cannot have a secret named {reserved[0]!r}, because the "
            "container engine's command would read it"
        )


def make_limits(traits: EngineTraits, *, memory_mib: int, cpu_units: int) -> list[str]:
    """Returns the arguments that limit memory, without swap, and CPU, as far as the engine can."""
    words = []
    if memory_mib and "memory" in traits.limits:
        words += ["--memory", f"{memory_mib}m", "--memory-swap", f"{memory_mib}m"]
    if cpu_units and "cpu" in traits.limits:
        words += ["--cpus", f"{min(cpu_units / 1024, traits.cpus):g}"]  # more than the machine has is an error
    return words


def make_ulimits(wanted: tuple[tuple[str, int, int], ...], traits: EngineTraits) -> list[str]:
    """Returns the arguments for open files (as on Fargate) and processes, and those `wanted`, as far as allowed."""
    limits = {name: (soft, hard) for name, soft, hard in (_OPEN_FILES, *wanted)}
    if "nproc" in traits.most:  # podman's default is above it
        limits.setdefault("nproc", (traits.most["nproc"], traits.most["nproc"]))
    words = []
    for name, (soft, hard) in limits.items():
        most = traits.most.get(name, hard)
        words += ["--ulimit", f"{name}={min(soft, most)}:{min(hard, most)}"]
    return words


def make_read_only(traits: EngineTraits) -> list[str]:
    # Podman would mount a tmpfs on /tmp, /run and /var/tmp, which Fargate does not.
    return ["--read-only", "--read-only-tmpfs=false"] if traits.is_podman else ["--read-only"]


def _network(spec: ContainerSpec, host_port: int | None, network: str | None) -> list[str]:
    if network is not None:
        return ["--network", f"container:{network}"]
    if host_port is not None:
        return ["--network", "host"]
    # Load balancers and users reach only the first port; with more, `inspect` would not say which is which.
    return [word for port in spec.container.ports[:1] for word in ("--publish", f"127.0.0.1::{port}")]


def _quoted(option: str) -> str:
    """Quotes an option of `--mount`, which is CSV: a comma in it does not begin another one."""
    return f'"{option.replace(chr(34), chr(34) * 2)}"' if re.search('[,"\\n]', option) else option


def _address(host_port: int | None) -> dict[str, str]:
    """Returns the variables in which images read where to listen, for a container with this machine's network."""
    if host_port is None:
        return {}
    prefixes = ("BENTOML_", "FARGATE_WEBHOOK_", "")
    return {
        f"{prefix}{name}": value
        for prefix in prefixes
        for name, value in (("HOST", "127.0.0.1"), ("PORT", str(host_port)))
    }
