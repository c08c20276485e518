"""What the served model is (service.json, written when the image was built) and how it is served (the environment).

The only module here that reads the environment; everything else receives `ServiceDescription` and `Settings`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DESCRIPTION_FILE = "service.json"
CAUSE_FILE = "FARGATE_CAUSE_FILE"  # set by serve.py for the workers of BentoML's supervisor
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_TRACE_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_RECORD_BYTES = 24 << 20  # the queue of records, and the file that is being written
# Of version 2, and of version 1, which reports a huge number if there is no limit.
_NO_LIMIT = 1 << 60
_CGROUP_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class ServiceDescription:
    """The model, and the template that serves it."""

    template: str  # image_classifier, pyfunc, or custom
    flavor: str
    labels: str | None  # name of the labels file next to the code; None: the template needs none
    model_uri: str
    model_name: str | None
    model_version: str | None
    run_id: str | None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the template's, checked at build time

    @property
    def title(self) -> str:
        return self.model_name or self.model_uri

    @property
    def is_onnx(self) -> bool:
        """Whether the model was converted when the image was built, and the image holds onnxruntime instead."""
        return self.options.get("runtime") == "onnx"


@dataclass(frozen=True)
class ImageLimits:
    """Which image files are decoded."""

    max_pixels: int = 50 * 10**6
    max_side: int = 16_384  # resizing needs memory for the longer side times the model's width
    max_files: int = 32  # in a request
    further_formats: tuple[str, ...] = ()  # Pillow's names


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class DocumentLimits:
    """Which bodies of `/invocations` are parsed."""

    max_levels: int = 100  # of lists and objects in JSON
    accept_parquet: bool = False  # a small Parquet file can decode to any size


DEFAULT_DOCUMENT_LIMITS = DocumentLimits()
# Python's parser, and MLflow's code for nested columns, need some calls for each level, and Python permits 1,000.
_MOST_LEVELS = 200


@dataclass(frozen=True)
class RecordSettings:
    """Which requests are recorded in S3, and what of them; from the JSON in INFERENCE_LOG."""

    bucket: str
    region: str
    folder: str  # of the keys, with a slash at its end
    deployment: str
    variant: str | None
    sampling_fraction: float
    max_body_bytes: int
    drop: frozenset[str]  # columns
    hashed: frozenset[str]
    hash_key: bytes = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """How to serve the model; the deployment sets these through environment variables."""

    model_dir: Path
    path_prefix: str = ""  # '/churn': also serve below it, because the load balancer forwards paths unchanged
    variant: str | None = None  # of several behind one URL: this one's name
    api_key: str | None = field(default=None, repr=False)  # None: open to everyone
    max_body_bytes: int = 20 * 10**6
    max_header_bytes: int = 64 * 1024  # of all headers together; the limit of AWS's load balancers
    documents: DocumentLimits = DEFAULT_DOCUMENT_LIMITS
    images: ImageLimits = DEFAULT_LIMITS
    timeout_seconds: int = 60  # the load balancer's idle timeout
    max_concurrent_requests: int = 128
    drain_seconds: int = 2
    stop_seconds: int = 30  # from SIGTERM to SIGKILL; the default of ECS
    cpus: int = 1
    memory_bytes: int | None = None  # of the task, or of the container if it is limited to less; None: unknown
    warm_up: bool = True
    accept_file_urls: bool = False  # BentoML fetches what they name; see custom_service.py
    exports_traces: bool = False  # to OpenTelemetry, through MLflow
    record: RecordSettings | None = None
    cause_file: Path | None = None  # where a worker writes why it did not start; None: there is one process
    is_build: bool = False  # BentoML imports the service to build its Bento; nothing is served


def read_description(folder: Path) -> ServiceDescription:
    """Reads the service.json in `folder`."""
    document = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    model = document["model"]
    return ServiceDescription(
        template=document["template"],
        flavor=document["flavor"],
        labels=document["labels"],
        model_uri=model["uri"],
        model_name=model["name"],
        model_version=model["version"],
        run_id=model["run_id"],
        options=document["options"],
    )


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Returns the settings in `environ`; raises ValueError that names the invalid variable."""
    cpus = min(available_cpus(), math.ceil(_number(environ, "TASK_CPU_UNITS", 1 << 20) / 1024))
    prefix = environ.get("PATH_PREFIX", "").strip("/")
    return Settings(
        model_dir=Path(environ.get("MODEL_DIR", "/opt/app/model")),
        path_prefix=f"/{prefix}" if prefix else "",
        variant=environ.get("MODEL_VARIANT") or None,
        api_key=environ.get("API_KEY") or None,
        max_body_bytes=_number(environ, "MAX_BODY_MB", 20) * 10**6,
        max_header_bytes=_number(environ, "MAX_HEADER_KB", 64) * 1024,
        documents=DocumentLimits(
            max_levels=_number(environ, "MAX_JSON_LEVELS", DEFAULT_DOCUMENT_LIMITS.max_levels, most=_MOST_LEVELS),
            accept_parquet=environ.get("ACCEPT_PARQUET", "").lower() in ("true", "1", "yes"),
        ),
        images=ImageLimits(
            max_pixels=_number(environ, "MAX_IMAGE_MEGAPIXELS", 50) * 10**6,
            max_side=_number(environ, "MAX_IMAGE_SIDE", 16_384),
            max_files=_number(environ, "MAX_IMAGES", 32),
            further_formats=tuple(environ.get("IMAGE_FORMATS", "").upper().replace(",", " ").split()),
        ),
        timeout_seconds=_number(environ, "REQUEST_TIMEOUT_SECONDS", 60),
        max_concurrent_requests=_number(environ, "MAX_CONCURRENT_REQUESTS", 128),
        drain_seconds=_number(environ, "DRAIN_SECONDS", 2),
        stop_seconds=_number(environ, "STOP_TIMEOUT_SECONDS", 30),
        cpus=cpus,
        accept_file_urls=environ.get("ACCEPT_FILE_URLS", "").lower() in ("true", "1", "yes"),
        exports_traces=any(map(environ.get, _TRACE_ENDPOINTS)),
        cause_file=Path(environ[CAUSE_FILE]) if CAUSE_FILE in environ else None,
        record=_record(environ),
        memory_bytes=_memory(environ),
        is_build="BUILDING_BENTO" in environ,
        warm_up=environ.get("WARM_UP", "true").lower() not in ("false", "0", "no"),
    )


