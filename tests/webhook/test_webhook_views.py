"""Tests the routes with Flask's test client."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import time
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.http.seen_deliveries import SeenDeliveries
from support.webhook_events import signed_event
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def client(worker: Worker) -> FlaskClient:
    client: FlaskClient = create_app(
        worker, ("new-secret", "old-secret"), Access("t0ken", is_public=True)
    ).test_client()
    return client


def test_an_event_is_accepted_and_followed(
    client: FlaskClient, worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    registry.promote("churn", "2")
    answer = client.post("/events", **signed_event("churn", secret="old-secret"))

    assert (answer.status_code, answer.json) == (202, {"accepted": True, "watched": True})
    wait_until(lambda: deployments.version("api") == "2")


def test_an_event_about_an_unknown_model_is_accepted_and_ignored(
    client: FlaskClient, worker: Worker, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    worker.start()
    wait_until(lambda: worker.is_ready)
    answer = client.post("/events", **signed_event("other"))

    assert (answer.status_code, answer.json) == (202, {"accepted": True, "watched": False})
    assert deployments.lists == 1


def test_a_repeated_delivery_is_accepted_and_does_not_poll_again(
    client: FlaskClient, worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    event = signed_event("churn")
    client.post("/events", **event)
    wait_until(lambda: deployments.lists == 2)
    again = [client.post("/events", **event) for _ in range(3)]
    client.post("/events", **signed_event("churn"))
    wait_until(lambda: deployments.lists == 3)

    assert [(answer.status_code, answer.json) for answer in again] == [(202, {"accepted": True, "duplicate": True})] * 3
    assert deployments.lists == 3


def test_a_delivery_with_an_invalid_signature_does_not_use_up_its_id(client: FlaskClient, worker: Worker) -> None:
    event = signed_event("churn")
    forged = {**event, "data": event["data"].replace("churn", "other")}

    assert client.post("/events", **forged).status_code == 401
    assert client.post("/events", **event).json == {"accepted": True, "watched": False}


def test_only_the_last_delivery_ids_are_remembered() -> None:
    deliveries = SeenDeliveries(remembered=2)

    assert [deliveries.is_new(one) for one in ("a", "b", "a", "c", "a", None, None)] == [
        True, True, False, True, True, True, True,
    ]  # fmt: skip


def test_an_invalid_signature_is_refused(client: FlaskClient) -> None:
    assert client.post("/events", **signed_event("churn", secret="wrong")).status_code == 401
    assert client.post("/events", data="{}").status_code == 401


def test_a_stale_event_is_refused(client: FlaskClient) -> None:
    answer = client.post("/events", **signed_event("churn", age_seconds=400))

    assert answer.status_code == 400
    assert answer.json == {"error": "The event's timestamp is missing, too old, or too far in the future."}


def test_a_large_body_is_refused(client: FlaskClient) -> None:
    assert client.post("/events", data=b"x" * (64 * 1024 + 1)).status_code == 413


def test_health_and_readiness_show_nothing_but_a_yes_or_no(worker: Worker) -> None:
    worker._error = "no access to arn:aws:iam::123456789012:role/x"
    worker._rules.error = "the rules file has: password=hunter2"  # type: ignore[misc]
    client = create_app(worker, (), Access("t0ken")).test_client()

    assert client.get("/healthz").json == {"ok": False}
    assert client.get("/readyz").json == {"ok": False}
    assert "hunter2" in client.get("/status", headers={"Authorization": "Bearer t0ken"}).text


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_only_allowed_addresses_can_use_anything_but_the_health_checks(
    worker: Worker, address: str, is_allowed: bool
) -> None:
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("192.0.2.7"))
    client = create_app(worker, ("s",), Access("t0ken", is_public=True, allowed_cidrs=networks)).test_client()
    client.environ_base["REMOTE_ADDR"] = address

    for path in ("/", "/status", "/metrics", "/nowhere"):
        assert (client.get(path).status_code == 403) is not is_allowed
    assert (client.post("/events", **signed_event("churn", secret="s")).status_code == 202) is is_allowed
    assert client.post("/retry/x").status_code == (401 if is_allowed else 403)
    assert client.get("/healthz").json == {"ok": False}
    assert client.get("/readyz").json == {"ok": False}


def test_health_and_readiness_differ(
    client: FlaskClient, worker: Worker, registry: FakeRegistry, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    assert client.get("/healthz").status_code == 503
    deployments.deploy("api", "churn", "1")
    registry.error = RuntimeError("down")
    worker.start()
    wait_until(lambda: registry.looks > 0)

    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    registry.error = None
    worker.look()
    assert client.get("/readyz").status_code == 200


def test_status_shows_the_decisions(
    client: FlaskClient, worker: Worker, registry: FakeRegistry, deployments: FakeDeployments
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.look()
    (told,) = (client.get("/status").json or {})["deployments"]

    assert (told["name"], told["model_name"], told["is_updating"]) == ("api", "churn", False)
    assert told["action"] == {
        "kind": "nothing",
        "reason": "version 1 is deployed",
        "version": "1",
        "warning": None,
        "registered_ms": None,
    }


def test_events_accept_only_post(client: FlaskClient) -> None:
    assert client.get("/events").status_code == 405
    assert client.post("/").status_code == 405
    assert client.get("/static/page.html").status_code == 404


def test_retry_and_status_need_the_token(worker: Worker, registry: FakeRegistry, deployments: FakeDeployments) -> None:
    deployments.deploy("api", "churn", "1", last_failed_version="2")
    registry.promote("churn", "2")
    worker.look()
    client = create_app(worker, ("s",), Access("t0ken")).test_client()
    good = {"Authorization": "Bearer t0ken"}

    for bad in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer \xfc"}):
        assert (
            client.get("/status", headers=bad).status_code == client.post("/retry/api", headers=bad).status_code == 401
        )
    assert client.get("/status", headers=good).status_code == 200
    assert client.post("/retry/nobody", headers=good).status_code == 404
    assert client.post("/retry/api", headers=good).status_code == 202
    worker.look()
    assert worker.seen()["api"].action.kind == "update"
    assert create_app(worker, ("s",)).test_client().post("/retry/api", headers=good).status_code == 401


@pytest.mark.parametrize("path", ["/", "/status", "/metrics"])
def test_the_page_requires_the_token_as_a_bearer_or_as_a_browsers_password(worker: Worker, path: str) -> None:
    client = create_app(worker, (), Access("t0ken-ü")).test_client()

    refused = client.get(path)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
    for bad in ("Bearer other", "Basic !", "Basic " + basic("t0ken-ü", "other"), "Digest x", "Bearer", ""):
        assert client.get(path, headers={"Authorization": bad}).status_code == 401
    assert client.get(path, headers={"Authorization": "Basic " + basic("anyone", "t0ken-ü")}).status_code == 200


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_browsers_password_cannot_retry(worker: Worker, registry: FakeRegistry, deployments: FakeDeployments) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    worker.look()
    client = create_app(worker, (), Access("t0ken")).test_client()

    assert client.post("/retry/api", headers={"Authorization": "Basic " + basic("me", "t0ken")}).status_code == 401


def test_without_a_token_nothing_is_shown_unless_it_is_public(worker: Worker) -> None:
    closed, public = create_app(worker, ()), create_app(worker, (), Access(is_public=True))

    for path in ("/", "/status", "/metrics"):
        answer = closed.test_client().get(path, headers={"Authorization": "Bearer "})
        assert (answer.status_code, "FARGATE_WEBHOOK_TOKEN" in answer.text) == (403, True)
        assert public.test_client().get(path).status_code == 200
    assert public.test_client().post("/retry/api").status_code == 401


def test_metrics_count_events_rollouts_and_outdated_deployments(
    worker: Worker, registry: FakeRegistry, deployments: FakeDeployments
) -> None:
    deployments.deploy("api", "churn", "1", last_failed_version="2")
    deployments.deploy("same", 'odd"\n', "1")
    registry.promote("churn", "2")
    registry.promote('odd"\n', "1")
    worker.look()
    metrics = Metrics()
    client = create_app(worker, ("new-secret",), Access(is_public=True), metrics=metrics).test_client()
    event = signed_event("churn")
    for sent in (event, event, signed_event("other"), signed_event("churn", secret="wrong")):
        client.post("/events", **sent)
    metrics.count_outcome(Outcome("api", "update", "churn", "2", "rollback", "it crashed", 1.0, 45.0))
    told = client.get("/metrics").text

    for line in (
        'mlflow_fargate_webhook_events_total{result="accepted"} 1.0',
        'mlflow_fargate_webhook_events_total{result="duplicate"} 1.0',
        'mlflow_fargate_webhook_events_total{result="unwatched"} 1.0',
        'mlflow_fargate_webhook_events_total{result="refused"} 1.0',
        'mlflow_fargate_webhook_rollouts_total{kind="update",result="rollback"} 1.0',
        "mlflow_fargate_webhook_rollout_duration_seconds_sum 45.0",
        'mlflow_fargate_webhook_deployments{state="blocked"} 1.0',
        'mlflow_fargate_webhook_deployment_behind{deployment="api",model="churn"} 1.0',
        'mlflow_fargate_webhook_deployment_behind{deployment="same",model="odd\\"\\n"} 0.0',
        "mlflow_fargate_webhook_check_failed 0.0",
    ):
        assert line in told.splitlines()
    assert "process_resident_memory_bytes" in told


def test_the_log_has_the_delivery_id_of_each_event(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    event = signed_event("churn")
    with caplog.at_level("INFO", "mlflow_fargate"):
        client.post("/events", **event)
        client.post("/events", **event)
        client.post("/events", **{**event, "data": "{}"})

    ids = [record.__dict__["delivery_id"] for record in caplog.records]
    assert ids == [event["headers"]["X-MLflow-Delivery-Id"]] * 3
    assert "new-secret" not in caplog.text


_HEADERS = st.dictionaries(
    st.sampled_from(["X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id", "X-Databricks-Signature",
                     "Content-Type", "Content-Encoding", "Authorization"]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60),
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["entity", "action", "data", "name", "model_name", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)
_BODIES = st.binary(max_size=300) | _JSON.map(lambda told: json.dumps(told).encode())


def _throw_anything(
    worker: Worker, registry: FakeRegistry, deployments: FakeDeployments, wait_until: WaitUntil, examples: int
) -> None:
    """Sends bodies and headers, some signed with the secret: no 5xx, and nothing that the registry does not name
    is deployed; what it names still is, afterwards."""
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    client = create_app(worker, ("new-secret",), Access("t0ken")).test_client()

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["/events", "/retry/api", "/status", "/", "/metrics"]),
        _HEADERS,
        _BODIES,
        st.sampled_from("nmd"),
    )
    def throw(path: str, headers: dict[str, str], body: bytes, signer: str) -> None:
        moment = str(int(time.time()))
        if signer == "m":
            made = hmac.new(b"new-secret", b"id." + moment.encode() + b"." + body, hashlib.sha256).digest()
            signature = f"v1,{base64.b64encode(made).decode()}"
            headers |= {"X-MLflow-Signature": signature, "X-MLflow-Delivery-Id": "id", "X-MLflow-Timestamp": moment}
        elif signer == "d":
            signature = hmac.new(b"new-secret", body, hashlib.sha256).hexdigest()
            headers = {"X-Databricks-Signature": signature}
        answer = client.post(path, data=body, headers=headers)

        assert answer.status_code in {202, 400, 401, 404, 405, 413}

    throw()
    assert deployments.updates == []
    registry.promote("churn", "2")
    client.post("/events", **signed_event("churn"))
    wait_until(lambda: deployments.updates != [])
    assert deployments.updates == [("api", "models:/churn/2")]


def test_random_requests_neither_break_it_nor_deploy(
    worker: Worker, registry: FakeRegistry, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    _throw_anything(worker, registry, deployments, wait_until, 400)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_random_requests_neither_break_it_nor_deploy(
    worker: Worker, registry: FakeRegistry, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    _throw_anything(worker, registry, deployments, wait_until, 100_000)
