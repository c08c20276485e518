"""The files of a base image built from this machine: its Python, the libraries it needs, and a small system around it.

Wherever the Python comes from (Debian's packages, pyenv, uv, a container's /usr/local), in the image it is in
/usr/local, and all libraries are beside the C library, in a folder that the loader searches without configuration.
"""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.registry.grammar import digest_of

_FORMAT = 1  # increase when the image's content changes
_LIBC = "libc.so.6"
# Libraries that wheels expect in the system (PEP 599 and the C library's own parts), as far as this machine has them.
# Before glibc 2.34, threads, dlopen and name resolution were libraries of their own, loaded by name.
_EXTRA_LIBRARIES = (
    *("libdl.so.2", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2", "libpthread.so.0", "libresolv.so.2"),
    *("librt.so.1", "libutil.so.1", "libexpat.so.1", "libgcc_s.so.1", "libgomp.so.1", "libstdc++.so.6", "libz.so.1"),
)
# Of the standard library (paths in it): what only developers use, installed packages, and bytecode.
LEFT_OUT = re.compile(
    r"(.*/)?(__pycache__|tests?|idlelib|tkinter|turtledemo|turtle\.py|ensurepip|(site|dist)-packages|config-3[^/]*"
    r"|_tkinter\.[^/]*|_(ctypes_)?test[^/]*\.so|(_xxtest|xx)[^/]*\.so|.*\.(a|pyc|exe))(/.*)?"
)
_LOADED = re.compile(r"^\t(?:(\S+) => )?(/.+) \(0x", re.MULTILINE)  # a line of ldd: NAME => PATH (ADDRESS)
_PACKAGE = re.compile(r"^([a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?): /", re.MULTILINE)  # a line of dpkg-query --search
_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_CA_IN_IMAGE = "etc/ssl/certs/ca-certificates.crt"
_VARIANT = 'VARIANT="the Python of this machine"\nVARIANT_ID=mlflow-fargate\n'
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_FOLDERS: dict[str, Content] = {"dev": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755, "sys": 0o755, "tmp": 0o1777}
# Debian, Fedora and others have programs and libraries in /usr, and these links; paths in the image start with usr/.
_LINKS: dict[str, Content] = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}

Content = Path | bytes | str | int  # a file to copy, a file's bytes, a link's target, or a folder's mode


@dataclass(frozen=True)
class HostPython:
    """A Python installation of this machine, without its virtual environment."""

    version: str  # '3.11.7'
    build: str
    prefix: Path
    stdlib: Path
    ca_file: str  # where its OpenSSL looks for certificates

    @classmethod
    def of_this_process(cls) -> HostPython:
        return cls(
            version=platform.python_version(),
            build=sys.version,
            prefix=Path(sys.base_prefix),
            stdlib=Path(sysconfig.get_path("stdlib")),
            ca_file=ssl.get_default_verify_paths().openssl_cafile,
        )

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def program(self) -> Path:
        return self.prefix / "bin" / f"python{self.minor}"

    def fingerprint(self) -> str:
        """Returns what changes when Python, its libraries, the certificates or the system are updated; in 30 ms."""
        libraries = list_libraries([self.program])
        paths = {self.program, self.stdlib, *map(Path, (*_CA_FILES, *_OS_RELEASE)), *libraries.values()}
        paths |= {path.parent for path in libraries.values()}  # an update of any library there renames a file into it
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths) if path.exists()]
        return digest_of(repr((_FORMAT, self.build, self.ca_file, states)).encode())[7:23]


def list_files(python: HostPython) -> dict[str, Content]:
    """Returns the image's files and links: path in the image → content."""
    shell = Path("/bin/sh").resolve()
    files = list_python(python)
    binaries = [path for name, path in files.items() if isinstance(path, Path) and name.endswith(".so")]
    locale = Path("/usr/lib/locale/C.utf8")  # from glibc 2.35 on also built in
    files |= {str(path).lstrip("/"): path for path in locale.rglob("*") if path.is_file()}
    libraries = place_libraries(list_libraries([python.program, shell, *binaries]))
    files |= {**libraries, "usr/bin/sh": shell, "etc/os-release": make_os_release()}
    if packages := list_packages([python.program, shell, *libraries.values()]):
        files["var/lib/dpkg/status"] = packages.encode()
    files |= {name: text.encode() for name, text in _TEXTS.items()}
    if bundle := next((path for path in map(Path, _CA_FILES) if path.exists()), None):
        files |= {python.ca_file.lstrip("/"): f"/{_CA_IN_IMAGE}", _CA_IN_IMAGE: bundle}
    return files | _FOLDERS | _LINKS


