"""Why a task or a smoke test ended, and what the user can do about it.

The service's last line is its cause (service_template/fargate_service/cause.py); other containers have last lines only.
Pure. ECS's texts: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CAUSE = re.compile(r"(?:ModelLoadError|InputExampleError|ServiceStartError): .+|Fatal Python error: .+")
_KILLED = 137  # 128 + SIGKILL
_ENDED_BY_ITSELF = ("", "Essential container in task exited")

_SUBNETS = "the subnets need a route to ECR, S3, CloudWatch Logs and Secrets Manager; check with: mlflow-fargate doctor"
_ARCHITECTURE = "the image is for another CPU architecture: architecture= must match base_image="
_MEMORY = "raise memory="
_PICKLE = (
    "the model was pickled with different package versions than the ones installed; log the model again with its "
    "versions pinned (pip_requirements=), or set them: -C requirements=NAME==VERSION"
)

# In this order: a pattern in ECS's reason or in the task's output → what to do, with the pattern's groups.
_HINTS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), hint)
    for pattern, hint in (
        # Of the local stack only.
        (r"the disk of this machine is full", "free some space on this machine's disk, then deploy again"),
        # 20 GiB by default: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-task-storage.html
        (
            r"no space left on device",
            "the image is too large for the task's disk; remove packages from the model's requirements, or raise "
            "ephemeral_storage_gib=",
        ),
        (
            r"\[Errno 8\] Exec format error: '|(?:Import|OS)Error: \S+: "
            r"(?:wrong ELF class|invalid ELF header|cannot open shared object file.+but built for )",
            "one of the model's files was built for another CPU or operating system; log the model with a Linux "
            "build for the task's CPU, or change the CPU with architecture=",
        ),
        (r"exec format error|descriptor matching platform", _ARCHITECTURE),
        (r"OutOfMemory|MemoryError|Cannot allocate memory|Unable to allocate .+ for an array|bad_alloc", _MEMORY),
        (r"health check", "if the model takes a long time to load, raise health_check_grace_seconds="),
        (r"Fargate Spot", "Spot reclaimed the capacity; run some tasks on demand with on_demand_base="),
        # Before a task has started.
        (
            r"did not contain json key (\S+)",
            "the secret has no key {0}; end the ARN in secrets.NAME= with a key that exists: …:KEY::",
        ),
        (r"KMS is not allowed", "allow the execution role to use the secret's KMS key: kms:Decrypt"),
        (
            r"not authorized to perform: (\w+:\w+)",
            "allow the execution role to call {0} on the resource in the stop reason",
        ),
        (
            r"ResourceNotFoundException.+secret|Secrets Manager can't find",
            "check the ARN in secrets.NAME=: there is no such secret",
        ),
        (r"(?:ResourceInitialization|CannotPullContainer)Error.+(?:connection issue|time|dial tcp|no route)", _SUBNETS),
        # What the service lacks.
        (
            r"\((\S+) (\S+) is installed; the model was logged with (\S+)\)",
            "the model was logged with {0} {2}, and the image has {1}: -C requirements={0}=={2}",
        ),
        (
            r"No module named '(?:numpy\._|sklearn\.|pandas\.|scipy\.)|Can't get attribute|not a known BitGenerator"
            r"|incompatible dtype|unsupported pickle protocol|code\(\) argument|code expected at (?:most|least)",
            _PICKLE,
        ),
        (
            r"ModuleNotFoundError: No module named '([^'.]+)",
            "the model needs a package that is not in its requirements: -C requirements={0}",
        ),
        (
            r"(\S+\.so[.\d]*): cannot open shared object file",
            "{0} is a system library; add the Debian package that contains it: -C system_packages=",
        ),
        # In the image, or in the folder of a smoke test.
        (
            r"No such file or directory: '[^']*/opt/app/model/([^']+)'",
            "the model's files do not include {0}; log the model again, with this file as one of its artifacts",
        ),
        (
            r"No such file or directory: '([^']+)'",
            "the model has no {0}; log the file with the model, as one of its artifacts",
        ),
    )
)


def find_cause(lines: Sequence[str]) -> str | None:
    """Returns the last line that names a cause, without what an error or a log puts before it; None if none does."""
    found = (_CAUSE.search(line) for line in reversed(lines))
    return next((cause[0] for cause in found if cause), None)


def explaining_lines(lines: Sequence[str], count: int) -> list[str]:
    """Returns the cause if there is one, else the last `count` lines."""
    cause = find_cause(lines)
    return [cause] if cause else list(lines[-count:])


def hint_for_stop(reason: str, exit_code: int | None, lines: Sequence[str]) -> str | None:
    """Returns what the user can do about a process that ended; None if what it wrote is the best explanation.

    `reason` is ECS's, empty for a process on this machine; `lines` are the last ones of its output.
    """
    is_killed = exit_code == _KILLED
    if is_killed and reason in _ENDED_BY_ITSELF:
        return "the task was killed, usually because it ran out of memory; raise the limit with memory="
    # What was killed could not write why; ECS also kills tasks that it stops for another reason.
    said = "\n".join((reason, *(() if is_killed else explaining_lines(lines, len(lines)))))
    found = ((pattern.search(said), hint) for pattern, hint in _HINTS)
    return next((hint.format(*match.groups()) for match, hint in found if match), None)
