"""Debian's archive: the packages of a release, and their files. Only data that Debian signed is used.

    InRelease (signed) ──sha256──→ Packages.xz ──sha256──→ NAME.deb

Cached by digest, so each file is downloaded once: {cache}/debian/HEX
Source: https://wiki.debian.org/DebianRepository/Format; for Valid-Until apt-secure(8).
"""

from __future__ import annotations

import hashlib
import lzma
import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import stamina

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.debian.control import DebianPackage, parse_paragraphs
from mlflow_fargate.image.debian.signature import Verifier, find_verifier

ARCHIVES = (
    ("deb.debian.org/debian", "{codename}"),
    ("deb.debian.org/debian", "{codename}-updates"),
    ("deb.debian.org/debian-security", "{codename}-security"),
)
_RELEASE_LIMIT_BYTES = 4 << 20
_DEB_LIMIT_BYTES = 1 << 30
_TIMEOUT_SECONDS = 60


class Archive:
    """The packages of one release of Debian for one architecture ('amd64', 'arm64')."""

    def __init__(self, codename: str, architecture: str, *, cache: Path) -> None:
        self._codename, self._architecture = codename, architecture
        self._files = cache / "debian"
        self._files.mkdir(parents=True, exist_ok=True)
        self._session = requests.Session()

    def packages(self) -> list[DebianPackage]:
        """Returns all packages, including those in the security archive.

        Raises ImageError if a signature or digest is wrong, or if this machine cannot verify signatures.
        """
        verifier, found = find_verifier(), []
        for place, suite in ARCHIVES:
            found += self._packages_of(verifier, place, suite.format(codename=self._codename))
        return found

    def fetch(self, package: DebianPackage) -> Path:
        """Downloads the package's .deb and checks its digest."""
        return self._fetch(f"{package.archive}/{package.path}", package.sha256, _DEB_LIMIT_BYTES)

    def _packages_of(self, verifier: Verifier, place: str, suite: str) -> list[DebianPackage]:
        release, url = self._release(verifier, place, suite)
        path = f"main/binary-{self._architecture}/Packages.xz"
        listed = re.search(rf"^ ([0-9a-f]{{64}})\s+(\d+)\s+{re.escape(path)}$", release, re.MULTILINE)
        if not listed:
            raise ImageError(f"Debian's {suite} has no packages for {self._architecture}.")
        packed = self._fetch(
            f"{url}/dists/{suite}/main/binary-{self._architecture}/by-hash/SHA256/{listed[1]}",
            listed[1],
            int(listed[2]),
        )
        text = lzma.decompress(packed.read_bytes()).decode()
        return [DebianPackage.of_paragraph(fields, archive=url) for fields in parse_paragraphs(text)]

    def _release(self, verifier: Verifier, place: str, suite: str) -> tuple[str, str]:
        """Returns the signed release file of this suite, and the archive's URL."""
        url = f"http://{place}"
        name = f"{url}/dists/{suite}/InRelease"
        text = verifier.signed_text(self._get(name, _RELEASE_LIMIT_BYTES), name)
        codename = re.search(r"^Codename: (.+)$", text, re.MULTILINE)
        if not codename or codename[1] != suite:
            raise ImageError(
                f"{name} belongs to another release: {codename[1] if codename else 'unknown'}.",
                hint="check for a proxy or mirror that returns the wrong file",
            )
        until = re.search(r"^Valid-Until: (.+)$", text, re.MULTILINE)
        if until and parsedate_to_datetime(until[1].replace("UTC", "+0000")) < datetime.now(timezone.utc):
            raise ImageError(
                f"{name} is out of date: it expired on {until[1]}.",
                hint="check this machine's clock, and any proxy or mirror",
            )
        return text, url

    def _fetch(self, url: str, sha256: str, limit_bytes: int) -> Path:
        path = self._files / sha256
        if not path.exists():
            data = self._get(url, limit_bytes)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ImageError(
                    f"{url} is not the file that Debian signed (sha256 {sha256}).",
                    hint="the mirror may be updating; try again in a few minutes",
                )
            atomic_files.write(path, data)
        return path

    @stamina.retry(on=(requests.ConnectionError, requests.Timeout), attempts=4)
    def _get(self, url: str, limit_bytes: int) -> bytes:
        with self._session.get(url, timeout=_TIMEOUT_SECONDS, stream=True) as response:
            if response.status_code != 200:
                raise ImageError(f"{url} returned {response.status_code} {response.reason}.")
            data = bytearray()
            for chunk in response.iter_content(1 << 20):
                data += chunk
                if len(data) > limit_bytes:
                    raise ImageError(f"{url} is larger than the limit of {limit_bytes} bytes.")
            return bytes(data)
