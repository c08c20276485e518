"""IAM: the roles that ECS uses to start tasks and to shift traffic, the webhook service's role, and a record's.

The role of a model's tasks is up to the user: by default there is none, or one that only writes the record of
predictions, and the model's code has no other access to AWS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.policies import Policy
from mlflow_fargate.resources.properties import RoleProperties, SecretsPolicyProperties

_FOR_SECRETS = {"StringLike": {"kms:ViaService": ["secretsmanager.*", "ssm.*"]}}


class RoleType(ResourceType[RoleProperties]):
    """A role with one inline policy; `purpose` is part of the policy's name, `trust` returns the trust policy."""

    def __init__(
        self, session: AwsSession, purpose: str, description: str, trust: Callable[[str], dict[str, Any]]
    ) -> None:
        super().__init__(session)
        self._policy_name = f"mlflow-fargate-{purpose}"
        self._description = f"mlflow-fargate: {description}"
        self._trust = trust

    def observe(self, resource: Resource[RoleProperties], ids: Ids) -> Found[RoleProperties] | None:
        answer = self._session.find("iam", "get_role", RoleName=resource.name)
        if answer is None:
            return None
        role = answer["Role"]
        policy = _read_policy(self._session, resource.name, self._policy_name)
        properties = replace(resource.properties, policy=policy)
        return Found(role["Arn"], properties, tags.are_ours(tags.read(role.get("Tags"))))

    def create(self, resource: Resource[RoleProperties], ids: Ids) -> str:
        boundary = resource.properties.permissions_boundary
        role = self._session.call(
            "iam",
            "create_role",
            RoleName=resource.name,
            Path=resource.properties.path,
            AssumeRolePolicyDocument=json.dumps(self._trust(self._session.account)),
            Description=self._description,
            Tags=tags.capital(resource.tags),
            **({"PermissionsBoundary": boundary} if boundary else {}),
        )["Role"]
        self._put_policy(resource)
        return str(role["Arn"])

    def change(self, resource: Resource[RoleProperties], found: Found[RoleProperties], ids: Ids) -> str:
        self._put_policy(resource)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        name = found.identifier.rpartition("/")[2]
        for policy in self._session.pages("iam", "list_role_policies", "PolicyNames", RoleName=name):
            self._session.delete("iam", "delete_role_policy", RoleName=name, PolicyName=policy)
        self._session.delete("iam", "delete_role", RoleName=name)

    def _put_policy(self, resource: Resource[RoleProperties]) -> None:
        document = json.dumps(resource.properties.policy)
        self._session.call(
            "iam", "put_role_policy", RoleName=resource.name, PolicyName=self._policy_name, PolicyDocument=document
        )


class SecretsPolicyType(ResourceType[SecretsPolicyProperties]):
    """Lets the endpoint's execution role read the secrets that one deployment names."""

    def observe(self, resource: Resource[SecretsPolicyProperties], ids: Ids) -> Found[SecretsPolicyProperties] | None:
        role = _role_name(ids)
        policy = _read_policy(self._session, role, resource.name) if role else None
        if role is None or policy is None:
            return None
        return Found(f"{role}/{resource.name}", SecretsPolicyProperties(_secrets_of(policy)))

    def create(self, resource: Resource[SecretsPolicyProperties], ids: Ids) -> str:
        role = _role_name(ids)
        actions = ["secretsmanager:GetSecretValue", "ssm:GetParameters"]
        # Of secrets under a customer managed key; the key's policy decides too.
        # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
        decrypt = {"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": "*", "Condition": _FOR_SECRETS}
        statement = {"Effect": "Allow", "Action": actions, "Resource": resource.properties.secrets}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement, decrypt]})
        self._session.call("iam", "put_role_policy", RoleName=role, PolicyName=resource.name, PolicyDocument=document)
        return f"{role}/{resource.name}"

    def change(
        self, resource: Resource[SecretsPolicyProperties], found: Found[SecretsPolicyProperties], ids: Ids
    ) -> str:
        return self.create(resource, ids)

    def delete(self, found: Found[Properties]) -> None:
        role, _, policy = found.identifier.partition("/")
        self._session.delete("iam", "delete_role_policy", RoleName=role, PolicyName=policy)


def task_trust(account: str) -> dict[str, Any]:
    """Returns a trust policy for ECS tasks of this account only, to prevent the confused deputy problem.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html
    """
    return _trust("ecs-tasks.amazonaws.com", {"StringEquals": {"aws:SourceAccount": account}})


def infrastructure_trust(account: str) -> dict[str, Any]:
    """Returns a trust policy for ECS, on behalf of this account only; AWS does not document that ECS always says so.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AmazonECSInfrastructureRolePolicyForLoadBalancers.html
    """
    return _trust("ecs.amazonaws.com", {"StringEqualsIfExists": {"aws:SourceAccount": account}})


def _trust(service: str, condition: dict[str, Any]) -> dict[str, Any]:
    principal = {"Service": service}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _secrets_of(policy: Policy) -> tuple[str, ...]:
    """The secrets that a policy allows reading, however it was edited."""
    resources = [one["Resource"] for one in policy["Statement"] if "secretsmanager:GetSecretValue" in one["Action"]]
    listed = [[one] if isinstance(one, str) else one for one in resources]
    return tuple(sorted(arn for arns in listed for arn in arns))


def _role_name(ids: Ids) -> str | None:
    arn = ids.get("execution role")
    return arn.rpartition("/")[2] if arn else None


def _read_policy(session: AwsSession, role: str, policy: str) -> Policy | None:
    answer = session.find("iam", "get_role_policy", RoleName=role, PolicyName=policy)
    document = answer["PolicyDocument"] if answer else None
    read: Policy | None = json.loads(document) if isinstance(document, str) else document
    return read
