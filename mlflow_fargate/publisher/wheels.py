"""Wheels inside a model: which requirement lines name them, and whether it is safe to unpack them.

    line of the model ──with_wheels (pure)──→ NAME @ model:FINGERPRINT/… ──check_wheel (reads the file)──→ uv

Anyone who can log a model writes its wheels. A line only chooses among the model's own files, uv unpacks a wheel
without running any of it, and a wheel cannot require packages from elsewhere than the deployer's indexes.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.tags import Tag
from packaging.utils import BuildTag, InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from mlflow_fargate.errors import ModelUnusable
from mlflow_fargate.image import Platform, is_compatible
from mlflow_fargate.requirement_files import CONSTRAINT, MODEL_FILES, without_hashes
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel

_WHEEL = re.compile(r"([^\s#]+\.whl)(?:#(\S*))?\s*(\[[\w\s,.-]*\])?")
_HASH_OF_URL = re.compile(r"(?:^|&)(sha(?:256|384|512))=([0-9a-f]+)", re.IGNORECASE)
_QUOTED = re.compile("'[^']*'|\"[^\"]*\"")
_SAFE_PATH = re.compile(r"[\w./+!-]+", re.ASCII)
_LINKS = re.compile(r"(?:-f|--find-links)(?:\s+|=)(?!https?:)(\S+)")
# A wheel usually unpacks to three to five times its size; zip files of nothing but zeros unpack to a thousand times.
_FREE_BYTES, _RATIO = 200 * 10**6, 50
_INDEX_BYTES = 16 * 10**6  # of a zip file; PyTorch's, with 12,248 files, has 1.2 MB
_METADATA_BYTES = 1 << 20
# Also in the words of RFC 2047, which uv decodes.
_URL_REQUIRED = re.compile(rb"(?:^|[\r\n])requires-dist\s*:(?:[^;\r\n]|[\r\n]+[ \t])*(?:@|=\?)", re.IGNORECASE)
_FULL_VERSIONS = ("python_full_version", "implementation_version")
# The service brings its own version of these.
_CHOSEN = ("bentoml", "mlflow", "mlflow-skinny")


def wheels_of(model: ResolvedModel) -> ResolvedModel:
    """Returns the model with only its wheels."""
    wheels = tuple(file for file in model.files if file.path.endswith(".whl"))
    return replace(model, files=wheels, labels_uri=None, labels_etag=None)


def with_wheels(model: ResolvedModel, replaced: Collection[str], python: str, platform: Platform) -> ResolvedModel:
    """Returns the model with `NAME @ model:…` instead of each requirement line that names one of its wheels.

    Wheels of the packages in `replaced` are left out, and those that a marker excludes from the image. Raises
    ModelUnusable for wheels of other platforms.
    """
    wheels = _Wheels(wheels_of(model))

    def adapted(line: str) -> str | None:
        limit = CONSTRAINT if line.startswith(CONSTRAINT) else ""
        bare, hashes = without_hashes(line.removeprefix(CONSTRAINT))
        requirement, semicolon, marker = bare.partition(";")
        found = _WHEEL.fullmatch(requirement.rpartition("@")[2].strip())
        file = wheels.named(found[1]) if found else None
        if found is None or file is None:
            return line
        name, version, _, tags = _parse_name(file)
        if name in replaced or _excludes(marker, python, platform):
            return None
        if name in _CHOSEN:
            return f"{limit}{name}=={version} {semicolon}{marker}".rstrip()
        if not is_compatible(tags, python, platform):
            raise ModelUnusable(
                f"'{file.path}' in the model is not a wheel for Python {python} on {platform}.",
                hint=f"log the model with one, or use one of the package index: requirements={name}=={version}",
            )
        extras = found[3] or "".join(re.findall(r"\[[^\]]*\]", requirement.rpartition("@")[0]))
        hashes += tuple(":".join(pair) for pair in _HASH_OF_URL.findall(unquote(found[2] or "").lower()))
        asked = f"{limit}{name}{extras} @ {wheels.place(file)} {semicolon}{marker}".rstrip()
        return " ".join((asked, *(f"--hash={one}" for one in hashes)))

    for line in model.requirements:
        _refuse_folder_or_own_form(line, wheels)
    return replace(model, requirements=tuple(filter(None, map(adapted, model.requirements))))


def share_wheels(models: Sequence[ResolvedModel]) -> list[ResolvedModel]:
    """Returns the models with one place for a wheel that several of them have, or one in several folders."""
    first: dict[tuple[str, int, str], str] = {}

    def shared(wheels: _Wheels, line: str) -> str:
        place = _place_in(line)
        file = wheels.by_place(place)
        if file is None:
            return line
        content = (posixpath.basename(file.path), file.size_bytes, file.etag or place)
        return line.replace(place, first.setdefault(content, place))

    return [
        replace(model, requirements=tuple(shared(wheels, line) for line in model.requirements))
        for model, wheels in ((model, _Wheels(wheels_of(model))) for model in models)
    ]


def check_wheels(model: ResolvedModel, download: Callable[[ResolvedModel], Path]) -> None:
    """Downloads the wheels that the requirements name to where `with_wheels` says, and checks them."""
    wheels = _Wheels(wheels_of(model))
    found = (wheels.by_place(_place_in(line)) for line in model.requirements)
    named = dict.fromkeys(file.path for file in found if file)
    folder = download(wheels.model) if named else Path()
    for path in named:
        check_wheel(folder / path, f"'{path}' in the model")


def check_wheel(path: Path, shown: str) -> None:
    """Raises ModelUnusable for a wheel that does not unpack to about what it declares, or requires a package by URL."""
    try:
        reason = _reason_against(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        reason = f"cannot be unpacked: {str(error)[:200]}"
    if reason:
        raise ModelUnusable(
            f"{shown} {reason}.",
            hint="build it again, or use a version of the package index: requirements="
            f"{path.name.partition('-')[0]}==VERSION",
        )


class _Wheels:
    """The wheels of a model, each found in constant time: there can be 20,000, and as many lines that name them."""

    def __init__(self, model: ResolvedModel) -> None:
        self.model = model
        self._by_path = {file.path: file for file in model.files}
        self._by_name: dict[str, list[ModelFile]] = {}
        self.first_in: dict[str, str] = {}  # folder → path of a wheel somewhere below it
        for file in model.files:
            self._by_name.setdefault(posixpath.basename(file.path), []).append(file)
            folder = posixpath.dirname(file.path)
            while folder and folder not in self.first_in:
                self.first_in[folder] = file.path
                folder = posixpath.dirname(folder)

    @cached_property
    def _folder(self) -> str:
        return f"{MODEL_FILES}{self.model.fingerprint}/model/"

    def place(self, file: ModelFile) -> str:
        return f"{self._folder}{file.path}"

    def by_place(self, place: str) -> ModelFile | None:
        if not place.startswith(MODEL_FILES) or not place.startswith(self._folder):
            return None
        return self._by_path.get(place.removeprefix(self._folder))

    def named(self, place: str) -> ModelFile | None:
        """Returns the wheel at that path in the model, else the only one with that file name; None: there is none."""
        place = unquote(place.removeprefix("file:"))
        if "://" in place:
            return None
        path = posixpath.normpath(place.replace("\\", "/"))
        exact = self._by_path.get(path)
        alike = [exact] if exact else self._by_name.get(posixpath.basename(path), [])
        return alike[0] if len(alike) == 1 and _SAFE_PATH.fullmatch(alike[0].path) else None


def _place_in(line: str) -> str:
    """Returns where a line that `with_wheels` wrote says that the package is."""
    return line.partition(" @ ")[2].partition(" ")[0]


def _excludes(marker: str, python: str, platform: Platform) -> bool:
    """Returns whether a marker excludes the image; False if it is unreadable, or depends on what is not known here."""
    known = {
        "python_version": python,
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": platform.machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    # The base image chooses the patch: what is false for the first, the last and those that the marker names is false.
    patches = {f"{python}.0", f"{python}.999", *re.findall(rf"\b{re.escape(python)}\.\d+", marker)}
    names = set(re.findall(r"[A-Za-z_]\w*", _QUOTED.sub(" ", marker)))
    if not marker.strip() or not names <= {*known, *_FULL_VERSIONS, "and", "or", "not", "in"}:
        return False
    try:
        read = Marker(marker)
        return not any(read.evaluate({**known, **dict.fromkeys(_FULL_VERSIONS, patch)}) for patch in patches)
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName):
        return False


def _parse_name(file: ModelFile) -> tuple[str, Version, BuildTag, frozenset[Tag]]:
    try:
        return parse_wheel_filename(posixpath.basename(file.path))
    except InvalidWheelFilename as error:
        raise ModelUnusable(f"'{file.path}' in the model is not named as a wheel: {error}.") from error


def _refuse_folder_or_own_form(line: str, wheels: _Wheels) -> None:
    """Raises ModelUnusable for a line that only `with_wheels` writes, and for a folder of the model as an index."""
    if MODEL_FILES in line.lower():
        raise ModelUnusable(f"Requirement {line[:300]!r} is not a package.")
    folder = _LINKS.fullmatch(line)
    inside = wheels.first_in.get(posixpath.normpath(folder[1])) if folder else None
    if inside:
        raise ModelUnusable(
            f"Requirement {line[:300]!r} makes a folder of the model a package index, which is not supported.",
            hint=f"name the wheels themselves in the model's requirements: extra_pip_requirements=['{inside}']",
        )


def _reason_against(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 42))
        end = file.read()
    # The last 22 bytes of a zip file: read first, because `zipfile` reads an index of any length into memory.
    if end[-22:-18] != b"PK\5\6" or end[:4] == b"PK\6\7" or int.from_bytes(end[-10:-6], "little") > _INDEX_BYTES:
        return "is not a zip file, or has too many files"
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(one.file_size for one in members) > _FREE_BYTES + _RATIO * path.stat().st_size:
            return f"would unpack to more than {_RATIO} times its size"
        if {one.compress_type for one in members} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            return "uses a compression that wheels do not use"
        if damaged := archive.testzip():
            return f"is damaged: {damaged[:200]!r}"
        for one in members:
            if one.filename.endswith(".dist-info/METADATA"):
                content = archive.read(one) if one.file_size <= _METADATA_BYTES else b"\nrequires-dist: @"
                if _URL_REQUIRED.search(content):
                    return "requires a package by URL; packages come from the package indexes only"
    return None
