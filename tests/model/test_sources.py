"""Where a model registry is allowed to send requests: origins are compared in all their spellings."""

from __future__ import annotations

import pytest
import requests
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlflow_fargate.errors import UntrustedSource
from mlflow_fargate.model.sources import ARTIFACT_SERVICE, Origin, check_source, origin_of, path_on_server

SERVER = "https://mlflow.example:8443/team"
SQLITE = "sqlite:////home/me/mlflow.db"

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
HOSTS = st.lists(LABEL, min_size=1, max_size=3).map(".".join).filter(lambda host: not host[-1].isdigit())
PATHS = st.lists(st.text("abcXYZ019-_ .é", min_size=1, max_size=9).filter(lambda part: set(part) != {"."}), max_size=4)
PORTS = st.integers(1, 65535)
SCHEMES = st.sampled_from(["http", "https"])


def refuses(uri: str, tracking_uri: str = SERVER) -> bool:
    with pytest.raises(UntrustedSource) as caught:
        check_source(uri, tracking_uri, tracking_uri)
    sentence, _, hint = str(caught.value.message).partition("\n  hint: ")
    return sentence.endswith(".") and "\n" not in sentence and bool(hint)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a", Origin("http", "a", 80)),
        ("HTTPS://A.Example/x", Origin("https", "a.example", 443)),
        ("http://me:secret@a:5000/x", Origin("http", "a", 5000)),
        ("http://a@b", Origin("http", "b", 80)),
        ("https://bücher.example", Origin("https", "xn--bcher-kva.example", 443)),
        ("https://BÜCHER.example:443", Origin("https", "xn--bcher-kva.example", 443)),
        ("http://a.example.", Origin("http", "a.example.", 80)),  # without the dot, search domains apply
        ("http://[0:0::0001]:80", Origin("http", "::1", 80)),
        ("http://127.1", Origin("http", "127.1", 80)),  # not treated as 127.0.0.1, so never equal by mistake
        ("http://", None),
        ("http://a:0x50", None),
        ("http://a:99999", None),
        ("http://[::1", None),
        ("http://\u2e2e.example:80", None),
        ("ftp://a", None),
        ("mlflow-artifacts://a:5000", None),
        ("/a/path", None),
        ("", None),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: Origin | None) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("mlflow-artifacts:/1/models/m-1", "1/models/m-1"),
        ("mlflow-artifacts:///1/models/m-1", "1/models/m-1"),
        ("mlflow-artifacts://mlflow.example:8443/1/m", "1/m"),
        ("MLFLOW-artifacts://me@MLflow.Example:8443/1/m", "1/m"),
        (f"{SERVER}{ARTIFACT_SERVICE}/1/my%20model", "1/my model"),
        ("mlflow-artifacts:/1/my model", "1/my model"),
        (f"{SERVER}{ARTIFACT_SERVICE}", ""),
    ],
)
def test_served_artifacts_are_read_from_the_tracking_server(uri: str, path: str) -> None:
    assert path_on_server(uri, SERVER) == path


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts://mlflow.example/1/m",  # MLflow uses port 443 here
        "mlflow-artifacts://mlflow.example.:8443/1/m",
        "mlflow-artifacts://8443/1/m",
        "mlflow-artifacts://evil.example:8443/1/m",
        "mlflow-artifacts://mlflow.example:8443@evil.example/1/m",
        "mlflow-artifacts://evil.example\\@mlflow.example:8443/1/m",
        "mlflow-artifacts://mlflow.example:8443/../../x",
        "mlflow-artifacts:/1/../../x",
        f"https://mlflow.example:8443{ARTIFACT_SERVICE}/1/m",  # outside the prefix /team, where another service may be
        f"{SERVER}{ARTIFACT_SERVICE}-of-others/1/m",
        f"{SERVER}{ARTIFACT_SERVICE}/%2e%2e/%2e%2e/login",
        f"{SERVER}/redirect?to=evil{ARTIFACT_SERVICE}/",
        f"http://mlflow.example:8443/team{ARTIFACT_SERVICE}/1/m",
        f"https://evil.example{ARTIFACT_SERVICE}/1/m",
        f"https://mlflow.example:8443.evil.example/team{ARTIFACT_SERVICE}/1/m",
        "gs://bucket/m",
        "dbfs:/m",
        "ftp://me:secret@evil.example/m",
        "hdfs://evil.example/m",
        "wasbs://c@evil.example/m",
        "data:,x",
        "file:///etc",
        "/etc",
        "etc",
        "C:\\Windows",
        "\\\\evil.example\\share",
        "//evil.example/share",
    ],
)
def test_every_other_location_is_refused_in_one_sentence(uri: str) -> None:
    assert refuses(uri)


