"""The environment and service.json, parsed once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fargate_service.settings import available_cpus, read_description, read_settings


def test_the_defaults_match_the_image_layout() -> None:
    settings = read_settings({})

    assert settings.model_dir == Path("/opt/app/model")
    assert settings.path_prefix == ""
    assert settings.api_key is None
    assert settings.max_body_bytes == 20_000_000
    assert settings.warm_up


@pytest.mark.parametrize("text", ["churn", "/churn", "/churn/"])
def test_a_prefix_has_one_leading_slash(text: str) -> None:
    assert read_settings({"PATH_PREFIX": text}).path_prefix == "/churn"


def test_an_empty_key_means_that_none_is_set() -> None:
    assert read_settings({"API_KEY": ""}).api_key is None


def test_the_key_is_not_shown() -> None:
    assert "s3cret" not in repr(read_settings({"API_KEY": "s3cret"}))


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_the_error_names_an_invalid_limit(text: str) -> None:
    with pytest.raises(ValueError, match="MAX_BODY_MB"):
        read_settings({"MAX_BODY_MB": text})


def test_more_levels_of_json_than_can_be_processed_are_refused() -> None:
    assert read_settings({"MAX_JSON_LEVELS": "200"}).documents.max_levels == 200
    with pytest.raises(ValueError, match=r"MAX_JSON_LEVELS='201' is more than 200"):
        read_settings({"MAX_JSON_LEVELS": "201"})


@pytest.mark.parametrize(("quota", "cpus"), [("25000 100000", 1), ("100000 100000", 1), ("no numbers here", None)])
def test_the_quota_counts_rather_than_the_cores(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)

    assert available_cpus(tmp_path / "cpu.max") == (cpus or available_cpus(tmp_path / "missing"))


def test_service_json_is_read(tmp_path: Path) -> None:
    model = {"name": "digits", "version": "3", "run_id": "r", "uri": "models:/digits/3"}
    document = {"template": "pyfunc", "flavor": "sklearn", "model": model, "labels": None, "options": {}}
    (tmp_path / "service.json").write_text(json.dumps(document))

    description = read_description(tmp_path)

    assert (description.template, description.model_uri, description.labels) == ("pyfunc", "models:/digits/3", None)
