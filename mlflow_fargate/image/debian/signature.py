"""Verifies Debian's signature on a release file with the system's program for it: sqv or gpgv.

As in apt, the clear-signed file is split here, and the program gets text and signature as two files. So the text that
is used is the text that was verified, and a file with anything around it is rejected.
Source: RFC 9580, section 7 (Cleartext Signature Framework); sqv(1), gpgv(1), GnuPG's doc/DETAILS for the status lines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.errors import ImageError

DEBIAN_KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg"))
# In apt's order of preference. Debian 13 has sqv, earlier releases have gpgv.
_PROGRAMS = ("sqv", "gpgv")
_OTHER_WAYS = "or use a base image that has the packages (base_image=…), or builder=docker, which runs apt"
_CLEAR_SIGNED = re.compile(
    rb"-----BEGIN PGP SIGNED MESSAGE-----\n"
    rb"(?:Hash: [\w, -]+\n)*\n"
    rb"(?P<text>(?:[^-\r\n][^\r\n]*\n|\n|- [^\r\n]*\n)*)"
    rb"(?P<signature>-----BEGIN PGP SIGNATURE-----\n(?:[^-\n][^\n]*\n|\n)*-----END PGP SIGNATURE-----\n?)"
)


@dataclass(frozen=True)
class Verifier:
    """A program that verifies signatures, and the file with the only trusted keys."""

    program: str  # path of 'sqv' or 'gpgv'
    keyring: Path

    def signed_text(self, signed: bytes, name: str) -> str:
        """Returns the text of the clear-signed file `name`; raises ImageError unless a trusted key signed it."""
        parts = _CLEAR_SIGNED.fullmatch(signed)
        if parts is None:
            raise ImageError(
                f"{name} is not a valid clear-signed file.",
                hint="check for a proxy or mirror that returns the wrong file",
            )
        text = _canonical(parts["text"])
        with tempfile.TemporaryDirectory(prefix="signature-") as folder:
            signature_path, text_path = Path(folder, "signature"), Path(folder, "text")
            signature_path.write_bytes(parts["signature"])
            text_path.write_bytes(text)
            self._check(signature_path, text_path, name)
        return text.decode()

    def _check(self, signature: Path, text: Path, name: str) -> None:
        """Raises ImageError unless the program finds a good signature."""
        is_gpgv = Path(self.program).name == "gpgv"
        # sqv rejects SHA-1 as well. The home folder is empty, so gpgv uses no other keys.
        options = ("--homedir", str(text.parent), "--weak-digest", "SHA1", "--status-fd", "1") if is_gpgv else ()
        command = [self.program, *options, "--keyring", str(self.keyring), str(signature), str(text)]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        is_good = _is_good_for_gpgv(result.stdout) if is_gpgv else result.returncode == 0
        if not is_good:
            said = "\n".join(f"    {line}" for line in result.stderr.splitlines())
            raise ImageError(
                f"{name} is not signed by Debian; output of {Path(self.program).name}:\n{said}",
                hint=f"if a key is missing: apt-get install --only-upgrade debian-archive-keyring ({self.keyring})",
            )


def find_verifier(keyrings: Sequence[Path] = DEBIAN_KEYRINGS) -> Verifier:
    """Returns this machine's verifier; raises ImageError if neither program or no Debian keys are installed."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        raise ImageError(
            "Debian's signatures cannot be checked: neither sqv nor gpgv is installed.",
            hint=f"apt-get install sqv, or apt-get install gpgv; {_OTHER_WAYS}",
        )
    keyring = next((path for path in keyrings if path.exists()), None)
    if keyring is None:
        raise ImageError(
            f"Debian's signatures cannot be checked: its keys are not at {' or '.join(map(str, keyrings))}.",
            hint=f"apt-get install debian-archive-keyring; {_OTHER_WAYS}",
        )
    return Verifier(program, keyring)


def _canonical(text: bytes) -> bytes:
    """Returns the lines as signed: without escaping dashes, trailing blanks, and the last newline."""
    lines = text.removesuffix(b"\n").split(b"\n")
    return b"\n".join(line.removeprefix(b"- ").rstrip(b" \t") for line in lines)


def _is_good_for_gpgv(status: str) -> bool:
    """Returns whether there is one good signature and no bad one.

    gpgv's exit status is not enough: it is 2 if an older keyring lacks the key of one of several signatures.
    """
    said = {line.split()[1] for line in status.splitlines() if line.startswith("[GNUPG:] ")}
    return "GOODSIG" in said and "BADSIG" not in said
