"""Every option of a deployment: what can be meant, and what is said about what cannot."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

from mlflow_fargate.config import FARGATE_SIZES, DeploymentConfig, parse_config, read_config
from mlflow_fargate.config.describe import (
    Described,
    describe_options,
    described_options,
    options_schema,
    options_tables,
)
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
    with pytest.raises(InvalidOption, match=r"memory=4096: with cpu=256 Fargate offers 512, 1024, 2048 \(MiB\)"):
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
    config = parse_config({"environment.B": "2"}, kept=parse_config({"environment": {"A": "1"}}))

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
    assert read_config(named) == parse_config(named)


@pytest.mark.parametrize(
    "text",
    ["cpu: 2048\nmemory: 4096\nenvironment: {A: 1}\n", '{"cpu": 2048, "memory": "4096", "environment": {"A": "1"}}'],
)
def test_options_come_from_a_file_and_the_command_line_wins(tmp_path: Path, text: str) -> None:
    file = tmp_path / "churn.yaml"
    file.write_text(text)

    config = parse_config(
        {"config_file": str(file), "memory": "8192", "environment.B": "2"}, kept=parse_config({"cpu": 256})
    )

    assert config.named == {"cpu": 2048, "memory": 8192, "environment": {"A": "1", "B": "2"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- cpu", "must map option names to values"),
        ("cpu: [", "config_file="),
        ("config_file: other.yaml", "itself sets config_file"),
        ("cpus: 2", "Did you mean 'cpu'"),
        ("# " + "x" * 2_000_000, "must map option names to values"),
    ],
)
def test_a_file_that_holds_no_options_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "churn.yaml"
    file.write_text(text)

    with pytest.raises(InvalidOption, match=said):
        parse_config({"config_file": str(file)})


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidOption, match=r"config_file=nowhere\.yaml: .*No such file"):
        parse_config({"config_file": "nowhere.yaml"})


def test_an_empty_value_puts_an_option_back_to_its_default() -> None:
    config = parse_config({"cpu": "", "memory": ""}, kept=parse_config({"cpu": 4096, "memory": 8192, "port": 5000}))

    assert config.named == {"port": 5000}
    assert (config.cpu, config.memory_mib) == (1024, 2048)


def test_an_option_may_be_named_as_it_is_in_python() -> None:
    assert parse_config({"memory_mib": 4096}, kept=parse_config({"memory": 2048})).named == {"memory": 4096}


@pytest.mark.parametrize(
    ("strange", "port"),
    [
        ({"warp": 9}, 5000),
        ({"spot": True, "warp": {"a": 1}}, 5000),
        ({"strategy": "wobbly"}, 5000),
        ({"cpu": "many"}, 5000),
        ({"canary_percent": 5.0}, 3000),  # no single option is wrong, so none is taken
    ],
)
def test_what_another_release_named_is_read_as_far_as_it_is_understood(strange: dict[str, Any], port: int) -> None:
    kept = read_config({"port": 5000, **strange})

    assert kept.port == port
    assert json.dumps(kept.named) == json.dumps({"port": 5000, **strange}, sort_keys=True)


def test_an_update_requires_options_of_another_release_to_be_reset() -> None:
    kept = read_config({"port": 5000, "warp": 9})

    with pytest.raises(InvalidOption, match="Unknown option 'warp'"):
        parse_config({"cpu": 512, "memory": 1024}, kept)
    assert parse_config({"warp": ""}, kept).named == {"port": 5000}


def missing_words(one: Described) -> list[str]:
    """What an option's declaration has to say yet, as the argument of `option()` that would."""
    is_number = one.type in ("whole number", "number")
    wanted = {
        "description": one.description,
        "maps_to= (what AWS, OCI or MLflow call it)": one.maps_to,
        "examples=[…]": one.example,
        "ge= and le=, or allowed= (its range, in words)": one.limits,
        "unit=": one.unit or not is_number,
        "default": one.default,
        "a type that describe.py knows": one.type,
    }
    return [argument for argument, said in wanted.items() if not said]


def test_every_option_says_its_type_unit_default_range_example_and_place() -> None:
    options = {one.key: one for one in described_options()}

    assert set(options) == {field.alias or name for name, field in DeploymentConfig.model_fields.items()}
    assert {key: missing for key, one in options.items() if (missing := missing_words(one))} == {}
    for key in options:
        assert f"  {key}: " in describe_options()
        assert f'| <a id="{key}"></a>`{key}` |' in options_tables()
    assert (options["memory"].unit, options["port"].limits, options["wait"].default) == ("MiB", "1024 to 65535", "true")


