"""A task definition as the arguments of podman and docker, and what they print about a container."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.container.run_arguments import ContainerState, EngineTraits, make_arguments
from mlflow_fargate.local.task_definition import Container, TaskDefinition

PODMAN = EngineTraits(is_podman=True, cpus=4)
DOCKER = EngineTraits(is_podman=False, cpus=4)


def arguments(
    traits: EngineTraits = PODMAN,
    *,
    role: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
    host_port: int | None = None,
    task: dict[str, str] | None = None,
    **container: Any,
) -> tuple[list[str], dict[str, str]]:
    definition = TaskDefinition.of_json(
        {
            "taskDefinitionArn": "arn",
            "family": "churn",
            **(task or {}),
            "containerDefinitions": [{"name": "model", "image": "127.0.0.1:5000/churn@sha256:1", **container}],
        }
    )
    spec = ContainerSpec(
        "task",
        definition.main,
        PulledImage("sha256:1"),
        secrets or {},
        cpu_units=definition.cpu_units,
        memory_mib=definition.memory_mib,
    )
    return make_arguments(spec, labels={"stack": "7"}, traits=traits, role=role or {}, host_port=host_port, volumes="v")


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_task_of_a_deployment_gets_what_fargate_gives_it() -> None:
    words, hidden = arguments(
        task={"cpu": "512", "memory": "1024"},
        portMappings=[{"containerPort": 3000}],
        environment=[{"name": "WORKERS", "value": "2"}],
        mountPoints=[{"sourceVolume": "tmp", "containerPath": "/tmp", "readOnly": False}],
        user="65532",
        readonlyRootFilesystem=True,
        stopTimeout=45,
        linuxParameters={"capabilities": {"drop": ["ALL"]}},
    )

    assert words == [
        "--pull=never", "--log-driver", "none", "--stop-timeout", "45", "--label", "stack=7",
        "--publish", "127.0.0.1::3000", "--memory", "1024m", "--memory-swap", "1024m", "--cpus", "0.5",
        "--ulimit", "nofile=65535:65535", "--http-proxy=false", "--user", "65532",
        "--read-only", "--read-only-tmpfs=false", "--mount", "type=volume,source=v-tmp,destination=/tmp",
        "--cap-drop", "ALL", "--env", "WORKERS=2",
        "127.0.0.1:5000/churn@sha256:1",
    ]  # fmt: skip
    assert hidden == {}


def test_a_comma_in_a_path_does_not_begin_another_option_of_the_mount() -> None:
    path = '/data,type=bind,source=/etc"'
    words, _ = arguments(mountPoints=[{"sourceVolume": "tmp", "containerPath": path}])

    (mount,) = values(words, "--mount")
    assert next(csv.reader([mount])) == ["type=volume", "source=v-tmp", f"destination={path}"]


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "DOCKER_HOST", "CONTAINERS_CONF", "GOMEMLIMIT", "NOTIFY_SOCKET", "AWS_*", "A=B", ""]
)
def test_a_secret_that_would_change_the_engines_command_is_refused(name: str) -> None:
    with pytest.raises(TaskFailedToStart, match="cannot have a secret named"):
        arguments(secrets={name: "s3cret"})


@pytest.mark.parametrize("name", ["DOCKER_PASSWORD", "GOOGLE_API_KEY", "STORAGE_KEY", "AWS_SESSION_TOKEN", "my.key"])
def test_other_secrets_have_any_name(name: str) -> None:
    _, hidden = arguments(secrets={name: "s3cret"})

    assert hidden == {name: "s3cret"}


def test_only_the_port_that_users_reach_is_published() -> None:
    words, _ = arguments(portMappings=[{"containerPort": 9000}, {"containerPort": 3000}])

    assert values(words, "--publish") == ["127.0.0.1::9000"]


def test_no_capability_is_added() -> None:
    words, _ = arguments(linuxParameters={"capabilities": {"add": ["SYS_ADMIN"]}}, privileged=True)

    assert not {"--cap-add", "--privileged", "SYS_ADMIN"} & set(words)


def test_docker_does_not_get_podmans_options() -> None:
    words, _ = arguments(DOCKER, readonlyRootFilesystem=True)

    assert "--read-only" in words
    assert not [word for word in words if word.startswith(("--read-only-tmpfs", "--http-proxy"))]


def test_secrets_and_the_keys_of_a_role_are_not_in_the_arguments() -> None:
    words, hidden = arguments(
        secrets={"API_KEY": "s3cret"},
        role={"AWS_SECRET_ACCESS_KEY": "k3y"},
        environment=[{"name": "API_KEY", "value": "overridden"}],
    )

    assert hidden == {"API_KEY": "s3cret", "AWS_SECRET_ACCESS_KEY": "k3y"}
    assert set(values(words, "--env")) == set(hidden)
    assert not {"s3cret", "k3y", "API_KEY=overridden"} & set(words)


def test_an_entry_point_voids_the_images_command() -> None:
    words, _ = arguments(entryPoint=["python3", "-m", "server"], command=["--port", "1"])

    assert values(words, "--entrypoint") == ["python3"]
    assert words[-5:] == ["127.0.0.1:5000/churn@sha256:1", "-m", "server", "--port", "1"]


def test_a_command_without_an_entry_point_is_for_the_images_entry_point() -> None:
    words, _ = arguments(command=["serve"])

    assert "--entrypoint" not in words
    assert words[-2:] == ["127.0.0.1:5000/churn@sha256:1", "serve"]


def test_a_container_with_this_machines_network_has_its_port_in_the_environment() -> None:
    environment = [
        {"name": "FARGATE_WEBHOOK_PORT", "value": "3000"},
        {"name": "FARGATE_WEBHOOK_HOST", "value": "0.0.0.0"},
    ]
    words, _ = arguments(host_port=4711, portMappings=[{"containerPort": 3000}], environment=environment)

    assert values(words, "--network") == ["host"]
    assert "--publish" not in words
    assert sorted(values(words, "--env")) == [
        "BENTOML_HOST=127.0.0.1",
        "BENTOML_PORT=4711",
        "FARGATE_WEBHOOK_HOST=127.0.0.1",
        "FARGATE_WEBHOOK_PORT=4711",
        "HOST=127.0.0.1",
        "PORT=4711",
    ]


def test_a_containers_own_memory_limit_is_below_the_tasks() -> None:
    words, _ = arguments(task={"memory": "2 GB", "cpu": "1 vCPU"}, memory=256)

    assert values(words, "--memory") == values(words, "--memory-swap") == ["256m"]
    assert values(words, "--cpus") == ["1"]


def test_more_cpu_than_the_machine_has_is_all_of_it() -> None:
    assert values(arguments(task={"cpu": "16 vCPU"})[0], "--cpus") == ["4"]


def test_limits_that_the_machine_cannot_enforce_are_left_out() -> None:
    words, _ = arguments(EngineTraits(is_podman=True, cpus=4, limits=()), task={"cpu": "256", "memory": "512"})

    assert not {"--memory", "--memory-swap", "--cpus"} & set(words)


def test_ulimits_stay_within_what_the_engine_may_give() -> None:
    traits = EngineTraits(is_podman=True, cpus=4, most={"nofile": 4096, "nproc": 1000})
    words, _ = arguments(traits, ulimits=[{"name": "core", "softLimit": 0, "hardLimit": 0}])

    assert values(words, "--ulimit") == ["nofile=4096:4096", "core=0:0", "nproc=1000:1000"]


def test_read_only_volumes_are_mounted_read_only() -> None:
    words, _ = arguments(mountPoints=[{"sourceVolume": "data", "containerPath": "/data", "readOnly": True}])

    assert values(words, "--mount") == ["type=volume,source=v-data,destination=/data,ro"]


@given(st.lists(st.text(max_size=20)), st.lists(st.text(max_size=20), min_size=1))
def test_words_of_entry_point_and_command_keep_their_order(command: list[str], entry_point: list[str]) -> None:
    words, _ = arguments(entryPoint=entry_point, command=command)

    image = words.index("127.0.0.1:5000/churn@sha256:1", words.index("--entrypoint") + 2)
    assert [words[words.index("--entrypoint") + 1], *words[image + 1 :]] == [*entry_point, *command]


@pytest.mark.parametrize(("text", "mib"), [("512", 512), ("0.5 GB", 512), ("2GB", 2048), ("", 0)])
def test_memory_is_read_as_registertaskdefinition_accepts_it(text: str, mib: int) -> None:
    data = {"taskDefinitionArn": "arn", "family": "churn", "memory": text}
    container = {"name": "model", "image": "image"}

    assert TaskDefinition.of_json({**data, "containerDefinitions": [container]}).memory_mib == mib


def test_a_container_without_limits_runs_as_the_image_says() -> None:
    words, _ = arguments()

    assert not {"--user", "--read-only", "--memory", "--cpus", "--cap-drop", "--mount"} & set(words)
    assert Container.of_json({"name": "model", "image": "image"}).limits.user is None


# inspect


def inspected(state: dict[str, Any], ports: dict[str, Any] | None = None) -> ContainerState:
    return ContainerState.of_json(json.dumps([{"State": state, "NetworkSettings": {"Ports": ports}}]))


def test_a_running_container_has_a_process_and_a_port() -> None:
    state = {"Status": "running", "Running": True, "Pid": 71, "StartedAt": "2026-11-30T01:50:06.5Z", "ExitCode": 0}
    ports = {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "40123"}], "9000/tcp": None}

    assert inspected(state, ports) == ContainerState(
        has_started=True, is_running=True, exit_code=0, out_of_memory=False, pid=71, host_port=40123
    )


def test_a_container_that_was_only_created_has_not_started() -> None:
    assert not inspected({"Status": "created", "Running": False, "StartedAt": "0001-01-01T00:00:00Z"}).has_started


def test_a_container_that_ended_has_an_exit_code_and_maybe_a_reason() -> None:
    state = inspected({"Running": False, "StartedAt": "2026-11-30T01:50:06Z", "ExitCode": 137, "OOMKilled": True})

    assert (state.exit_code, state.out_of_memory, state.pid) == (137, True, 0)