def test_no_error_contains_a_password() -> None:
    for uri, server in (("http://u:hunter2@x/m", SERVER), ("/etc", "http://u:hunter2@mlflow:5000")):
        with pytest.raises(UntrustedSource) as caught:
            check_source(uri, server, server)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("tracking_uri", [SQLITE, "/home/me/mlruns", "file:///home/me/mlruns", "C:\\Users\\me\\mlruns"])
def test_folders_are_read_if_mlflow_itself_is_on_this_machine(tracking_uri: str) -> None:
    for folder in (
        "/home/me/models/m",
        "models/m",
        "file:/home/me/m",
        "file:///home/me/m",
        "file://localhost/m",
        "C:\\models\\m",
    ):
        check_source(folder, tracking_uri, tracking_uri)

        with pytest.raises(UntrustedSource):
            check_source(folder, SERVER, tracking_uri)
        with pytest.raises(UntrustedSource):
            check_source(folder, tracking_uri, SERVER)


@pytest.mark.parametrize(
    "uri", ["//evil.example/x", "\\\\evil.example\\x", "file://evil.example/x", "file:////evil.example/x",
            "file:///%5C%5Cevil.example%5Cx".replace("///", "//")],
)  # fmt: skip
def test_shared_folders_of_other_machines_are_refused_even_there(uri: str) -> None:
    assert refuses(uri, SQLITE)


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/m", "http://evil.example/m"])
def test_without_a_tracking_server_nothing_is_requested(uri: str) -> None:
    assert refuses(uri, SQLITE)


def test_every_registry_can_name_s3() -> None:
    for uri in ("s3://bucket/m", "s3a://bucket/m", "S3://bucket/m"):
        check_source(uri, SERVER, SERVER)


@given(scheme=SCHEMES, host=HOSTS, port=st.none() | PORTS, path=PATHS, user=st.sampled_from(["", "me@", "me:x@"]))
def test_a_server_is_recognized_in_any_spelling(
    scheme: str, host: str, port: int | None, path: list[str], user: str
) -> None:
    default = {"http": 80, "https": 443}[scheme]
    server = f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
    for same in (f"{host}:{port or default}", f"{host.upper()}:{port or default}"):
        uri = f"mlflow-artifacts://{user}{same}/{'/'.join(path)}"

        assert path_on_server(uri, server) == "/".join(path)


@given(ours=st.tuples(SCHEMES, HOSTS, PORTS), theirs=st.tuples(SCHEMES, HOSTS, PORTS), path=PATHS)
@example(ours=("http", "a", 80), theirs=("https", "a", 80), path=["m"])
@example(ours=("http", "a", 5000), theirs=("http", "a", 5001), path=["m"])
@example(ours=("http", "mlflow.a", 80), theirs=("http", "a", 80), path=["m"])
def test_no_other_server_is_mistaken_for_it(
    ours: tuple[str, str, int], theirs: tuple[str, str, int], path: list[str]
) -> None:
    assume(ours != theirs)
    server, other = (f"{scheme}://{host}:{port}" for scheme, host, port in (ours, theirs))

    assert refuses(f"{other}{ARTIFACT_SERVICE}/{'/'.join(path)}", server)
    if ours[1:] != theirs[1:]:
        assert refuses(f"mlflow-artifacts://{theirs[1]}:{theirs[2]}/{'/'.join(path)}", server)


TRICKS = st.text(st.sampled_from("ahm.example:/@\\?#%2e[]é。 \t\n;80"), max_size=30)
FEW = st.just("") | st.text(st.sampled_from("@:/\\?#.e8"), max_size=2)
# Tricks alone are hardly ever accepted: most are played around what would be.
AUTHORITIES = st.sampled_from(["", "ahm.example", "ahm.example:80", "AHM.Example"])
TAILS = st.tuples(FEW, AUTHORITIES, FEW, st.sampled_from(["/", f"{ARTIFACT_SERVICE}/"]), TRICKS).map("".join)


@given(TAILS | TRICKS, st.sampled_from(["mlflow-artifacts:", "http:", "https:", "file:", "", "models"]))
def test_requests_would_call_the_same_server_for_every_accepted_url(tail: str, scheme: str) -> None:
    server = "http://ahm.example"
    uri = f"{scheme}//{tail}"
    try:
        check_source(uri, server, server)
    except UntrustedSource:
        return

    authority = uri.partition("//")[2].partition("/")[0]
    called = requests.Request("GET", f"http://{authority or 'ahm.example'}/x").prepare().url
    assert called is not None and origin_of(called) == origin_of(server)
    assert ".." not in path_on_server(uri, server).split("/")


@given(st.text(max_size=40))
def test_any_text_can_be_checked(text: str) -> None:
    try:
        check_source(text, SERVER, SERVER)
    except UntrustedSource:
        assert origin_of(text) != origin_of(SERVER) or ARTIFACT_SERVICE not in text