@pytest.mark.parametrize("option", described_options(), ids=lambda option: option.key)
def test_the_example_of_an_option_can_be_meant(option: Described, tmp_path: Path) -> None:
    (tmp_path / "churn.yaml").write_text("{}")
    needed = {"cpu": {"memory": "4096"}, "memory": {"cpu": "2048"}, "on_demand_base": {"spot": "true"}}
    adopted = {"load_balancer_arn", "listener_arn", "target_group_arn"}
    needed |= {key: {"security_groups": "sg-1"} for key in adopted}
    needed["enable_execute_command"] = {"task_role_arn": "arn:aws:iam::123456789012:role/churn"}
    needed |= {key: {"strategy": "canary"} for key in ("canary_percent", "canary_bake_time_minutes")}
    needed |= {key: {"strategy": "linear"} for key in ("linear_step_percent", "linear_step_bake_time_minutes")}
    needed |= {key: {"strategy": "blue_green"} for key in ("bake_time_minutes", "test_green", "test_timeout_minutes")}
    recorded = ("sampling_fraction", "max_body", "drop", "hash")
    needed |= {f"inference_log_{what}": {"inference_log": "s3://logs/churn"} for what in recorded}
    needed["traffic"] = {"variant_of": "churn"}
    if option.maps_to.startswith("Application Auto Scaling"):
        needed[option.key] = {"max_count": "4"}
    example = option.example if "=" in option.example else f"{option.key}={option.example}"
    key, _, value = example.partition(" and ")[0].partition(" or ")[0].partition("=")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        config = parse_config({**needed.get(option.key, {}), key: value.strip('"')})

    assert option.key == "config_file" or option.key in config.named


def test_the_schema_is_json_and_says_the_same() -> None:
    schema = json.loads(json.dumps(options_schema()))

    port = schema["properties"]["port"]
    assert (port["minimum"], port["maximum"], port["default"]) == (1024, 65535, 3000)
    assert schema["properties"]["memory"]["unit"] == "MiB"
    assert [key for key, one in schema["properties"].items() if not one["examples"] or not one["maps_to"]] == []
    assert schema["additionalProperties"] is False
    assert "config_file" not in schema["properties"]


@pytest.mark.parametrize(
    ("options", "is_valid"),
    [
        ({}, True),
        ({"cpu": 256, "memory": 512}, True),
        ({"cpu": 256, "memory": 4096}, False),
        ({"cpus": 256}, False),
        ({"environment": {"A": "1"}, "subnets": ["subnet-a"], "base_image": None}, True),
        ({"architecture": "arm"}, False),
        ({"port": 80}, False),
    ],
)
def test_the_schema_takes_what_a_config_file_may_say(options: dict[str, Any], is_valid: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(options_schema())

    assert jsonschema.Draft202012Validator(options_schema()).is_valid(options) is is_valid


def test_a_schedule_says_when_which_bounds_begin() -> None:
    entries = {
        "night": "cron(0 20 * * ? *) 0",
        "day": "cron(0 7 ? * MON-FRI *) normal",
        "sale": "at(2030-01-01T00:00:00) 2-9",
    }

    counts = parse_config({"min_count": 1, "max_count": "4", "schedule": json.dumps(entries)}).scheduled_counts

    assert counts == {
        "night": ("cron(0 20 * * ? *)", 0, 0),
        "day": ("cron(0 7 ? * MON-FRI *)", 1, 4),
        "sale": ("at(2030-01-01T00:00:00)", 2, 9),
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_count": 2}, "min_count only applies to autoscaling; set max_count"),
        ({"min_count": 5, "max_count": 4}, "min_count=5 is greater than max_count=4"),
        ({"max_count": 4, "schedule.night": "0 20 * * * 0"}, r"schedule\.night='0 20 \* \* \* 0' must be 'WHEN COUNT'"),
        ({"max_count": 4, "schedule.night": "cron(0 20 * * ? *) 3-1"}, "3 is greater than 1"),
        ({"max_count": 4, "schedule_timezone": "here; there"}, "tz database"),
    ],
)
def test_scaling_that_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        parse_config(options)


def test_without_a_named_target_autoscaling_follows_the_cpu() -> None:
    assert parse_config({"max_count": 2}).scaling_targets == {"ECSServiceAverageCPUUtilization": 60.0}
    assert list(parse_config({"max_count": 2, "target_memory_percent": 80}).scaling_targets) == [
        "ECSServiceAverageMemoryUtilization"
    ]


