"""Runs uv for an image: locks the requirements, and installs the locked packages into a directory.

    requirement lines ──lock──→ Lock (pins with hashes, for one Python and one platform) ──install──→ files

Wheels are used if there are any. A package without wheels is built here if this machine matches the image and building
is allowed: it runs the package's code. Everything that runs uv is here.
"""

from __future__ import annotations

import os
import platform as system
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import indent

import uv

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.image import encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage, check_hashes, check_urls, parse_pylock
from mlflow_fargate.image.packages.requirements import is_index_option, replace_locked_twins
from mlflow_fargate.image.packages.uv_errors import (
    is_failed_build,
    lock_error,
    no_wheel_error,
    packages_without_wheels,
)
from mlflow_fargate.requirement_files import CONSTRAINT, MODEL_FILES, is_constraint, without_hashes
from mlflow_fargate.resolved_model import without_credentials

# How long a lock is reused: unpinned requirements should get updates, but not on every deployment of a day.
LOCK_MAX_AGE_SECONDS = 24 * 3600

# Environment variables for building: network and compiler settings, but no secrets of AWS or MLflow. uv's own
# settings are included, because uv runs in the same environment.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TMPDIR|TZ|NETRC|XDG_\w+|UV_\w+|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|"
    r"LD_LIBRARY_PATH|PKG_CONFIG_PATH|CC|CXX|AR|CFLAGS|CPPFLAGS|CXXFLAGS|LDFLAGS|MAKEFLAGS|CMAKE_\w+|CARGO_\w+|RUSTUP_\w+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Indexes:
    """Package indexes: `url` replaces PyPI, and `extra_urls` come before it.

    A package is taken from the first index that has it, so nobody on PyPI can claim a private package's name. The URLs
    can contain a user and a password; uv replaces `${NAME}` in them from the environment.
    Source: https://docs.astral.sh/uv/concepts/indexes/#searching-across-multiple-indexes
    """

    url: str | None = field(default=None, repr=False)
    extra_urls: tuple[str, ...] = field(default=(), repr=False)
    find_links: tuple[str, ...] = field(default=(), repr=False)  # pages that link to files of packages

    @property
    def others(self) -> tuple[str, ...]:
        """Returns all of them but `url`."""
        return (*self.extra_urls, *self.find_links)


PYPI = Indexes()


def make_python_minor(version: str) -> str:
    """Returns '3.11' for '3.11.7' or '3.11'."""
    return ".".join(version.split(".")[:2])


def lock(
    lines: Sequence[str],
    *,
    python_version: str,
    platform: Platform,
    cache: Path,
    indexes: Indexes = PYPI,
    packages: tuple[LockedPackage, ...] | None = None,
    build_sdists: bool = False,
    clock: Callable[[], float] = time.time,
) -> Lock:
    """Returns pins that satisfy normalized requirement lines; from `cache` if locked within a day.

    `indexes` come before those in the lines. Neither content nor names in `cache` contain credentials. `packages` are
    the pins for the same `lock_key` from elsewhere; they skip resolution. Raises ImageError for packages without
    wheels, unless building is allowed (`build_sdists`) and this machine can build for `platform`.
    """
    minor = make_python_minor(python_version)
    options = _merge_indexes(indexes, [line for line in lines if is_index_option(line)])
    files = (cache / "models").absolute().as_uri()
    wanted = [line.replace(f"@ {MODEL_FILES}", f"@ {files}/") for line in lines if not is_index_option(line)]
    if packages is not None:
        check_hashes(packages, wanted)
        return Lock(packages, minor, platform, options)
    key = lock_key(lines, python_version=python_version, platform=platform, indexes=indexes)
    path = cache / "locks" / f"{key}.toml"
    if not (path.exists() and clock() - path.stat().st_mtime < LOCK_MAX_AGE_SECONDS):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _compile_without_twins(options, wanted, minor, platform, path.parent, build_sdists=build_sdists)
        atomic_files.write(path, without_credentials(text))
    found = parse_pylock(path.read_text(), minor, platform)
    check_hashes(found, wanted)
    check_urls(found, wanted)
    sdists = [package.name for package in found if package.is_sdist]
    if sdists and (reason := why_nothing_is_built(minor, platform, is_allowed=build_sdists)):
        raise no_wheel_error(sdists, reason, minor, platform)
    return Lock(tuple(_with_credentials(package, wanted) for package in found), minor, platform, options)


