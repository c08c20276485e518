from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.image.oci.reference import Reference

DIGEST = "sha256:" + "ab" * 32

_component = st.from_regex(r"[a-z0-9]+(?:(?:[._]|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
_host = st.one_of(
    st.from_regex(r"[a-z0-9]{1,8}(?:\.[a-z0-9]{1,8}){1,3}(?::[0-9]{2,5})?", fullmatch=True),
    st.from_regex(r"(?:localhost|\[::1\])(?::[0-9]{2,5})?", fullmatch=True),
).filter(lambda host: host not in {"docker.io", "index.docker.io"})
_references = st.builds(
    Reference,
    registry=_host,
    repository=st.lists(_component, min_size=1, max_size=3).map("/".join),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | st.just(DIGEST),
)


@given(_references)
def test_a_written_reference_is_read_back(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


# Text alone is hardly ever a reference: most are one, with something after it.
_TRICKS = st.text("aB0.:/@-_[]é \n", max_size=8)


@given(st.tuples(_references.map(str), _TRICKS).map("".join) | _TRICKS | st.text(max_size=40))
def test_any_text_is_either_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidOption:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python", Reference("docker.io", "library/python")),
        ("python:3.11-slim", Reference("docker.io", "library/python", "3.11-slim")),
        ("index.docker.io/python", Reference("docker.io", "library/python")),
        ("me/model@" + DIGEST, Reference("docker.io", "me/model", None, DIGEST)),
        ("localhost/me", Reference("localhost", "me")),
        ("127.0.0.1:5000/a/b:c", Reference("127.0.0.1:5000", "a/b", "c")),
        ("[::1]:5000/a", Reference("[::1]:5000", "a")),
        ("HOST/a:t@" + DIGEST, Reference("HOST", "a", "t", DIGEST)),
        (
            "public.ecr.aws/docker/library/python:3.11-slim",
            Reference("public.ecr.aws", "docker/library/python", "3.11-slim"),
        ),
    ],
)
def test_names_are_parsed_as_in_docker(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":tag", "UPPER", "a//b", "a:b:c", "host.io/", "a@sha256:12", "a b", "a" * 300, f"a:{'t' * 300}", "-a"]
)
def test_invalid_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption):
        Reference.parse(text)


def test_a_digest_replaces_the_tag() -> None:
    reference = Reference.parse("host.io/a:t")

    assert str(reference.with_digest(DIGEST)) == f"host.io/a@{DIGEST}"
    assert (reference.identifier, Reference.parse("host.io/a").identifier) == ("t", "latest")
