"""What to do about a task that stopped: ECS's reason and the last line of the container, read as a hint.

Pure. The texts are ECS's own: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
"""

from __future__ import annotations

_HINTS = (
    # 20 GiB by default: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-task-storage.html
    (
        "no space left on device",
        "the image is too large: Fargate has 20 GiB for it, packed and unpacked; leave packages out of the model's "
        "requirements",
    ),
    (
        "ResourceInitializationError",
        "the subnets need a way to ECR, S3, CloudWatch Logs and Secrets Manager; look with: mlflow-fargate doctor",
    ),
    ("CannotPullContainerError", "see whether the subnets reach ECR, with: mlflow-fargate doctor"),
    ("OutOfMemory", "give the task more memory: memory="),
    ("exec format error", "the image is for another CPU: architecture= has to fit base_image="),
    ("health check", "a model that loads for long needs more of: health_check_grace_seconds="),
    ("Fargate Spot", "Spot took its capacity back; keep some tasks off Spot"),
)
_KILLED = 137  # 128 + SIGKILL: out of memory, mostly


def hint_for_stop(reason: str, exit_code: int | None, last_lines: list[str]) -> str | None:
    """What the user can do about a stopped task; None: its own last lines say more than we could."""
    said = "\n".join((reason, *last_lines))
    if exit_code == _KILLED and "health check" not in reason:
        return "the task was killed, which mostly means that its memory was full; give it more: memory="
    if module := next((line for line in last_lines if line.startswith("ModuleNotFoundError: ")), None):
        name = module.partition("'")[2].partition("'")[0]
        return f"the model needs a package that its requirements do not name: -C requirements={name.partition('.')[0]}"
    return next((hint for text, hint in _HINTS if text.lower() in said.lower()), None)
