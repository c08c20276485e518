"""How one call behaves; none of this is kept for the next update."""

from __future__ import annotations

from mlflow_fargate.config.option import OptionGroup, option


class CallOptions(OptionGroup):
    """Options of a call, not of what is deployed."""

    config_file: str | None = option(
        None,
        "YAML or JSON file with options; those on the command line win",
        maps_to="(this machine's file)",
        examples=["churn.yaml"],
        allowed="a file's path",
    )
    wait: bool = option(
        True, "return when the deployment answers; false: when AWS has accepted it", maps_to="(how this call behaves)"
    )
    timeout_seconds: int = option(
        1800,
        "how long to wait for the rollout",
        unit="seconds",
        ge=1,
        maps_to="(how this call behaves)",
        examples=["3600"],
    )
    smoke_test: bool = option(
        True,
        "start a newly built service on this machine, as a task would, and deploy it only if it answers the model's "
        "input example",
        maps_to="(how this call behaves)",
    )
    convert: bool = option(
        True,
        "convert the model on this machine where runtime asks for that, which runs its code; false: only what was "
        "converted before is used, else auto stays native and onnx is an error",
        maps_to="(how this call behaves)",
    )
    build_sdists: bool = option(
        True,
        "build packages without wheels, if this machine is like the image (that runs their code); false: refuse them",
        maps_to="(how this call behaves)",
    )
    dry_run: bool = option(False, "print the plan and change nothing", maps_to="(how this call behaves)")