def _record(environ: Mapping[str, str]) -> RecordSettings | None:
    """Parses what mlflow_fargate/resources/specs.py writes."""
    if not environ.get("INFERENCE_LOG"):
        return None
    document = json.loads(environ["INFERENCE_LOG"])
    bucket, _, prefix = document["url"].removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    return RecordSettings(
        bucket=bucket,
        region=document["region"],
        folder=f"{prefix}endpoint={document['endpoint']}/deployment={document['deployment']}/",
        deployment=document["deployment"],
        variant=environ.get("MODEL_VARIANT") or None,
        sampling_fraction=document["sampling_fraction"],
        max_body_bytes=document["max_body_kb"] * 1000,
        drop=frozenset(document["drop"]),
        hashed=frozenset(document["hash"]),
        hash_key=environ.get("INFERENCE_LOG_HASH_KEY", "").encode(),
    )


def available_cpus(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Returns how many CPUs this container can use, at least 1: its quota can be lower than the number of cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def available_memory(files: Sequence[Path] = _CGROUP_MEMORY) -> int | None:
    """Returns this container's memory limit in bytes; None if it has none."""
    for file in files:
        with suppress(OSError, ValueError):
            limit = int(file.read_text(encoding="ascii"))  # "max" is not a number
            return limit if limit < _NO_LIMIT else None
    return None


def _memory(environ: Mapping[str, str]) -> int | None:
    limits = [available_memory()]
    if environ.get("TASK_MEMORY_MIB"):
        limits.append(_number(environ, "TASK_MEMORY_MIB", 1) << 20)
    memory = min((limit for limit in limits if limit is not None), default=None)
    return memory - _RECORD_BYTES if memory and environ.get("INFERENCE_LOG") else memory


def set_library_threads(environ: MutableMapping[str, str], cpus: int) -> None:
    """Sets how many threads NumPy and the model libraries use; variables that are already set are kept.

    These libraries count the machine's cores, not the container's quota. Call this before importing them.
    """
    for name in _THREAD_VARIABLES:
        environ.setdefault(name, str(cpus))


def _number(environ: Mapping[str, str], name: str, default: int, *, most: int | None = None) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name}={text!r} is not a whole number above 0")
    if most is not None and int(text) > most:
        raise ValueError(f"{name}={text!r} is more than {most}")
    return int(text)
