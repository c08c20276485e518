"""Every option of a deployment: what can be meant, and what is said about what cannot."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

from mlflow_fargate.config import FARGATE_SIZES, DeploymentConfig, describe_options, parse_config
from mlflow_fargate.errors import InvalidOption


def test_strings_from_the_command_line_and_real_types_mean_the_same() -> None:
    strings = parse_config({"cpu": "2048", "memory": "8192", "wait": "false", "subnets": "subnet-a, subnet-b"})
    real = parse_config({"cpu": 2048, "memory": 8192, "wait": False, "subnets": ["subnet-a", "subnet-b"]})

    assert strings == real
    assert real.memory_mib == 8192


def test_an_unknown_option_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidOption, match=r"Unknown option 'cpus'\. Did you mean 'cpu'\?") as caught:
        parse_config({"cpus": "1"})

    assert caught.value.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE)


def test_an_impossible_size_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(InvalidOption, match="with cpu=256 Fargate runs 512, 1024, 2048 MiB, not 4096"):
        parse_config({"cpu": "256", "memory": "4096"})


@given(st.sampled_from([(cpu, memory) for cpu, sizes in FARGATE_SIZES.items() for memory in sizes]))
def test_every_size_that_fargate_has_is_accepted(size: tuple[int, int]) -> None:
    config = parse_config({"cpu": size[0], "memory": size[1]})

    assert (config.cpu, config.memory_mib) == size


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text()), max_size=4))
def test_whatever_comes_as_options_ends_in_a_config_or_a_clean_error(options: dict[str, object]) -> None:
    with contextlib.suppress(InvalidOption):
        assert isinstance(parse_config(options), DeploymentConfig)


def test_a_dotted_key_sets_one_variable_and_keeps_the_others() -> None:
    config = parse_config({"environment.B": "2"}, kept={"environment": {"A": "1"}})

    assert config.environment == {"A": "1", "B": "2"}


def test_what_looks_like_a_secret_is_refused_as_plain_environment() -> None:
    with pytest.raises(InvalidOption, match=r"secrets\.DB_PASSWORD=ARN"):
        parse_config({"environment.DB_PASSWORD": "hunter2"})


def test_a_name_that_only_begins_like_a_secret_is_none() -> None:
    config = parse_config({"environment.TOKENIZERS_PARALLELISM": "false"})

    assert config.environment == {"TOKENIZERS_PARALLELISM": "false"}


def test_only_named_options_are_kept_for_the_next_update() -> None:
    named = parse_config({"cpu": "512", "memory": "1024"}).named

    assert named == {"cpu": 512, "memory": 1024}
    assert parse_config(None, kept=named).cpu == 512


def test_every_option_is_described_in_the_help() -> None:
    described = describe_options()

    for name, field in DeploymentConfig.model_fields.items():
        assert f"  {field.alias or name}: " in described
        assert field.description
