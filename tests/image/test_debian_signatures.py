"""Which release files are accepted: those signed by one of Debian's keys, and only the signed text in them."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.debian.signature import Verifier, find_verifier

# Two keys of 2025, `gpg --quick-gen-key "Test a <a@example.com>" ed25519 sign never`, and their signatures.
KEY_A = base64.b64decode(
    "mDMEZ3SFgBYJKwYBBAHaRw8BAQdA76U1yhIYYG2WlygM94DQiAods0X7Ea1rr3E43FA4AMi0FlRlc3QgYSA8YUBleGFtcGxlLmNvbT6IkAQTFg"
    "gAOBYhBMTsmKXi9mzK5okX2mSjqejo8PM1BQJndIWAAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJEGSjqejo8PM1q4QA/0e+0V1UqFmR"
    "m82BfQ8oN1q/HDokZJ+AGBjoBhQac66GAPwJXCPz8k3sTvkq2LkfP6a/QD/OYy4IzudtvaC/swj8BQ=="
)
KEY_B = base64.b64decode(
    "mDMEZ3SFgBYJKwYBBAHaRw8BAQdAhFGSaYTW5acrk+l7V63o0e7pCYHWvcOmrBAKVdBBFDW0FlRlc3QgYiA8YkBleGFtcGxlLmNvbT6IkAQTFg"
    "gAOBYhBDE+jncOGUYS7Ge+OWzenBI5f51CBQJndIWAAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJEGzenBI5f51CAdwA/1Zr73YFHApr"
    "Y52J0rpgDCXv37h+QKBz4QkgHAMyhVZ0AQD+x853gyywXoDaiv7oP9aNN71zHw1KDvR9q09Y9+APDg=="
)
TEXT = "Origin: Debian\nCodename: bookworm\n- a line that begins with a dash\nLabel: with blanks at its end\n\nSHA256:"
ESCAPED = (
    "Origin: Debian\nCodename: bookworm\n- - a line that begins with a dash \t\nLabel: with blanks at its end  \n\n"
    "SHA256:\n"
)


def clear_signed(signature: str, digest: str = "SHA256") -> bytes:
    """Returns the text as `gpg --clearsign` writes it."""
    return (
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: {digest}\n\n{ESCAPED}"
        f"-----BEGIN PGP SIGNATURE-----\n\n{signature}\n-----END PGP SIGNATURE-----\n"
    ).encode()


BY_A = clear_signed(
    "iHUEARYIAB0WIQTE7Jil4vZsyuaJF9pko6no6PDzNQUCZ3XXAAAKCRBko6no6PDz\n"
    "NatuAQC3ounPb16yEPrT98olEN7DJ8PpoadEY1R/1AjVFmqsxQEAsEzUHFCohPrL\n"
    "OefXBglYWytB3VuQ8d3h/yIsUjy2gAg=\n=JnKE"
)
BY_BOTH = clear_signed(
    "iIQEARYIACwWIQTE7Jil4vZsyuaJF9pko6no6PDzNQUCZ3XXAA4cYUBleGFtcGxl\n"
    "LmNvbQAKCRBko6no6PDzNQIlAQCaCy5/BNkh4nyvEYuqh8Jx4/iO6bYl4JICq4M9\n"
    "wjGZRwEAxnwwxJqslJ6HUJEZ6rQDA2dHMFikFaASsvfUCHaw3gKIhAQBFggALBYh\n"
    "BDE+jncOGUYS7Ge+OWzenBI5f51CBQJnddcADhxiQGV4YW1wbGUuY29tAAoJEGze\n"
    "nBI5f51CrGsBAKM799IEmdgp5S6BUz8GFILtipQ/hLpXG1QvYMPc0OG4AP4iqIOE\n"
    "5MUn65bdW41jIkenVDsP8vO8jkADYA0hvP/4Aw==\n=Du/P"
)
BY_A_WITH_SHA1 = clear_signed(
    "iIQEARYCACwWIQTE7Jil4vZsyuaJF9pko6no6PDzNQUCZ3XXAA4cYUBleGFtcGxl\n"
    "LmNvbQAKCRBko6no6PDzNWexAP9UuTT7IBLMTO2YoAUmL4/lFg12UYF1A4RxvnP5\n"
    "e7Zc+wEA5MyTfufARCeo6XOu77qCVI1YvMENiEoXufFggD/oaAc=\n=zutN",
    digest="SHA1",
)
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
OUTSIDE = {
    "before": b"Codename: evil\n" + BY_A,
    "an empty line before": b"\n" + BY_A,
    "after": BY_A + b"Codename: evil\n",
    "a second block after": BY_A + BY_A,
    "a second block that is not signed": BY_A.partition(SIGNATURE)[0] + BY_A,
    "in the header": BY_A.replace(b"Hash: SHA256\n", b"Hash: SHA256\nCodename: evil\n"),
    "instead of the empty line": BY_A.replace(b"Hash: SHA256\n\n", b"Hash: SHA256\n \nCodename: evil\n\n"),
    "with a dash that is not escaped": BY_A.replace(b"- - a line", b"- a line").replace(b"\n- a", b"\n-a"),
    "with carriage returns": BY_A.replace(b"Codename", b"Evil: 1\rCodename"),
    "all lines of Windows": BY_A.replace(b"\n", b"\r\n"),
    "nothing is signed": TEXT.encode(),
    "only a signature": BY_A[BY_A.index(SIGNATURE) :],
    "cut short": BY_A[:-40],
    "empty": b"",
}


@pytest.fixture(params=["sqv", "gpgv"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only program on the path; the user's own keys are not used."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed (apt-get install {request.param})")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / request.param).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "trustedkeys.gpg").write_bytes(KEY_A)
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "home"))
    return str(request.param)


def verifier_with(key: bytes, folder: Path) -> Verifier:
    (folder / "keyring.gpg").write_bytes(key)
    return find_verifier([folder / "missing.pgp", folder / "keyring.gpg"])


def test_only_the_signed_text_is_used(program: str, tmp_path: Path) -> None:
    verifier = verifier_with(KEY_A, tmp_path)

    assert Path(verifier.program).name == program
    assert verifier.signed_text(BY_A, "InRelease") == TEXT
    assert verifier.signed_text(BY_A.rstrip(b"\n"), "InRelease") == TEXT


@pytest.mark.parametrize("key", [KEY_A, KEY_B, KEY_A + KEY_B])
def test_one_of_two_signatures_is_enough_for_a_keyring_that_lacks_the_other_key(
    program: str, key: bytes, tmp_path: Path
) -> None:
    assert verifier_with(key, tmp_path).signed_text(BY_BOTH, "InRelease") == TEXT


def test_a_key_outside_the_keyring_is_rejected(program: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=rf"(?s)^InRelease is not signed by .* output of {program}:\n +\S") as caught:
        verifier_with(KEY_B, tmp_path).signed_text(BY_A, "InRelease")

    assert "debian-archive-keyring" in str(caught.value.hint)


def test_a_signature_with_a_weak_digest_is_rejected(program: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not signed by Debian"):
        verifier_with(KEY_A, tmp_path).signed_text(BY_A_WITH_SHA1, "InRelease")


@pytest.mark.parametrize("changed", [(b"bookworm", b"wormbook"), (b"\n\nSHA256", b"\nSHA256"), (b"Label: ", b"Label:")])
def test_a_modified_text_is_rejected(program: str, changed: tuple[bytes, bytes], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not signed by Debian"):
        verifier_with(KEY_A, tmp_path).signed_text(BY_A.replace(*changed), "InRelease")


@pytest.mark.parametrize("signed", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_text_outside_the_signed_block_is_rejected(program: str, signed: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is not a valid clear-signed file|is not signed by Debian"):
        verifier_with(KEY_A, tmp_path).signed_text(signed, "InRelease")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, len(BY_A)),
    removed=st.integers(0, 3),
    added=st.binary(max_size=3) | st.sampled_from([b"\n", b"\r\n", b"- ", b" ", b"\t", b"\n\n", b"\x0b", b"\xc2\x85"]),
)
def test_no_change_of_the_file_changes_the_text_that_is_used(
    program: str, tmp_path: Path, place: int, removed: int, added: bytes
) -> None:
    verifier = verifier_with(KEY_A, tmp_path)
    try:
        text = verifier.signed_text(BY_A[:place] + added + BY_A[place + removed :], "InRelease")
    except ImageError:
        return

    assert text == TEXT


def test_without_a_verifier_nothing_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ImageError, match="neither sqv nor gpgv is installed") as caught:
        verifier_with(KEY_A, tmp_path)

    assert "apt-get install sqv, or apt-get install gpgv" in str(caught.value.hint)


def test_without_debians_keys_nothing_is_accepted(program: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"its keys are not at .*missing\.pgp") as caught:
        find_verifier([tmp_path / "missing.pgp"])

    assert "apt-get install debian-archive-keyring" in str(caught.value.hint)
