"""The record of requests and answers: the role with which the tasks write it."""

from __future__ import annotations

import hashlib

from mlflow_fargate.partitions import partition_of
from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resources.endpoint import role_properties
from mlflow_fargate.resources.policies import PolicyStatement, allow, policy_of
from mlflow_fargate.resources.specs import DeploymentSpec, EndpointSpec


def log_role(spec: DeploymentSpec) -> tuple[Resource[Properties], ...]:
    """Returns the tasks' role, if there is a record and no other role for them.

    Without a record, it is kept until the deployment is deleted: tasks of the last revision still write, and a rollback
    can return to it.
    """
    place = spec.config.log_place
    if place is None or spec.config.task_role_arn:
        return ()
    policy = policy_of([write_statement(spec.endpoint.region, *place)])
    return (Resource("inference log role", log_role_name(spec), role_properties(spec.endpoint, policy), spec.tags),)


def write_statement(region: str, bucket: str, prefix: str) -> PolicyStatement:
    """Returns the statement that allows writing the record, and nothing else."""
    return allow(["s3:PutObject"], f"arn:{partition_of(region)}:s3:::{bucket}/{prefix}/*")


def log_role_name(spec: DeploymentSpec) -> str:
    """Returns at most 63 of the 64 characters that IAM allows; roles are global, so the digest is of the region too."""
    unique = f"{spec.endpoint.region}/{spec.endpoint.name}/{spec.name}"
    return f"{log_roles_of(spec.endpoint)}{spec.name[:18]}-{hashlib.sha256(unique.encode()).hexdigest()[:8]}"


def log_roles_of(endpoint: EndpointSpec) -> str:
    """Returns the beginning of these names. Endpoint names contain no '_', so no other endpoint's roles begin so."""
    return f"{endpoint.full_name}_log-"
