"""Whether a deployment's record of predictions can be written, before tasks try."""

from __future__ import annotations

from mlflow_fargate.aws.reading.doctor_facts import known, read_permissions
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.doctor_facts import Permissions
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.resources.inference_log import write_statement


def check_log_bucket(session: AwsSession, config: DeploymentConfig) -> None:
    """Raises InvalidOption if there is no such bucket in the region, or a given role of the tasks cannot write to it.

    A policy of the bucket that denies writing is only found by the first write.
    """
    place = config.log_place
    if place is None:
        return
    where = _region_of(session, place.bucket)
    if where and where != session.region:
        raise InvalidOption(
            f"Option inference_log={config.inference_log}: the bucket is in {where}, the endpoint in {session.region}.",
            hint=f"use a bucket in {session.region}: traffic between regions is billed, and would leave the region",
        )
    if config.task_role_arn:
        statement = write_statement(session.region, *place)
        arn = str(statement["Resource"]).replace("*", "any")
        found = known(lambda: read_permissions(session, str(config.task_role_arn), [(statement, [arn])]))
        if isinstance(found, Permissions) and (found.missing or found.blocked):
            raise InvalidOption(
                f"Option inference_log={config.inference_log}: the tasks' role {config.task_role_arn} is not allowed "
                "to write there.",
                hint=f"allow it s3:PutObject on {statement['Resource']}, or leave out task_role_arn",
            )


def _region_of(session: AwsSession, bucket: str) -> str | None:
    try:
        return session.call("s3", "head_bucket", Bucket=bucket).get("BucketRegion")
    except AwsError as error:  # a HEAD has no body: the code is only the status
        if error.code in ("404", "NoSuchBucket"):
            raise InvalidOption(
                f"Option inference_log: there is no bucket '{bucket}'.",
                hint=f"create it: aws s3 mb s3://{bucket} --region {session.region}",
            ) from error
        if error.code in ("403", "AccessDenied"):
            raise InvalidOption(
                f"Option inference_log: AWS denies access to the bucket '{bucket}'.",
                hint="it belongs to another account, or these credentials lack s3:ListBucket on it (LookAtLogBucket in "
                "docs/iam/deployer-options.json)",
            ) from error
        raise
