"""Resolves model URIs on a real tracking server, and parses the files that describe a model."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import mlflow.utils.rest_utils
import pytest
import stamina
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.errors import FargateError, InvalidOption, ModelNotFound, ModelUnusable
from mlflow_fargate.model.artifacts import ArtifactStores
from mlflow_fargate.model.cache import download_model, labels_file
from mlflow_fargate.model.resolve import resolve_model
from mlflow_fargate.model.uri import ModelRegistry
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from support.mlflow_server import LABELS, LoggedModels, MlflowServer
from support.tracking_uri import use_tracking_uri


class Resolver:
    """`resolve_model` as a deployer calls it, and the requests it made to MLflow."""

    def __init__(self, server: MlflowServer) -> None:
        session = boto3.Session("test", "test", region_name="us-east-1")
        client = make_s3_client(session, server.s3_endpoint_url)
        self.stores = ArtifactStores(s3=lambda: S3Artifacts(client), tracking_uri=server.uri)
        self.tracking_uri = server.uri
        self.requests: list[str] = []

    def __call__(self, uri: str, labels: str | None = None) -> ResolvedModel:
        self.requests.clear()
        return resolve_model(
            uri, stores=self.stores, progress=RecordedProgress(), tracking_uri=self.tracking_uri, labels=labels
        )


@pytest.fixture
def resolve(
    mlflow_server: MlflowServer, logged_models: LoggedModels, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Resolver]:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", mlflow_server.uri)
    resolver = Resolver(mlflow_server)
    send = mlflow.utils.rest_utils._get_http_response_with_retries

    def send_and_count(method: str, url: str, *others: Any, **more: Any) -> Any:
        resolver.requests.append(f"{method} {url.removeprefix(mlflow_server.uri)}")
        return send(method, url, *others, **more)

    monkeypatch.setattr(mlflow.utils.rest_utils, "_get_http_response_with_retries", send_and_count)
    yield resolver


def local_stores() -> ArtifactStores:
    def no_s3() -> Any:
        raise AssertionError("a local model needs no S3")

    return ArtifactStores(s3=no_s3)


def resolve_local(uri: str | Path, labels: str | None = None) -> ResolvedModel:
    return resolve_model(
        str(uri), stores=local_stores(), progress=RecordedProgress(), tracking_uri="sqlite://", labels=labels
    )


@pytest.fixture
def local_model(tmp_path: Path) -> Path:
    folder = tmp_path / "a model"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("run_id: abc\nflavors:\n  python_function: {python_version: 3.11.7}\n")
    (folder / "requirements.txt").write_text("# made by hand\nnumpy==1.26\n\n  pandas\n")
    (folder / "data" / "weights.bin").write_bytes(b"w" * 1000)
    return folder


@pytest.mark.slow
class TestRegisteredModels:
    def test_a_version_resolves_to_its_files_in_s3(self, resolve: Resolver, logged_models: LoggedModels) -> None:
        model = resolve("models:/iris/1")

        assert (model.name, model.version, model.run_id) == ("iris", "1", logged_models.direct_run_id)
        assert model.resolved_uri == "models:/iris/1"
        assert model.artifact_uri == logged_models.direct_location
        assert {"MLmodel", "requirements.txt", "python_model.pkl"} <= {file.path for file in model.files}
        assert all(file.etag for file in model.files)
        assert model.requirements == ("mlflow",)
        registered = MlflowClient().get_model_version("iris", "1").creation_timestamp
        assert model.created == datetime.fromtimestamp(registered // 1000, timezone.utc)
        assert model.python_version is not None and model.python_version.startswith("3.")
        assert "python_function" in model.flavors
        assert model.labels_uri is not None and model.labels_uri.endswith("/artifacts/rev_labels_iris.json")

    @pytest.mark.parametrize("uri", ["models:/iris/Production", "models:/iris/pRODUCTION", "models:/iris/latest"])
    def test_a_stage_is_its_highest_version_in_any_case(self, resolve: Resolver, uri: str) -> None:
        model = resolve(uri)

        assert (model.version, model.resolved_uri, model.requested_uri) == ("2", "models:/iris/2", uri)

    def test_an_alias_is_resolved_with_few_requests(self, resolve: Resolver) -> None:
        model = resolve("models:/iris@champion")

        assert model.version == "1"
        assert [request.rpartition("/")[2].split("?")[0] for request in resolve.requests] == [
            "health",
            "alias",
            "get",
            "get-download-uri",
            "get",  # the run, whose root may hold labels
        ]

    def test_every_kind_of_source_leads_to_the_same_files(self, resolve: Resolver, logged_models: LoggedModels) -> None:
        one = resolve("models:/iris/1")
        through_run, copy, bare = (
            resolve("models:/iris/2"),
            resolve("models:/iris-copy/1"),
            resolve("models:/iris-s3/1"),
        )
        run = resolve(f"runs:/{logged_models.direct_run_id}/model")
        logged = resolve(f"models:/{logged_models.direct_model_id}")
        place = resolve(logged_models.direct_location)

        assert {model.files for model in (one, through_run, copy, bare, run, logged, place)} == {one.files}
        assert through_run.fingerprint == copy.fingerprint == run.fingerprint == logged.fingerprint == one.fingerprint
        assert (copy.name, copy.version, copy.run_id) == ("iris-copy", "1", logged_models.direct_run_id)
        assert run.resolved_uri == logged.resolved_uri == f"models:/{logged_models.direct_model_id}"
        # A version of a plain location has no run; the model itself has. A plain location has no server to query.
        assert bare.labels_uri == one.labels_uri
        assert place.labels_uri is None and place.run_id == one.run_id

    def test_a_copy_does_not_depend_on_the_version_it_was_copied_from(
        self, resolve: Resolver, logged_models: LoggedModels
    ) -> None:
        client = MlflowClient()
        client.copy_model_version("models:/iris/1", "dev")
        client.copy_model_version("models:/dev/1", "prod")
        client.rename_registered_model("dev", "renamed")
        after_renaming = resolve("models:/prod/1")
        client.delete_registered_model("renamed")
        client.create_registered_model("dev")  # another model under the old name
        client.create_model_version("dev", "s3://mlflow/other")
        after_deletion = resolve("models:/prod/1")
        client.delete_registered_model("prod")
        client.delete_registered_model("dev")

        assert after_renaming.artifact_uri == after_deletion.artifact_uri == logged_models.direct_location
        assert (after_deletion.name, after_deletion.run_id) == ("prod", logged_models.direct_run_id)

    def test_a_runs_model_is_found_after_another_of_its_models_was_deleted(self, resolve: Resolver) -> None:
        client = MlflowClient(resolve.tracking_uri)
        run = client.create_run("0")
        first, second = (client.create_logged_model("0", name=name, source_run_id=run.info.run_id) for name in "ab")
        client.log_outputs(run.info.run_id, [LoggedModelOutput(one.model_id, 0) for one in (first, second)])
        client.delete_logged_model(first.model_id)
        registry = ModelRegistry(resolve.tracking_uri, resolve.tracking_uri)

        assert registry.follow(f"runs:/{run.info.run_id}/b").resolved_uri == f"models:/{second.model_id}"
        with pytest.raises(ModelNotFound, match=r"models of this run: runs:/\w+/b$"):
            registry.follow(f"runs:/{run.info.run_id}")

    def test_a_runs_model_is_the_one_that_mlflow_serves(self, resolve: Resolver) -> None:
        client = MlflowClient(resolve.tracking_uri)
        run, other = client.create_run("0"), client.create_run("0")
        own = client.create_logged_model("0", name="m", source_run_id=run.info.run_id)  # not among the run's outputs
        foreign = client.create_logged_model("0", name="m", source_run_id=other.info.run_id)
        client.log_outputs(run.info.run_id, [LoggedModelOutput(foreign.model_id, 0)])
        registry, uri = ModelRegistry(resolve.tracking_uri, resolve.tracking_uri), f"runs:/{run.info.run_id}/m"

        assert registry.follow(uri).resolved_uri == f"models:/{own.model_id}"
        with use_tracking_uri(resolve.tracking_uri):
            mlflows = RunsArtifactRepository(uri)._get_logged_model_artifact_repo(run.info.run_id, "m")
        assert own.model_id in mlflows.repo.artifact_uri

    def test_artifacts_are_also_read_through_the_tracking_server(self, resolve: Resolver, tmp_path: Path) -> None:
        model = resolve("models:/proxied/1")
        folder = download_model(model, stores=resolve.stores, cache=tmp_path, progress=RecordedProgress())

        assert model.artifact_uri.startswith("mlflow-artifacts:/")
        assert (folder / "MLmodel").stat().st_size == next(f.size_bytes for f in model.files if f.path == "MLmodel")
        labels = labels_file(folder)
        assert labels is not None and json.loads(labels.read_text()) == LABELS

    def test_a_model_is_downloaded_from_s3_once(self, resolve: Resolver, tmp_path: Path) -> None:
        model, progress = resolve("models:/iris/1"), RecordedProgress()
        first = download_model(model, stores=resolve.stores, cache=tmp_path, progress=progress)
        second = download_model(model, stores=resolve.stores, cache=tmp_path, progress=progress)

        assert first == second == tmp_path / "models" / model.fingerprint / "model"
        assert progress.moved_bytes == {"model files": model.size_bytes}
        assert mlflow.models.Model.load(str(first)).flavors.keys() == model.flavors.keys()

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("models:/iris/Staging", "newest versions: 2 (Production); aliases: @champion → 1"),
            ("models:/iris", "choose a version, stage or alias: models:/iris/VERSION; newest versions: 2 (Production)"),
            ("models:/irsi", "did you mean 'iris'?"),
            ("models:/iris@challenger", "newest versions: 2 (Production); aliases: @champion → 1"),
            ("models:/iris/77", "newest versions: 2 (Production)"),
            ("models:/empty/latest", "newest versions: none"),
            ("models:/irsi/1", "did you mean 'iris'?"),
            ("models:/zzzzz/Production", "registered models: "),
            ("models:/m-0123456789abcdef0123456789abcdef", "newest models there: models:/m-"),
            ("runs:/0123456789abcdef0123456789abcdef/model", "newest models there: runs:/"),
            ("runs:/0123456789abcdef0123456789abcdef/model", "to use another server, set MLFLOW_TRACKING_URI"),
            ("s3://mlflow/nothing/here", "contains no files"),
            ("s3://no-such-bucket/model", "NoSuchBucket"),
        ],
    )
    def test_the_error_for_a_missing_model_lists_what_exists(self, resolve: Resolver, uri: str, said: str) -> None:
        with pytest.raises(ModelNotFound) as caught:
            resolve(uri)

        assert said in str(caught.value)

    def test_a_missing_model_of_a_run_is_reported_with_the_runs_models(
        self, resolve: Resolver, logged_models: LoggedModels
    ) -> None:
        run = f"runs:/{logged_models.direct_run_id}"

        for uri in (run, f"{run}/other"):
            with pytest.raises(ModelNotFound, match=f"models of this run: {run}/model"):
                resolve(uri)

    def test_a_run_without_such_a_model_is_not_found(self, resolve: Resolver, logged_models: LoggedModels) -> None:
        with pytest.raises(ModelNotFound, match="contains no files"):
            resolve(f"runs:/{logged_models.direct_run_id}/other")

    def test_the_error_for_a_parent_folder_names_the_models_folder(self, resolve: Resolver) -> None:
        with pytest.raises(ModelUnusable, match=r"-m s3://mlflow/direct/models/m-[0-9a-f]+/artifacts"):
            resolve("s3://mlflow/direct")

    def test_labels_can_be_named_or_declined(self, resolve: Resolver) -> None:
        assert resolve("models:/iris/1", labels="none").labels_uri is None
        named = resolve("models:/iris/1", labels="rev_labels_iris.json")
        assert named.labels_uri == resolve("models:/iris/1").labels_uri
        assert resolve("models:/iris/1", labels=named.labels_uri).labels_etag == named.labels_etag
        with pytest.raises(ModelNotFound, match=r"Labels file 'other\.json' was not found"):
            resolve("models:/iris/1", labels="other.json")

    def test_a_server_that_rejects_the_host_name_is_explained(
        self, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "mlflow.tracking.request_header.registry.resolve_request_headers",
            lambda: {"Host": "ec2-1-2-3-4.compute.amazonaws.com"},
        )
        with pytest.raises(ModelNotFound, match="--allowed-hosts"):
            Resolver(mlflow_server)("models:/m-0123456789abcdef0123456789abcdef")

    def test_an_unreachable_server_is_reported_fast_and_without_its_password(self, mlflow_server: MlflowServer) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            resolver = Resolver(MlflowServer(f"http://me:hunter2@127.0.0.1:{closed.getsockname()[1]}", "http://x"))
            with pytest.raises(ModelNotFound, match="MLFLOW_TRACKING_URI") as caught:
                resolver("models:/iris/1")

        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}', "READ permission"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Logged model not found"}', "not found"),
    ],
)
def test_the_error_for_a_refused_request_says_what_to_do(status: int, body: bytes, said: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    uri = f"http://me:hunter2@127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(ModelNotFound) as caught:
            resolve_model("models:/m-1", stores=local_stores(), progress=RecordedProgress(), tracking_uri=uri)
    finally:
        server.shutdown()
        server.server_close()

    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value) and "hunter2" not in str(caught.value.__cause__)


@pytest.fixture
def busy_server() -> Iterator[tuple[str, list[int]]]:
    """A server that returns each status in turn, then an empty list; as (URL, statuses)."""
    statuses: list[int] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"files": []}'
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://me:hunter2@127.0.0.1:{server.server_port}", statuses
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


def no_s3() -> Any:
    raise AssertionError("everything comes through the tracking server")


@pytest.mark.usefixtures("no_waiting")
def test_a_busy_artifact_server_is_retried_with_a_note(busy_server: tuple[str, list[int]]) -> None:
    uri, statuses = busy_server
    statuses += [503, 502]
    notes: list[str] = []

    found = ArtifactStores(s3=no_s3, tracking_uri=uri).for_uri("mlflow-artifacts:/1/m", notes.append)

    assert found.files("mlflow-artifacts:/1/m") == ()
    assert [re.sub(r":\d+", "", note) for note in notes] == [
        'http://127.0.0.1: 503 Service Unavailable {"files": []}; retry 1 of 4',
        'http://127.0.0.1: 502 Bad Gateway {"files": []}; retry 2 of 4',
    ]


@pytest.mark.usefixtures("no_waiting")
def test_an_artifact_server_that_stays_busy_is_an_error_with_its_status(busy_server: tuple[str, list[int]]) -> None:
    uri, statuses = busy_server
    statuses += [503] * 9

    with pytest.raises(ModelNotFound, match="503 Service Unavailable") as caught:
        ArtifactStores(s3=no_s3, tracking_uri=uri).for_uri("mlflow-artifacts:/1/m").files("mlflow-artifacts:/1/m")

    assert len(statuses) == 4
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models://churn/1", "did you mean models:/churn/1?"),
        ("churn", "for a registered model: models:/churn/VERSION"),
        ("https://example.invalid/model.zip", "not in S3 and not served by the tracking server"),
        ("ftp://example.invalid/model", "ftp: is not supported"),
        ("hdfs://example.invalid/model", "hdfs: is not supported"),
        ("gs://bucket/model", "gs: is not supported"),
        ("gs://bucket/model", "--serve-artifacts, with google-cloud-storage"),
        ("wasbs://container@account/model", "wasbs: is not supported"),
    ],
)
def test_the_error_for_a_wrong_uri_says_what_to_use(uri: str, said: str) -> None:
    with pytest.raises(FargateError) as caught:
        resolve_local(uri)

    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.slow
def test_an_empty_registry_is_reported_with_its_address(tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path}/mlflow.db"

    with pytest.raises(
        ModelNotFound, match=r"the registry at sqlite:///.* is empty; to use another server, set MLFLOW"
    ):
        resolve_model(
            "models:/churn", stores=local_stores(), progress=RecordedProgress(),
            tracking_uri=registry, registry_uri=registry,
        )  # fmt: skip


@pytest.mark.parametrize("uri", ["models:/", "models:/a/b/c", "models:/iris@", "runs:/", "models:iris"])
def test_an_invalid_model_uri_is_an_invalid_option(uri: str) -> None:
    with pytest.raises(InvalidOption, match="models:/NAME/VERSION"):
        resolve_local(uri)


class TestLocalModels:
    def test_a_folder_is_a_model(self, local_model: Path) -> None:
        for uri in (local_model, local_model.as_uri()):
            model = resolve_local(uri)

            assert [file.path for file in model.files] == ["MLmodel", "data/weights.bin", "requirements.txt"]
            assert model.requirements == ("numpy==1.26", "pandas")
            assert (model.python_version, model.run_id, model.labels_uri) == ("3.11.7", "abc", None)

    @pytest.mark.parametrize(
        ("written", "created"),
        [
            ("'2026-05-04 03:02:01.987654'", datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)),
            ("'0001-01-01 00:00:00'", None),
            ("yesterday", None),
            ("[1]", None),
        ],
    )
    def test_without_a_registration_the_time_of_logging_counts(
        self, local_model: Path, written: str, created: datetime | None
    ) -> None:
        with (local_model / "MLmodel").open("a") as file:
            file.write(f"utc_time_created: {written}\n")

        assert resolve_local(local_model).created == created

    def test_an_edited_file_changes_the_fingerprint(self, local_model: Path) -> None:
        before = resolve_local(local_model).fingerprint
        (local_model / "data" / "weights.bin").write_bytes(b"v" * 1000)

        assert resolve_local(local_model).fingerprint != before

    @pytest.mark.parametrize(
        ("text", "version"), [("python: 3.10\nbuild_dependencies: []\n", "3.10"), ("python: '3.12.1'\n", "3.12.1")]
    )
    def test_the_python_version_stays_text(self, local_model: Path, text: str, version: str) -> None:
        (local_model / "python_env.yaml").write_text(text)

        assert resolve_local(local_model).python_version == version

    @pytest.mark.parametrize("content", ["", "[1, 2]", "flavors: 3", "a: [", "\x00", "!!python/object:os.system {}"])
    def test_an_mlmodel_file_without_flavors_is_refused(self, local_model: Path, content: str) -> None:
        (local_model / "MLmodel").write_text(content)
        with pytest.raises(ModelUnusable, match="MLmodel"):
            resolve_local(local_model)

    def test_conda_yaml_counts_without_a_requirements_file(self, local_model: Path) -> None:
        (local_model / "MLmodel").write_text("flavors:\n  python_function: {}\n")
        conda = "dependencies:\n- python=3.10\n- pip<=23\n- numpy\n- pip:\n  - mlflow==1.14\n  - six\n"
        (local_model / "conda.yaml").write_text(conda)
        with_both = resolve_local(local_model)
        (local_model / "requirements.txt").unlink()
        alone = resolve_local(local_model)

        assert (with_both.requirements, with_both.python_version) == (("numpy==1.26", "pandas"), None)
        assert (alone.requirements, alone.python_version) == (("mlflow==1.14", "six"), "3.10")

    @pytest.mark.parametrize("content", ["", "[]", "dependencies: 1", "dependencies: [{pip: 1}, [], pip]"])
    def test_a_conda_yaml_without_packages_names_none(self, local_model: Path, content: str) -> None:
        (local_model / "requirements.txt").unlink()
        (local_model / "conda.yaml").write_text(content)

        assert resolve_local(local_model).requirements == ()

    def test_an_invalid_conda_yaml_is_refused(self, local_model: Path) -> None:
        (local_model / "requirements.txt").unlink()
        (local_model / "conda.yaml").write_text("{")
        with pytest.raises(ModelUnusable, match=r"conda\.yaml is not valid YAML"):
            resolve_local(local_model)

    def test_a_conda_yaml_with_an_alias_bomb_is_refused(self, local_model: Path) -> None:
        (local_model / "requirements.txt").unlink()
        bomb = "a: &a [x]\n" + "".join(
            f"{n}: &{n} [{', '.join([f'*{b}'] * 9)}]\n" for b, n in zip("abcdefg", "bcdefgh", strict=True)
        )
        (local_model / "conda.yaml").write_text(f"{bomb}dependencies: [{{pip: *h}}]\n")
        with pytest.raises(ModelUnusable, match="YAML aliases"):
            resolve_local(local_model)

    def test_a_huge_requirements_file_is_not_read(self, local_model: Path) -> None:
        (local_model / "requirements.txt").write_bytes(b"#" * (2 << 20))
        with pytest.raises(ModelUnusable, match=r"requirements\.txt"):
            resolve_local(local_model)

    def test_links_are_refused(self, local_model: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("x")
        (local_model / "data" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(ModelUnusable, match="link"):
            resolve_local(local_model)

    def test_a_missing_folder_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match=r"contains no files.*\n.*supported model URIs"):
            resolve_local(tmp_path / "nothing")


class TestLabels:
    def test_the_default_labels_file_in_the_model_wins(self, local_model: Path) -> None:
        (local_model / "extra_files").mkdir()
        for name in ("extra_files/labels.json", "labels.json", "data/other_labels.json"):
            (local_model / name).write_text(json.dumps(LABELS))

        assert resolve_local(local_model).labels_uri == f"{local_model}/extra_files/labels.json"
        assert resolve_local(local_model, labels="data/other_labels.json").labels_uri == (
            f"{local_model}/data/other_labels.json"
        )

    def test_a_single_file_with_another_name_is_found(self, local_model: Path) -> None:
        (local_model / "data" / "rev_labels_iris.json").write_text("{}")

        assert resolve_local(local_model).labels_uri == f"{local_model}/data/rev_labels_iris.json"

    @pytest.mark.parametrize(
        "flavors",
        ["sklearn: {}", 'keras: {}\nsignature: {inputs: \'[{"type": "tensor", "tensor-spec": {"shape": [-1, 9]}}]\'}'],
        ids=["not a network", "a network of texts"],
    )
    def test_a_model_that_does_not_take_images_may_have_several(self, local_model: Path, flavors: str) -> None:
        (local_model / "MLmodel").write_text(f"flavors:\n  {flavors}\n")
        (local_model / "train_labels.json").write_text("{}")
        (local_model / "test_labels.json").write_text("{}")

        assert resolve_local(local_model).labels_uri is None
        assert resolve_local(local_model, labels="test_labels.json").labels_uri == f"{local_model}/test_labels.json"

    def test_several_files_are_listed_to_choose_from(self, local_model: Path) -> None:
        (local_model / "MLmodel").write_text("flavors:\n  tensorflow: {}\n")
        (local_model / "rev_labels_a.json").write_text("{}")
        (local_model / "labels_b.json").write_text("{}")
        with pytest.raises(ModelUnusable, match=r"labels_b\.json, rev_labels_a\.json.*\n.*labels="):
            resolve_local(local_model)

    def test_a_file_outside_the_model_can_be_named(self, local_model: Path, tmp_path: Path) -> None:
        (tmp_path / "names.json").write_text(json.dumps(LABELS))
        model = resolve_local(local_model, labels=f"{tmp_path}/names.json")
        folder = download_model(model, stores=local_stores(), cache=tmp_path / "cache", progress=RecordedProgress())

        labels = labels_file(folder)
        assert labels is not None and json.loads(labels.read_text()) == LABELS