def lock_key(lines: Sequence[str], *, python_version: str, platform: Platform, indexes: Indexes = PYPI) -> str:
    """Returns 64 hex digits that change when the lock's inputs do, except for passwords."""
    options = _merge_indexes(indexes, [line for line in lines if is_index_option(line)])
    wanted = [line for line in lines if not is_index_option(line)]
    public = [[without_credentials(line) for line in group] for group in (options, wanted)]
    document = [*public, make_python_minor(python_version), str(platform)]
    return sha256_digest(encode_json(document)).removeprefix("sha256:")


def _with_credentials(package: LockedPackage, lines: Sequence[str]) -> LockedPackage:
    """Returns a package by URL with the credentials of its requirement line."""
    urls = {without_credentials(url): url for url in (line.partition(" @ ")[2].partition(" ;")[0] for line in lines)}
    name, _, url = package.requirement.partition(" @ ")
    return replace(package, requirement=f"{name} @ {urls[url]}") if url and url in urls else package


def install(lock: Lock, target: Path) -> None:
    """Installs the locked packages into the directory `target`.

    The files are hard links into uv's cache if both are on one file system (five times faster than copies), so they
    must never be modified.
    """
    link_mode = "clone" if sys.platform == "darwin" else "hardlink"
    arguments = ["install", "--target", str(target), "--no-deps", "--require-hashes", f"--link-mode={link_mode}"]
    text = "\n".join((*lock.index_options, lock.text))
    _, error = _run_uv(arguments, text, lock.python_version, lock.platform, target, sdists=lock.sdists)
    if error:
        hint = "free some space; UV_CACHE_DIR moves uv's cache" if "No space left" in error else None
        raise ImageError(
            f"Could not install the image's packages. Output of uv:\n{indent(error.strip(), '    ')}", hint=hint
        )


def find_interpreter(python_version: str) -> str | None:
    """Returns a Python on this machine with that minor version, or None. Downloads nothing."""
    minor = make_python_minor(python_version)
    if minor == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    command = [uv.find_uv_bin(), "python", "find", "--no-python-downloads", "--no-project", f"cpython@{minor}"]
    found = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def why_nothing_is_built(python_version: str, platform: Platform, *, is_allowed: bool) -> str | None:
    """Returns why packages cannot be built on this machine for that platform; None if they can."""
    here = f"{system.system()} on {system.machine()}"
    if not is_allowed:
        return "build_sdists=false"
    if (system.system(), system.machine()) != ("Linux", platform.machine):
        return f"this machine is {here}; the image is for {platform}"
    if not find_interpreter(python_version):
        return f"Python {make_python_minor(python_version)} is not installed here"
    return None


def _merge_indexes(indexes: Indexes, options: Sequence[str]) -> tuple[str, ...]:
    """Returns the index options; `indexes.url` replaces the one in `options`, because there can be only one."""
    if indexes.url:
        options = [f"--index-url {indexes.url}", *(line for line in options if not line.startswith("--index-url"))]
    named = [f"--extra-index-url {url}" for url in indexes.extra_urls]
    return tuple(dict.fromkeys([*named, *(f"--find-links {url}" for url in indexes.find_links), *options]))


