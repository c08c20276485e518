"""Tests parsing events with known signatures, and arbitrary bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.webhook.http.events import EventRefused, Hint, parse_event

NOW = 1767323045.0
# Body and signature as created by MLflow 3.17 (secret "s3cret", delivery "delivery-1").
MLFLOW_BODY = (
    b'{"entity":"model_version_alias","action":"created","timestamp":"2026-01-02T03:04:05+00:00",'
    b'"data":{"name":"churn","alias":"champion","version":"3"}}'
)
MLFLOW_HEADERS = {
    "X-MLflow-Signature": "v1,TIj8RcOw4mmcMWkwayh01kIzGZYaRsKD3LTUH3aWp5k=",
    "X-MLflow-Delivery-Id": "delivery-1",
    "X-MLflow-Timestamp": "1767323045",
}
DATABRICKS_BODY = (
    b'{"event":"MODEL_VERSION_TRANSITIONED_STAGE","webhook_id":"w","event_timestamp":1767323045000,'
    b'"model_name":"churn","version":"3","to_stage":"Production","from_stage":"None","text":"x"}'
)
DATABRICKS_HEADERS = {"X-Databricks-Signature": "7458a781b0c5e3ad4924dac50107a14b49dd0479047d5df804f741f7abb6dfc8"}


def signed(event: object, secret: str = "s3cret") -> tuple[dict[str, str], bytes]:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return {"X-Databricks-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}, body


def test_mlflows_signed_event_is_a_hint() -> None:
    assert parse_event(MLFLOW_HEADERS, MLFLOW_BODY, secrets=["s3cret"], now=NOW) == Hint("churn", "delivery-1")


def test_databricks_signed_event_is_a_hint() -> None:
    assert parse_event(DATABRICKS_HEADERS, DATABRICKS_BODY, secrets=["s3cret"], now=NOW) == Hint("churn")


def test_header_names_are_read_in_any_case() -> None:
    headers = {name.upper(): value for name, value in MLFLOW_HEADERS.items()}
    assert parse_event(headers, MLFLOW_BODY, secrets=["s3cret"], now=NOW) == Hint("churn", "delivery-1")


@pytest.mark.parametrize("secrets", [["new", "s3cret"], ["s3cret", "old"]])
def test_two_secrets_are_valid_at_once(secrets: list[str]) -> None:
    assert parse_event(MLFLOW_HEADERS, MLFLOW_BODY, secrets=secrets, now=NOW) == Hint("churn", "delivery-1")
    assert parse_event(DATABRICKS_HEADERS, DATABRICKS_BODY, secrets=secrets, now=NOW) == Hint("churn")


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        ({}, MLFLOW_BODY.replace(b"churn", b"other")),
        ({"X-MLflow-Delivery-Id": "delivery-2"}, MLFLOW_BODY),
        ({"X-MLflow-Timestamp": "1767323046"}, MLFLOW_BODY),
        ({"X-MLflow-Signature": "TIj8RcOw4mmcMWkwayh01kIzGZYaRsKD3LTUH3aWp5k="}, MLFLOW_BODY),
        ({"X-MLflow-Signature": ""}, MLFLOW_BODY),
    ],
)
def test_a_modified_event_is_refused(changed: dict[str, str], body: bytes) -> None:
    with pytest.raises(EventRefused) as caught:
        parse_event({**MLFLOW_HEADERS, **changed}, body, secrets=["s3cret"], now=NOW)

    assert caught.value.status == 401


@pytest.mark.parametrize("secrets", [[], ["wrong"]])
def test_without_the_right_secret_every_event_is_refused(secrets: list[str]) -> None:
    for headers, body in ((MLFLOW_HEADERS, MLFLOW_BODY), (DATABRICKS_HEADERS, DATABRICKS_BODY), ({}, MLFLOW_BODY)):
        with pytest.raises(EventRefused) as caught:
            parse_event(headers, body, secrets=secrets, now=NOW)

        assert caught.value.status == 401


@pytest.mark.parametrize(("seconds", "is_taken"), [(-301, False), (-299, True), (299, True), (301, False)])
def test_events_are_good_for_five_minutes(seconds: float, is_taken: bool) -> None:
    if is_taken:
        assert parse_event(MLFLOW_HEADERS, MLFLOW_BODY, secrets=["s3cret"], now=NOW + seconds)
        return
    with pytest.raises(EventRefused) as caught:
        parse_event(MLFLOW_HEADERS, MLFLOW_BODY, secrets=["s3cret"], now=NOW + seconds)

    assert caught.value.status == 400


@pytest.mark.parametrize("delivery_id", ["", "x" * 201])
def test_an_invalid_delivery_id_is_refused(delivery_id: str) -> None:
    made = hmac.new(b"s3cret", f"{delivery_id}.1767323045.".encode() + MLFLOW_BODY, hashlib.sha256).digest()
    headers = {
        **MLFLOW_HEADERS,
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}",
    }
    with pytest.raises(EventRefused) as caught:
        parse_event(headers, MLFLOW_BODY, secrets=["s3cret"], now=NOW)

    assert caught.value.status == 400


@pytest.mark.parametrize("event", [b"", b"\xff", b"3", b"[]", b"{", b"[" * 60_000])
def test_signed_invalid_json_is_refused(event: bytes) -> None:
    headers, body = signed(event)
    with pytest.raises(EventRefused) as caught:
        parse_event(headers, body, secrets=["s3cret"], now=NOW)

    assert caught.value.status == 400


@pytest.mark.parametrize("event", [{}, {"model_name": ""}, {"model_name": 3}, {"model_name": None}])
def test_signed_events_without_a_model_are_ignored(event: object) -> None:
    headers, body = signed(event)

    assert parse_event(headers, body, secrets=["s3cret"], now=NOW) is None


HEADERS = st.dictionaries(
    st.sampled_from([*MLFLOW_HEADERS, *DATABRICKS_HEADERS, "Other"]), st.text() | st.sampled_from(["1767323045", "v1,"])
)


@given(headers=HEADERS, body=st.binary() | st.just(MLFLOW_BODY), secrets=st.lists(st.text(), max_size=2))
def test_unsigned_bytes_are_always_refused(headers: dict[str, str], body: bytes, secrets: list[str]) -> None:
    with pytest.raises(EventRefused):
        parse_event(headers, body, secrets=secrets, now=NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(event=st.fixed_dictionaries({}, optional={"model_name": JSON, "entity": JSON, "data": JSON}) | JSON)
def test_any_signed_body_is_a_hint_ignored_or_refused(event: object) -> None:
    headers, body = signed(event)
    try:
        hint = parse_event(headers, body, secrets=["s3cret"], now=NOW)
    except EventRefused as error:
        assert error.status == 400
    else:
        assert hint is None or (isinstance(hint.model_name, str) and hint.model_name)


@given(
    entity=JSON | st.sampled_from(["model_version_alias", "prompt"]), data=JSON | st.fixed_dictionaries({"name": JSON})
)
def test_any_event_from_mlflow_is_a_hint_or_ignored(entity: object, data: object) -> None:
    body = json.dumps({"entity": entity, "data": data}).encode()
    made = hmac.new(b"s3cret", b"delivery-1.1767323045." + body, hashlib.sha256).digest()
    headers = {**MLFLOW_HEADERS, "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}"}
    hint = parse_event(headers, body, secrets=["s3cret"], now=NOW)

    assert hint is None or (isinstance(hint.model_name, str) and hint.model_name)
