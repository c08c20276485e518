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
_GONE = "the image was deleted from the repository; deploy the model again to build it: mlflow deployments update -m"
_PULL_RIGHTS = (
    "allow the execution role to pull images (see docs/iam/execution.json), and the policies of the repository and of "
    "VPC endpoints, if any"
)
_NAMED = "check the ARN in secrets.NAME=: there is no such {0}"
_LOG_GROUP = "the deployment's log group was deleted; to create it again, run: mlflow deployments update"
_VCPUS = "raise the quota 'Fargate On-Demand vCPU resource count' (L-3032A538), or lower cpu= or desired_count="
_EFS = "check efs=: {0}"
_TRUST = "the role's trust policy must name ecs-tasks.amazonaws.com (see docs/iam/execution-trust.json)"
_RETRY = "a temporary fault of AWS; ECS tries again, or run the command again"
_PICKLE = (
    "the model was pickled with different package versions than the ones installed; log the model again with its "
    "versions pinned (pip_requirements=), or set them: -C requirements=NAME==VERSION"
)

# In this order: a pattern in ECS's reason, or in its event → what to do, with the pattern's groups. Sources:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/resource-initialization-error.html
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_cannot_pull_image.html
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-event-messages-list.html
_OF_ECS = (
    # Of the local stack only.
    (r"the disk of this machine is full", "free some space on this machine's disk, then deploy again"),
    # Permissions.
    (r"KMS is not allowed|kms:Decrypt", "allow the execution role to use the secret's KMS key: kms:Decrypt"),
    (
        r"not authorized to perform: (\w+:\w+)",
        "allow the execution role to call {0} on the resource in the stop reason",
    ),
    (r"unable to assume the role|role being passed has the proper trust", _TRUST),
    (r"CannotPull.+(?:403 Forbidden|no basic auth|denied)|role has the permissions to pull", _PULL_RIGHTS),
    # Secrets and logs.
    (
        r"did not contain json key (\S+)",
        "the secret has no key {0}; end the ARN in secrets.NAME= with a key that exists: …:KEY::",
    ),
    (
        r"invalid character .+ looking for beginning of value",
        "the secret is not a JSON object, so it has no keys; end the ARN in secrets.NAME= without one",
    ),
    (r"invalid (?:ssm )?parameters", _NAMED.format("parameter in the endpoint's region")),
    (r"staging label", "the secret has no value yet; set one with: aws secretsmanager put-secret-value"),
    (r"(?:ResourceNotFoundException|asm).+secret\b|Secrets Manager can.?t find", _NAMED.format("secret")),
    (r"log group does not exist", _LOG_GROUP),
    # File systems.
    (r"EFS.+(?:No such file or directory|code: 32.+does not exist)", _EFS.format("the file system has no such folder")),
    (
        r"EFS.+(?:access denied|AccessDenied|Operation not permitted)",
        _EFS.format("the file system's policy must allow the tasks, and its access point user 65532"),
    ),
    (
        r"EFS.+(?:Failed to resolve|check that your file system ID)",
        _EFS.format("the file system needs a mount target in each zone of the subnets, and the VPC DNS hostnames"),
    ),
    (
        r"\bEFS\b",
        _EFS.format("the file system's security group must allow port 2049 from the endpoint's …-tasks group"),
    ),
    # The image.
    (r"toomanyrequests|429 Too Many Requests", "the registry limits pulls; wait, or push the image to ECR"),
    (r"descriptor matching platform", _ARCHITECTURE),
    (r"(?:CannotPull|pull.+image).+(?:not found|manifest unknown|does not exist|whether the image exists)", _GONE),
    (
        r"no space left on device",
        "the image is too large for the task's disk; remove packages from the model's requirements, or raise "
        "ephemeral_storage_gib=",
    ),
    # Capacity and addresses. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-quotas.html
    (
        r"free ?addresses",
        "the subnets have no free addresses: choose others with subnets=, or stop tasks; each task takes one",
    ),
    (r"NetworkInterfaceLimitExceeded", "raise the quota 'Network interfaces per Region' (L-DF5E4CA3)"),
    (
        r"Invalid(?:Subnet|SubnetID|Group|SecurityGroupID)\.NotFound",
        "a subnet or security group was deleted; check subnets= and security_groups=",
    ),
    (r"limit on the number of|CPU configuration is above your limit|MEMORY configuration is above", _VCPUS),
    (r"account is (?:currently )?blocked", "AWS blocks Fargate in some new accounts; contact AWS Support"),
    (r"Spot.+interrupted|Fargate Spot", "Spot reclaimed the capacity; run some tasks on demand with on_demand_base="),
    (
        r"Capacity is unavailable",
        "AWS has no Fargate capacity in these zones now; ECS tries again. Subnets in more zones (subnets=), another "
        "cpu= or architecture=ARM64, or on_demand_base= instead of Spot can help",
    ),
    (
        r"unable to place a task.+Internal error",
        "Fargate does not exist in the zone of one of the subnets; choose others with subnets=",
    ),
    # Health checks.
    (
        r"container health checks",
        "the command in container_health_check= failed; if the model takes a long time to load, raise "
        "health_check_grace_seconds=",
    ),
    (
        r"health check.+(?:timed out)",
        "the load balancer got no answer: security_groups= must allow its traffic; a slow model needs more cpu=, or "
        "more time to load: health_check_grace_seconds=",
    ),
    (
        r"health checks? failed with these codes: \[(\d+)",
        "the tasks answered {0} instead of 200, so the model was not loaded: see mlflow-fargate logs; if it takes "
        "a long time, raise health_check_grace_seconds=",
    ),
    (r"health check", "if the model takes a long time to load, raise health_check_grace_seconds="),
    # The container.
    (r"exec format error", _ARCHITECTURE),
    (r"OutOfMemory", _MEMORY),
    (
        r"executable file not found|no such file or directory: unknown",
        "the base image lacks a program that starts the service; use another base_image=",
    ),
    # The network, which is also the reason if AWS gives none.
    (
        r"(?:ResourceInitialization|CannotPullContainer|Task.+cannot).+"
        r"(?:connection issue|time|dial tcp|no route|context (?:canceled|deadline)|signal: killed|request canceled)",
        _SUBNETS,
    ),
    (r"network interface provisioning|DockerTimeout|InternalError|CannotInspect|CannotCreateVolume", _RETRY),
)

# The same for the task's output.
_OF_TASK = (
    (
        r"no space left on device",
        "the task's disk is full; raise ephemeral_storage_gib=",
    ),
    (
        r"\[Errno 8\] Exec format error: '|(?:Import|OS)Error: \S+: "
        r"(?:wrong ELF class|invalid ELF header|cannot open shared object file.+but built for )",
        "one of the model's files was built for another CPU or operating system; log the model with a Linux "
        "build for the task's CPU, or change the CPU with architecture=",
    ),
    (r"exec format error", _ARCHITECTURE),
    (r"MemoryError|Cannot allocate memory|Unable to allocate .+ for an array|bad_alloc", _MEMORY),
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
    said = "" if is_killed else "\n".join(explaining_lines(lines, len(lines)))
    return hint_for_event(reason) or _first(_OF_TASK, said)


def hint_for_event(message: str) -> str | None:
    """Returns what the user can do about a reason or an event of ECS; None if there is nothing to add."""
    return _first(_OF_ECS, message)


def _first(hints: Sequence[tuple[str, str]], said: str) -> str | None:
    found = ((re.search(pattern, said, re.IGNORECASE | re.DOTALL), hint) for pattern, hint in hints)
    return next((hint.format(*match.groups()) for match, hint in found if match), None)
