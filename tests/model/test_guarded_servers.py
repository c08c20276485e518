"""Tracking servers with authentication: MLflow's own with passwords and workspaces, and one with a token."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.bento import ServedModel, make_service_description
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import ModelNotFound
from mlflow_fargate.model import ArtifactStores, download_model, resolve_model, tag_model_version
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import image_labels
from mlflow_fargate.resolved_model import ResolvedModel
from support.deployer import QUICK
from support.mlflow_server import LoggedModels, MlflowServer, serve_mlflow

USER, PASSWORD, WORKSPACE, TOKEN = "admin", "hunter2-hunter2", "team-a", "t0k3n"


def stores_without_s3() -> ArtifactStores:
    def no_s3() -> Any:
        raise AssertionError("everything comes through the tracking server")

    return ArtifactStores(s3=no_s3)


@dataclass(frozen=True)
class GuardedServer:
    """A server with passwords; `churn` version 1 is registered in `WORKSPACE`."""

    uri: str  # without credentials

    @property
    def uri_with_password(self) -> str:
        return self.uri.replace("://", f"://{USER}:{PASSWORD}@")


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    folder = tmp_path_factory.mktemp("guarded")
    settings = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{folder}/auth.db",
        "admin_username": USER,
        "admin_password": PASSWORD,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    (folder / "auth.ini").write_text(f"[mlflow]\n{lines}\n")
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"}
    arguments = ("--app-name", "basic-auth", "--enable-workspaces")
    artifacts = ("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"))
    with serve_mlflow(folder, *arguments, *artifacts, **environment) as uri:
        server = GuardedServer(uri)
        with used(server.uri_with_password, WORKSPACE):
            register_churn()
        yield server


@contextmanager
def used(tracking_uri: str, workspace: str | None = None, **environment: str) -> Iterator[None]:
    """Sets MLflow's settings as a user would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", tracking_uri)
        patch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        for name, value in {**environment, **({"MLFLOW_WORKSPACE": workspace} if workspace else {})}.items():
            patch.setenv(name, value)
        yield


def register_churn() -> None:
    mlflow.MlflowClient().create_workspace(WORKSPACE)
    mlflow.set_experiment("churn")
    with mlflow.start_run():
        mlflow.log_text('{"0": "stays", "1": "leaves"}', "labels.json")
        mlflow.pyfunc.log_model(
            name="model", python_model=str(MODEL), pip_requirements=["mlflow"], registered_model_name="churn"
        )


MODEL = Path(__file__).parents[1] / "support" / "doubler.py"


def resolve(progress: RecordedProgress | None = None) -> ResolvedModel:
    return resolve_model("models:/churn/1", stores=stores_without_s3(), progress=progress or RecordedProgress())