def list_python(python: HostPython) -> dict[str, Content]:
    """Returns interpreter and standard library, in usr/local."""
    target = PurePosixPath("usr/local", python.stdlib.relative_to(python.prefix))
    files: dict[str, Content] = {}
    for folder, folders, names in os.walk(python.stdlib):
        inside = Path(folder).relative_to(python.stdlib)
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(str(inside / name))]
        kept = [name for name in names if not LEFT_OUT.fullmatch(str(inside / name)) and Path(folder, name).is_file()]
        files |= {str(target / inside / name): Path(folder, name) for name in kept}
    program = f"python{python.minor}"
    programs: dict[str, Content] = {program: python.program, "python3": program, "python": program}
    return files | {f"usr/local/bin/{name}": content for name, content in programs.items()}


def list_libraries(binaries: Iterable[Path]) -> dict[str, Path]:
    """Returns the libraries that the loader finds for `binaries`: name (the loader's is its path) → file."""
    if not shutil.which("ldd"):
        raise LocalStackError(
            "The base image cannot be built: this machine has no ldd, which lists a program's libraries.",
            hint="install the C library's utilities (ldd; on Debian, package libc-bin)",
        )
    found = _LOADED.findall(_output_of("ldd", *map(str, binaries)))
    return {name or path: Path(path) for name, path in found}


def list_packages(files: Iterable[Path]) -> str:
    """Returns the paragraphs of dpkg's status for the Debian packages that these are from; "" without dpkg.

    With them, `system_packages` and image scanners know what is there.
    """
    if not shutil.which("dpkg-query"):
        return ""
    # A package may list a library in /lib although it is in /usr/lib, where /lib leads.
    names = {f"{usr}/{_in_usr(path).removeprefix('usr/')}" for path in files for usr in ("", "/usr")}
    owners = set(_PACKAGE.findall(_output_of("dpkg-query", "--search", *sorted(names))))
    return _output_of("dpkg-query", "--status", *sorted(owners)) if owners else ""


def place_libraries(libraries: Mapping[str, Path]) -> dict[str, Path]:
    """Returns the libraries, and those that wheels expect, beside the C library; the loader keeps its path."""
    if _LIBC not in libraries:
        raise LocalStackError(f"The base image cannot be built: ldd does not list this Python's {_LIBC}.")
    home = libraries[_LIBC].parent
    expected = {name: home / name for name in _EXTRA_LIBRARIES if (home / name).exists()}
    return {_in_usr(home / name): path for name, path in (expected | dict(libraries)).items()}


def make_os_release() -> bytes:
    """Returns this machine's os-release, marked so that programs can tell the image from a complete system."""
    texts = (path.read_text() for path in map(Path, _OS_RELEASE) if path.exists())
    lines = [line for line in next(texts, "ID=linux").splitlines() if not line.startswith("VARIANT")]
    return "\n".join([*lines, _VARIANT]).encode()


def pack(files: Mapping[str, Content]) -> bytes:
    """Returns a tar with the files and their folders; fixed times, owners and modes make its bytes reproducible."""
    parents = {str(parent): 0o755 for name in files for parent in PurePosixPath(name).parents if parent.name}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in sorted({**parents, **files}.items()):
            entry, body = tarfile.TarInfo(name), b""
            if isinstance(content, int):
                entry.type, entry.mode = tarfile.DIRTYPE, content
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                body = content.read_bytes() if isinstance(content, Path) else content
                is_program = isinstance(content, Path) and content.stat().st_mode & 0o111
                entry.size, entry.mode = len(body), 0o755 if is_program else 0o644
            archive.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


def _in_usr(path: Path) -> str:
    name = str(path).lstrip("/")
    return f"usr/{name}" if name.partition("/")[0] in _LINKS else name


def _output_of(*command: str) -> str:
    """Returns what the command prints; both ldd and dpkg-query fail if they do not know one of several files."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    return done.stdout
