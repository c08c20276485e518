"""Tests reading the settings from the environment."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.webhook import settings as settings_module
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.settings import Settings, parse_settings

TRACKING = {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow"}


def test_only_the_tracking_server_is_required() -> None:
    assert parse_settings(TRACKING) == Settings("http://me:hunter2@mlflow", mlflow_url="http://mlflow")
    with pytest.raises(InvalidOption, match="MLFLOW_TRACKING_URI"):
        parse_settings({})


def test_everything_can_be_set() -> None:
    settings = parse_settings(
        {
            **TRACKING,
            "MLFLOW_REGISTRY_URI": "http://registry",
            "FARGATE_TARGET": "fargate:/local",
            "FARGATE_WEBHOOK_SECRET": "new",
            "FARGATE_WEBHOOK_SECRET_PREVIOUS": "old",
            "FARGATE_WEBHOOK_POLL_SECONDS": "2.5",
            "FARGATE_WEBHOOK_HOST": "0.0.0.0",
            "FARGATE_WEBHOOK_PORT": "0",
            "FARGATE_WEBHOOK_STOP_SECONDS": "100",
        }
    )

    assert (settings.target, settings.registry_uri, settings.secrets) == (
        "fargate:/local",
        "http://registry",
        ("new", "old"),
    )
    assert (settings.poll_seconds, settings.host, settings.port, settings.stop_seconds) == (2.5, "0.0.0.0", 0, 100)


def test_networks_are_parsed_and_a_mistake_in_one_is_refused() -> None:
    allowed = parse_settings({**TRACKING, "FARGATE_WEBHOOK_ALLOWED_CIDRS": "10.0.0.0/8, 2001:db8::/32,192.0.2.7"})

    assert [str(network) for network in allowed.allowed_cidrs] == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
    for wrong in ("10.0.0.1/8", "everyone", "10.0.0.0/8;192.0.2.7"):
        with pytest.raises(InvalidOption, match="FARGATE_WEBHOOK_ALLOWED_CIDRS"):
            parse_settings({**TRACKING, "FARGATE_WEBHOOK_ALLOWED_CIDRS": wrong})


@pytest.mark.parametrize("text", ["soon", "0", "nan", "inf", "-3"])
def test_an_invalid_poll_interval_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match=f"FARGATE_WEBHOOK_POLL_SECONDS={text}"):
        parse_settings({**TRACKING, "FARGATE_WEBHOOK_POLL_SECONDS": text})


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(parse_settings({**TRACKING, "FARGATE_WEBHOOK_SECRET": "s3cret"}))

    assert "s3cret" not in shown and "hunter2" not in shown


def test_links_to_mlflow_are_web_addresses_without_the_password() -> None:
    assert parse_settings({"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}).mlflow_url is None
    assert parse_settings({**TRACKING, "FARGATE_WEBHOOK_MLFLOW_URL": "https://for.people/"}).mlflow_url == (
        "https://for.people"
    )


def test_a_choice_accepts_only_its_two_values() -> None:
    settings = parse_settings({**TRACKING, "FARGATE_WEBHOOK_PUBLIC": "True", "FARGATE_WEBHOOK_LOG": "text"})

    assert (settings.is_public, settings.logs_as_json) == (True, False)
    with pytest.raises(InvalidOption, match="FARGATE_WEBHOOK_PUBLIC=yes is not true or false"):
        parse_settings({**TRACKING, "FARGATE_WEBHOOK_PUBLIC": "yes"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FARGATE_WEBHOOK_NOTIFY_URL", "file:///etc/s3cret"),
        ("FARGATE_WEBHOOK_NOTIFY_TOPIC_ARN", "s3cret"),
        ("FARGATE_WEBHOOK_LEASE", "s3://s3cret"),
        ("FARGATE_WEBHOOK_PREFIX", "s3cret/"),
    ],
)
def test_malformed_addresses_are_refused_and_not_repeated(name: str, text: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name} is not of the form") as caught:
        parse_settings({**TRACKING, name: text})

    assert "s3cret" not in str(caught.value)


def test_the_notification_address_is_not_in_the_repr() -> None:
    settings = parse_settings({**TRACKING, "FARGATE_WEBHOOK_NOTIFY_URL": "https://hooks.example.com/s3cret"})

    assert settings.notify_url == "https://hooks.example.com/s3cret"
    assert "s3cret" not in repr(settings)


def test_every_setting_and_every_metric_is_documented(worker: Worker) -> None:
    page = (Path(__file__).parents[2] / "docs/webhook.md").read_text(encoding="utf-8")
    metrics = Metrics()
    metrics.watch(worker)
    named = set(re.findall(r"FARGATE_[A-Z_]+[A-Z]", inspect.getsource(settings_module)))
    told = set(re.findall(r"# TYPE mlflow_fargate_webhook_(\w+?)(?:_created|_total)? ", metrics.exposition().decode()))

    assert [one for one in sorted(named) if f"`{one}`" not in page] == []
    assert [one for one in sorted(told) if f"`{one}" not in page] == []