def _compile_without_twins(
    options: Sequence[str],
    lines: Sequence[str],
    minor: str,
    platform: Platform,
    directory: Path,
    *,
    build_sdists: bool,
) -> str:
    """Returns a pylock.toml with one distribution of each library, also where packages depend on another one."""
    limits = [without_hashes(line.removeprefix(CONSTRAINT))[0] for line in lines if is_constraint(line)]
    lines = [line for line in lines if not is_constraint(line)]
    with _file_for("--constraints", limits, directory) as limited:
        text = _compile("\n".join((*options, *lines)), minor, platform, directory, limited, build_sdists=build_sdists)
        pins = (package.requirement.partition("==") for package in parse_pylock(text, minor, platform))
        better = replace_locked_twins(lines, {name: version for name, _, version in pins if version}, platform.machine)
        if not better:
            return text
        lines, excluded = better
        with _file_for("--excludes", excluded, directory) as without:
            text = "\n".join((*options, *lines))
            return _compile(text, minor, platform, directory, [*limited, *without], build_sdists=build_sdists)


@contextmanager
def _file_for(argument: str, lines: Sequence[str], directory: Path) -> Iterator[list[str]]:
    """Yields the argument with a temporary file of these lines; nothing if there are none."""
    with tempfile.NamedTemporaryFile("w", prefix=".lines-", suffix=".txt", dir=directory) as file:
        file.write("\n".join(lines))
        file.flush()
        yield [argument, file.name] if lines else []


def _compile(
    text: str,
    minor: str,
    platform: Platform,
    directory: Path,
    further_arguments: Sequence[str] = (),
    *,
    build_sdists: bool,
) -> str:
    # pylock.toml, because it lists the wheels themselves, with their sizes; a requirements file has the hashes of all
    # files of a release, including those for other systems.
    arguments = ["compile", "--format", "pylock.toml", "--no-header", "--no-annotate", *further_arguments]
    output, error = _run_uv(arguments, text, minor, platform, directory)
    sdists: set[str] = set()
    # One pass per package without wheels: its dependencies are known only once it is built.
    while (found := packages_without_wheels(error) - sdists) and not why_nothing_is_built(
        minor, platform, is_allowed=build_sdists
    ):
        sdists |= found
        output, further = _run_uv(arguments, text, minor, platform, directory, sdists=sorted(sdists))
        if further and not packages_without_wheels(further) and not is_failed_build(further):
            break  # it has no source distribution either: the first error is clearer
        error = further
    if not error:
        return output
    reason = why_nothing_is_built(minor, platform, is_allowed=build_sdists)
    raise lock_error(error, sorted(sdists), reason, minor, platform)


def _run_uv(
    arguments: list[str], text: str, minor: str, platform: Platform, directory: Path, *, sdists: Sequence[str] = ()
) -> tuple[str, str]:
    """Runs `uv pip …` on requirements, building only `sdists`; returns (output, "") or ("", error)."""
    # The requirements are passed in a file: index URLs can contain passwords, and command lines are public.
    handle, name = tempfile.mkstemp(prefix=".requirements-", suffix=".txt", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        python = (find_interpreter(minor) if sdists else None) or sys.executable
        target = ["--python", python, "--python-version", minor, "--python-platform", platform.wheel_platform]
        built = ["--only-binary", ":all:", *(part for one in sdists for part in ("--no-binary", one))]
        command = [uv.find_uv_bin(), "pip", *arguments, *(["-r"] if arguments[0] == "install" else []), name]
        # In a temporary directory: in a project's directory, uv would use the project's settings.
        result = subprocess.run(
            [*command, *target, *built, "--no-progress", "--color", "never", "--quiet"],
            cwd=directory,
            # A wheel can require a package in any repository, which uv would clone with the user's credentials.
            env={**(_environment(text) if sdists else os.environ), "GIT_ALLOW_PROTOCOL": "none"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    finally:
        Path(name).unlink()
    if result.returncode == 0:
        return result.stdout, ""
    return "", without_credentials(result.stderr.replace(name, "the requirements")) or f"exit code {result.returncode}"


def _environment(requirements: str) -> dict[str, str]:
    """Returns the environment for uv while it runs packages' code: only what uv and a compiler need."""
    asked_for = set(re.findall(r"\$\{(\w+)\}", requirements))
    return {name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name) or name in asked_for}
