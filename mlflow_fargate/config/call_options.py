"""Options of one command; they are not kept for the next update."""

from __future__ import annotations

from mlflow_fargate.config.option import OptionGroup, option


class CallOptions(OptionGroup):
    """Options of one command, not of the deployment."""

    config_file: str | None = option(
        None,
        "YAML or JSON file with options; options on the command line override it",
        maps_to="(local file)",
        examples=["churn.yaml"],
        allowed="path of a file",
    )
    wait: bool = option(
        True,
        "wait until the deployment responds; false: return once AWS has accepted the changes",
        maps_to="(this command)",
    )
    wait_for_drain: bool = option(
        True,
        "wait until the old tasks have stopped; false: return once the new tasks answer (with the other strategies "
        "than rolling: once all traffic has shifted), which ECS can still roll back",
        maps_to="(this command)",
    )
    timeout_seconds: int = option(
        1800,
        "how long to wait for the rollout",
        unit="seconds",
        ge=1,
        maps_to="(this command)",
        examples=["3600"],
    )
    traffic: int | None = option(
        None,
        "with variant_of: share of the requests that the variant gets once its rollout has completed; a new variant "
        "gets none without it (see also mlflow-fargate traffic)",
        unit="percent",
        ge=0,
        le=100,
        maps_to="(ELB listener rule: weights)",
        examples=["10"],
    )
    smoke_test: bool = option(
        True,
        "start a newly built service on this machine the way a task would, and deploy it only if it responds to the "
        "model's input example",
        maps_to="(this command)",
    )
    convert: bool = option(
        True,
        "convert the model on this machine if runtime= requires it; false: never convert, only reuse an earlier "
        "conversion; if there is none, runtime=auto falls back to native, and runtime=onnx fails",
        maps_to="(this command)",
    )
    build_sdists: bool = option(
        False,
        "if a package has no wheel, build it from source on this machine, which must match the image's platform and "
        "Python; building runs the package's code; false: refuse such packages",
        maps_to="(this command)",
    )
    dry_run: bool = option(False, "print the plan and change nothing", maps_to="(this command)")
