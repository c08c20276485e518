"""Hints for tasks that stopped, from ECS's reason and the container's last lines.

Pure. The texts are ECS's: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
"""

from __future__ import annotations

_HINTS = (
    # 20 GiB by default: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-task-storage.html
    (
        "no space left on device",
        "the image is too large for the task's disk; remove packages from the model's requirements, or raise "
        "ephemeral_storage_gib=",
    ),
    (
        "ResourceInitializationError",
        "the subnets need a route to ECR, S3, CloudWatch Logs and Secrets Manager; check with: mlflow-fargate doctor",
    ),
    ("CannotPullContainerError", "check that the subnets can reach ECR, with: mlflow-fargate doctor"),
    ("OutOfMemory", "raise memory="),
    ("exec format error", "the image is for another CPU architecture: architecture= must match base_image="),
    ("health check", "if the model takes long to load, raise health_check_grace_seconds="),
    ("Fargate Spot", "Spot reclaimed the capacity; run some tasks on demand with on_demand_base="),
)
_KILLED = 137  # 128 + SIGKILL: usually out of memory


def hint_for_stop(reason: str, exit_code: int | None, last_lines: list[str]) -> str | None:
    """Returns what the user can do about a stopped task; None if its last lines are the best explanation."""
    said = "\n".join((reason, *last_lines))
    if exit_code == _KILLED and "health check" not in reason:
        return "the task was killed, usually because it ran out of memory; raise it with memory="
    if module := next((line for line in last_lines if line.startswith("ModuleNotFoundError: ")), None):
        name = module.partition("'")[2].partition("'")[0]
        return f"the model needs a package that is not in its requirements: -C requirements={name.partition('.')[0]}"
    return next((hint for text, hint in _HINTS if text.lower() in said.lower()), None)
