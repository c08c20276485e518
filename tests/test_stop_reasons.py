"""Causes and hints, with messages as the libraries and ECS write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_fargate.local.container.launch import FULL_DISK
from mlflow_fargate.stop_reasons import explaining_lines, find_cause, hint_for_stop

PULL = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: "
ROLE = "arn:aws:sts::123456789012:assumed-role/execution/1"


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("ModuleNotFoundError: No module named 'lightgbm'", "-C requirements=lightgbm"),
        ("ModuleNotFoundError: No module named 'google.cloud'", "-C requirements=google"),
        (
            "MlflowException: Could not load it (caused by ModuleNotFoundError: No module named 'catboost')",
            "-C requirements=catboost",
        ),
        (
            "ModuleNotFoundError: No module named 'numpy._core' (numpy 1.26.4 is installed; the model was logged with "
            "2.1.0)",
            "-C requirements=numpy==2.1.0",
        ),
        ("ModuleNotFoundError: No module named 'sklearn.ensemble._gb_losses'", "different package versions"),
        (
            "AttributeError: Can't get attribute '_RemainderColsList' on <module 'sklearn.compose._column_transformer' "
            "from '/opt/app/site/sklearn/compose/_column_transformer.py'>",
            "different package versions",
        ),
        (
            "ValueError: <class 'numpy.random._mt19937.MT19937'> is not a known BitGenerator module.",
            "different package versions",
        ),
        ("ValueError: node array from the pickle has an incompatible dtype:", "different package versions"),
        ("TypeError: code() argument 13 must be str, not int", "different package versions"),
        ("TypeError: code expected at most 16 arguments, got 18", "different package versions"),
        ("ValueError: unsupported pickle protocol: 5", "different package versions"),
        (
            "OSError: libgomp.so.1: cannot open shared object file: No such file or directory",
            "libgomp.so.1 is a system library; add the Debian package that contains it: -C system_packages=",
        ),
        (
            "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
            "libGL.so.1 is a system library",
        ),
        ("MemoryError", "memory="),
        ("MemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64", "mem"),
        ("OSError: [Errno 12] Cannot allocate memory", "memory="),
        ("OSError: /opt/app/site/x.so: wrong ELF class: ELFCLASS32", "built for another CPU"),
        ("ImportError: /opt/app/model/x.so: invalid ELF header", "built for another CPU or operating system"),
        (
            "ImportError: /opt/app/model/x.so: cannot open shared object file: No such file or directory (it is there, "
            "but built for aarch64, not x86_64)",
            "built for another CPU",
        ),
        ("OSError: [Errno 8] Exec format error: '/opt/app/model/tool'", "built for another CPU"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/home/ana/vocabulary.txt'",
            "the model has no /home/ana/vocabulary.txt",
        ),
        *(
            (
                f"FileNotFoundError: [Errno 2] No such file or directory: '{root}/opt/app/model/artifacts/words.txt'",
                "the model's files do not include artifacts/words.txt; log the model again",
            )
            for root in ("", "/home/ana/.cache/mlflow-fargate/smoke-test/application-x")
        ),
        ("ValueError: the weights are upside down", None),
    ],
)
def test_a_cause_leads_to_its_hint(message: str, hint: str | None) -> None:
    said = hint_for_stop("Essential container in task exited", 1, ["noise", f"ModelLoadError: {message}"])

    assert (said is None) if hint is None else (said is not None and hint in said), said


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        (f"{PULL}unable to retrieve secret from asm: There is a connection issue between the task and ECR.", "subnets"),
        (
            "CannotPullContainerError: ref pull has been retried 5 time(s): failed to do request: dial tcp: timeout",
            "subnets",
        ),
        (
            f"{PULL}AccessDeniedException: User: {ROLE} is not authorized to perform: secretsmanager:GetSecretValue on "
            "resource: arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1B2c3",
            "allow the execution role to call secretsmanager:GetSecretValue",
        ),
        (f"{PULL}AccessDeniedException: Access to KMS is not allowed", "kms:Decrypt"),
        (
            f"{PULL}retrieved secret from Secrets Manager did not contain json key password",
            "the secret has no key password; end the ARN",
        ),
        (
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): image Manifest does not contain "
            "descriptor matching platform 'linux/arm64'",
            "architecture=",
        ),
        ("ResourceInitializationError: failed to validate logger args: signal: killed", "the subnets need a route"),
        ("OutOfMemoryError: Container killed due to memory usage", "memory="),
        ("Task failed ELB health checks in (target-group x)", "health_check_grace_seconds="),
        ("Your Spot Task was interrupted. Fargate Spot", "on_demand_base="),
    ],
)
def test_a_reason_of_ecs_leads_to_its_hint(reason: str, hint: str | None) -> None:
    said = hint_for_stop(reason, None, [])

    assert (said is None) if hint is None else (said is not None and hint in said), said


_, *_LINES = (Path(__file__).parent / "support" / "stop_reasons.txt").read_text(encoding="utf-8").splitlines()
TEXTS = [(text, None if hint == "-" else hint) for hint, _, text in (line.partition(" → ") for line in _LINES)]


@pytest.mark.parametrize(("text", "hint"), TEXTS, ids=lambda value: str(value)[-50:])
def test_each_cause_that_ecs_reports_has_its_own_hint(text: str, hint: str | None) -> None:
    said = hint_for_stop(text, None, [])

    assert (said is None) if hint is None else (said is not None and hint in said), said


def test_the_causes_are_told_apart() -> None:
    hints = {hint_for_stop(text, None, []) for text, _ in TEXTS}

    assert len(TEXTS) >= 60
    assert len(hints) >= 32


def test_the_full_disk_of_this_machine_is_not_the_disk_of_a_task() -> None:
    full = "CannotPullContainerError: write /big: no space left on device"

    assert "ephemeral_storage_gib=" in (hint_for_stop(full, None, []) or "")
    assert "on this machine's disk" in (hint_for_stop(f"{full} ({FULL_DISK})", None, []) or "")


def test_a_killed_task_ran_out_of_memory_unless_a_health_check_ended_it() -> None:
    assert "memory=" in (hint_for_stop("Essential container in task exited", 137, []) or "")
    assert "grace" in (hint_for_stop("Task failed container health checks", 137, []) or "")


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("Your Spot Task was interrupted. Fargate Spot", "on_demand_base="),
        ("OutOfMemoryError: Container killed due to memory usage", "raise memory="),
        ("Scaling activity initiated by (deployment ecs-svc/1)", None),
        ("Task stopped by ana", None),
    ],
)
def test_a_task_that_ecs_stopped_and_then_killed_has_the_hint_for_its_reason(reason: str, hint: str | None) -> None:
    said = hint_for_stop(reason, 137, ["FileNotFoundError: No such file or directory: 'optional.txt'"])

    assert (said is None) if hint is None else (said is not None and hint in said), said


def test_the_cause_decides_and_not_the_lines_before_it() -> None:
    lines = ["MemoryError: a warning of a library", "ModelLoadError: ModuleNotFoundError: No module named 'shap'"]

    assert (hint_for_stop("", 1, lines) or "").endswith("-C requirements=shap")


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["a", "ModelLoadError: KeyError: 'x'", "b"], ["ModelLoadError: KeyError: 'x'"]),
        (["a", "    | InputExampleError: ValueError: no"], ["InputExampleError: ValueError: no"]),
        (["Fatal Python error: Segmentation fault", "", "  File x"], ["Fatal Python error: Segmentation fault"]),
        (["a", "b", "c"], ["b", "c"]),
        (["ModelLoadError"], ["ModelLoadError"]),
        ([], []),
    ],
)
def test_the_cause_is_shown_or_else_the_last_lines(lines: list[str], shown: list[str]) -> None:
    assert explaining_lines(lines, 2) == shown
    assert (find_cause(lines) is not None) == (len(shown) == 1 and ":" in shown[0])