def test_autoscaling_is_turned_off_as_a_whole() -> None:
    kept = parse_config({"max_count": 4, "min_count": 2, "schedule.night": "cron(0 20 * * ? *) 0", "cpu": 512})

    assert parse_config({"max_count": ""}, kept).named == {"cpu": 512}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://me:hunter2@host.example/simple", "https://host.example/simple"),
        ("https://hunter2@host.example/simple", "https://host.example/simple"),
        ("https://me:${TOKEN}@host.example/simple", "https://me:${TOKEN}@host.example/simple"),
        ("https://${TOKEN}@host.example/simple", "https://${TOKEN}@host.example/simple"),
        ("https://host.example:8080", "https://host.example:8080"),
    ],
)
def test_an_index_is_recorded_without_its_password(given: str, kept: str) -> None:
    config = parse_config({"index_url": given, "extra_index_urls": given, "requirements": f"six @ {given}/six.whl"})

    assert config.index_url == given
    assert config.named["index_url"] == kept
    assert config.named["extra_index_urls"] == [kept]
    assert "hunter2" not in json.dumps(config.named)
    assert "hunter2" not in repr([config.index_url and parse_config({"index_url": given})])


@pytest.mark.parametrize(
    "given", ["ftp://me:hunter2@host", "https://me:hunter2 @host/simple", "https://me:hunter2/@h i", "me:hunter2@host"]
)
def test_an_index_that_is_none_is_refused_without_showing_its_password(given: str) -> None:
    for options in ({"index_url": given}, {"extra_index_urls": given}, {"find_links": given}):
        with pytest.raises(InvalidOption, match="must be a URL like https://HOST/PATH") as caught:
            parse_config(options)
        assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("options", "looked_for"),
    [
        ({}, None),
        ({"service": "image_classifier"}, None),
        ({"service": "pyfunc"}, "none"),
        ({"service": "mine/service.py"}, "none"),
        ({"service": "mine/service.py", "labels": "kinds.json"}, "kinds.json"),
    ],
)
def test_labels_are_looked_for_only_where_they_are_of_use(options: dict[str, str], looked_for: str | None) -> None:
    assert parse_config(options).labels_file == looked_for


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "2GB"}, "Option memory='2GB': must be a whole number (MiB), such as memory=4096."),
        ({"environment": "FOO=1"}, "must be given as environment.NAME=VALUE, such as environment.OMP_NUM_THREADS=1"),
        ({"environment": "{FOO"}, "is not valid JSON"),
        ({"host": "http://x.com"}, "must be a host name; * and ? are wildcards, such as host=churn.example.com."),
        ({"port": 80}, "must be at least 1024 (port number), such as port=5000."),
        ({"desired_count": -1}, "must be at least 0 (tasks)"),
        ({"port": 99999}, "must be at most 65535"),
        ({"security_groups": "a,b,c,d,e"}, "must have at most 4 entries"),
        ({"spot": "maybe"}, "must be true or false"),
        ({"strategy": "blue"}, "must be one of 'rolling', 'blue_green', 'canary' or 'linear'."),
    ],
)
def test_an_invalid_value_is_explained_by_the_option_and_not_by_pydantic(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_config(options)

    assert said in caught.value.message
    assert "Input" not in caught.value.message


def test_a_file_that_is_not_yaml_is_reported_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "churn.yaml"
    file.write_text("cpu: 1\n  memory: [2\n")

    with pytest.raises(InvalidOption, match="not valid YAML or JSON at line 2, column 9: mapping values"):
        parse_config({"config_file": str(file)})
    with pytest.raises(InvalidOption, match="the file cannot be read: No such file"):
        parse_config({"config_file": str(tmp_path / "none.yaml")})


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ("numpy>=2,<3", ("numpy>=2,<3",)),
        ("a==1, b[x,y]>=1,<2 ,c", ("a==1", "b[x,y]>=1,<2", "c")),
        ("six @ https://h.example/six.whl,numpy,", ("six @ https://h.example/six.whl", "numpy")),
        (["a", "b>=1,<2"], ("a", "b>=1,<2")),
        ("", ()),
    ],
)
def test_requirements_are_separated_by_commas_but_not_within_one(given: object, lines: tuple[str, ...]) -> None:
    assert parse_config({"requirements": given}).requirements == lines