@pytest.mark.slow
@pytest.mark.exhaustive
class TestPasswordsAndWorkspaces:
    def test_a_model_is_read_from_a_workspace_of_a_server_with_passwords(
        self, guarded_server: GuardedServer, tmp_path: Path
    ) -> None:
        progress = RecordedProgress()
        with used(guarded_server.uri_with_password, WORKSPACE):
            model = resolve(progress)
            folder = download_model(model, stores=stores_without_s3(), cache=tmp_path, progress=progress)
            tag_model_version("churn", "1", {"fargate.default.churn.status": "serving"})
            tags = mlflow.MlflowClient().get_model_version("churn", "1").tags

        assert f"/workspaces/{WORKSPACE}/" in model.artifact_uri
        assert (folder / "MLmodel").is_file() and model.labels_uri
        assert tags["fargate.default.churn.status"] == "serving"
        assert PASSWORD not in "\n".join(progress.lines)

    def test_user_and_password_are_read_from_the_environment(self, guarded_server: GuardedServer) -> None:
        with used(guarded_server.uri, WORKSPACE, MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD=PASSWORD):
            assert resolve().version == "1"

    def test_without_a_password_the_error_says_what_to_set(self, guarded_server: GuardedServer) -> None:
        with used(guarded_server.uri, WORKSPACE), pytest.raises(ModelNotFound, match="MLFLOW_TRACKING_USERNAME"):
            resolve()

    def test_another_workspace_has_other_models(self, guarded_server: GuardedServer) -> None:
        with used(guarded_server.uri_with_password, "default"), pytest.raises(ModelNotFound) as caught:
            resolve()

        assert "Registered model 'churn' not found" in caught.value.message
        assert PASSWORD not in str(caught.value)

    def test_the_password_is_never_written_shown_or_built_in(
        self,
        guarded_server: GuardedServer,
        deployer: Deployer,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("DEBUG", "mlflow_fargate")
        account, written = Account(deployer.target), []
        account.session._session.events.register(
            "before-call.*", lambda model, params, **_: written.append((model.name, str(params)))
        )
        with used(guarded_server.uri_with_password, WORKSPACE):
            model = resolve()
            publisher = Resolved(deployer.publisher.image, model)  # type: ignore[attr-defined]
            deployer = replace(
                deployer, account=account, make_publisher=lambda: publisher, write_tags=tag_model_version
            )  # type: ignore[arg-type]
            plan, _ = deployer.preview("churn", "models:/churn/1", None, NamedOptions(QUICK))
            deployer.create("churn", "models:/churn/1", None, NamedOptions(QUICK))
            tags = mlflow.MlflowClient().get_model_version("churn", "1").tags
        told = capfd.readouterr()

        assert tags["fargate.default.churn.status"] == "serving"
        assert "RegisterTaskDefinition" in {name for name, _ in written}
        image = make_service_description(ServedModel(model, "pyfunc")), image_labels(model)
        everything = (dataclasses.asdict(model), str(plan), written, tags, image, deployer.progress.lines)  # type: ignore[attr-defined]
        assert PASSWORD not in json.dumps(everything, default=str)
        assert PASSWORD not in told.out + told.err + caplog.text


@dataclass
class Resolved:
    """A publisher for one model."""

    image: str
    model: ResolvedModel

    def resolve(self, *_: object) -> ResolvedModel:
        return self.model

    def find(self, *_: object) -> None:
        return None

    def publish(self, *_: object) -> str:
        return self.image


@pytest.fixture
def token_server(mlflow_server: MlflowServer) -> Iterator[str]:
    """MLflow behind a proxy that requires a token, as in many companies."""

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401, b"no token")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            answer = requests.request(self.command, mlflow_server.uri + self.path, data=body, headers=kind, timeout=60)
            self._answer(answer.status_code, answer.content)

        do_POST = do_GET

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
class TestTokens:
    @pytest.mark.parametrize("uri", ["models:/iris/1", "models:/proxied/1"])
    def test_a_token_gives_access_to_versions_and_files(
        self, token_server: str, mlflow_server: MlflowServer, logged_models: LoggedModels, tmp_path: Path, uri: str
    ) -> None:
        client = make_s3_client(boto3.Session("test", "test", region_name="us-east-1"), mlflow_server.s3_endpoint_url)
        stores, progress = ArtifactStores(s3=lambda: S3Artifacts(client)), RecordedProgress()
        with used(token_server, MLFLOW_TRACKING_TOKEN=TOKEN):
            model = resolve_model(uri, stores=stores, progress=progress)
            folder = download_model(model, stores=stores, cache=tmp_path, progress=progress)

        assert (folder / "MLmodel").is_file()
        assert TOKEN not in json.dumps([dataclasses.asdict(model), progress.lines], default=str)

    def test_the_error_for_a_wrong_token_says_what_to_set(self, token_server: str) -> None:
        with used(token_server, MLFLOW_TRACKING_TOKEN="wr0ng"), pytest.raises(ModelNotFound) as caught:
            resolve()

        assert "MLFLOW_TRACKING_TOKEN" in str(caught.value)
        assert "wr0ng" not in str(caught.value)
