"""The resources of the webhook service: those of a deployment, with a task role instead of an API key.

The role can create, update and delete deployments on one endpoint, and nothing else: it cannot create endpoints or
write roles, and can only pass the roles with which ECS pulls images and shifts traffic. An attacker who compromises the
service can reach only its deployments.
"""

from __future__ import annotations

from mlflow_fargate.partitions import partition_of
from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resources.deployment import parent_resources
from mlflow_fargate.resources.endpoint import role_properties
from mlflow_fargate.resources.inference_log import log_roles_of
from mlflow_fargate.resources.names import ENDPOINT_TAG
from mlflow_fargate.resources.policies import Policy, PolicyStatement, allow, policy_of
from mlflow_fargate.resources.properties import RoleProperties
from mlflow_fargate.resources.service import service_properties, task_properties
from mlflow_fargate.resources.specs import EndpointSpec, WebhookSpec

# These actions do not support resources, or list all of them.
# https://docs.aws.amazon.com/service-authorization/latest/reference/
_READ = (
    "application-autoscaling:DescribeScalableTargets",
    "application-autoscaling:DescribeScalingPolicies",
    "application-autoscaling:DescribeScheduledActions",
    "cloudwatch:DescribeAlarms",
    "ec2:DescribeInternetGateways",
    "ec2:DescribeRouteTables",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcEndpoints",
    "ec2:DescribeVpcs",
    "ecr:GetAuthorizationToken",
    "ecs:DeregisterTaskDefinition",
    "ecs:DescribeClusters",
    "ecs:DescribeServiceRevisions",
    "ecs:DescribeServices",
    "ecs:DescribeTaskDefinition",
    "ecs:DescribeTasks",
    "ecs:ListClusters",
    "ecs:ListServiceDeployments",
    "ecs:ListServices",
    "ecs:ListTaskDefinitions",
    "ecs:ListTasks",
    "elasticloadbalancing:DescribeListeners",
    "elasticloadbalancing:DescribeLoadBalancerAttributes",
    "elasticloadbalancing:DescribeLoadBalancers",
    "elasticloadbalancing:DescribeRules",
    "elasticloadbalancing:DescribeTags",
    "elasticloadbalancing:DescribeTargetGroupAttributes",
    "elasticloadbalancing:DescribeTargetGroups",
    "elasticloadbalancing:DescribeTargetHealth",
    "logs:DescribeLogGroups",
)
_IMAGES = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchDeleteImage",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:DescribeImages",
    "ecr:DescribeRepositories",
    "ecr:GetDownloadUrlForLayer",
    "ecr:GetLifecyclePolicy",
    "ecr:InitiateLayerUpload",
    "ecr:ListImages",
    "ecr:ListTagsForResource",
    "ecr:PutImage",
    "ecr:PutLifecyclePolicy",
    "ecr:UploadLayerPart",
)
_SERVICES = (
    "ecs:CreateService",
    "ecs:DeleteService",
    "ecs:DeleteTaskDefinitions",
    "ecs:RegisterTaskDefinition",
    "ecs:TagResource",
    "ecs:UntagResource",
    "ecs:UpdateService",
)
_RULES = tuple(f"elasticloadbalancing:{one}" for one in ("AddTags", "CreateRule", "DeleteRule", "ModifyRule"))
_TARGET_GROUP_CHANGES = (
    "elasticloadbalancing:DeleteTargetGroup",
    "elasticloadbalancing:ModifyTargetGroup",
    "elasticloadbalancing:ModifyTargetGroupAttributes",
)
_LOGS = (
    "logs:CreateLogGroup",
    "logs:DeleteLogGroup",
    "logs:GetLogEvents",
    "logs:ListTagsForResource",
    "logs:PutRetentionPolicy",
    "logs:TagResource",
)
_API_KEYS = (
    "secretsmanager:CreateSecret",
    "secretsmanager:DeleteSecret",
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:RestoreSecret",
    "secretsmanager:TagResource",
)
_ALARMS = tuple(f"cloudwatch:{one}" for one in ("DeleteAlarms", "ListTagsForResource", "PutMetricAlarm", "TagResource"))
# For strategies that shift traffic, once the new tasks have passed a test (with the API key).
_SHIFTS = ("ecs:ContinueServiceDeployment", "ecs:DescribeServiceDeployments")


def webhook_resources(spec: WebhookSpec) -> tuple[Resource[Properties], ...]:
    """Returns all resources of the webhook service on an existing endpoint."""
    task = task_properties(spec)
    definition = Resource("task definition", spec.family, task, spec.tags)
    service = Resource("service", spec.name, service_properties(spec, task.digest), spec.tags)
    log_group, *others = parent_resources(spec)
    if spec.config.task_role_arn:
        # One that was created earlier is deleted once no task uses it.
        return (log_group, *others, definition, service, _task_role(spec, is_wanted=False))
    return (log_group, _task_role(spec), *others, definition, service)


def _task_role(spec: WebhookSpec, *, is_wanted: bool = True) -> Resource[RoleProperties]:
    policy = webhook_policy(
        spec.endpoint,
        artifact_buckets=spec.artifact_buckets,
        lease=spec.config.environment.get("FARGATE_WEBHOOK_LEASE"),
        topic=spec.config.environment.get("FARGATE_WEBHOOK_NOTIFY_TOPIC_ARN"),
    )
    properties = role_properties(spec.endpoint, policy)
    return Resource("task role", spec.role_name, properties, spec.tags, is_wanted=is_wanted)


def webhook_policy(
    endpoint: EndpointSpec,
    *,
    artifact_buckets: tuple[str, ...] = (),
    lease: str | None = None,
    topic: str | None = None,
) -> Policy:
    """Returns the policy of the service for deployments on `endpoint` only; with its `lease` and `topic`, if any."""
    name = endpoint.name
    roles = endpoint.arn("iam", f"role{endpoint.role_path}", is_global=True)
    role = endpoint.execution_role_arn or f"{roles}{endpoint.execution_role_name}"
    shifting_role = endpoint.infrastructure_role_arn or f"{roles}{endpoint.infrastructure_role_name}"
    log_roles = f"{roles}{log_roles_of(endpoint)}*"
    logs = endpoint.arn("logs", f"log-group:/mlflow-fargate/{name}/*")
    groups = endpoint.arn("elasticloadbalancing", "targetgroup/mlf-*")
    listeners = (f"{kind}/app/{endpoint.full_name}/*" for kind in ("listener", "listener-rule"))
    services = (f"service/{endpoint.full_name}/*", f"task-definition/{endpoint.full_name}_*")
    rollouts = (f"service-deployment/{endpoint.full_name}/*", f"service/{endpoint.full_name}/*")
    statements = [
        allow(_READ, "*"),
        allow(_IMAGES, endpoint.arn("ecr", f"repository/mlflow-fargate/{name}")),
        allow(_SERVICES, *(endpoint.arn("ecs", one) for one in services)),
        allow(_RULES, *(endpoint.arn("elasticloadbalancing", one) for one in listeners)),
        # Names of target groups are too short to contain the endpoint's; it is in their tags.
        allow(["elasticloadbalancing:CreateTargetGroup"], groups, if_equal={f"aws:RequestTag/{ENDPOINT_TAG}": name}),
        allow(
            ["elasticloadbalancing:AddTags"],
            groups,
            if_equal={"elasticloadbalancing:CreateAction": "CreateTargetGroup"},
        ),
        allow(_TARGET_GROUP_CHANGES, groups, if_equal={f"aws:ResourceTag/{ENDPOINT_TAG}": name}),
        allow(_SHIFTS, *(endpoint.arn("ecs", one) for one in rollouts)),
        allow(("iam:GetRole", "iam:GetRolePolicy"), role, shifting_role, log_roles),
        allow(("iam:DeleteRole", "iam:DeleteRolePolicy", "iam:ListRolePolicies"), log_roles),
        _pass_role(role, log_roles, to="ecs-tasks.amazonaws.com"),
        _pass_role(shifting_role, to="ecs.amazonaws.com"),
        allow(_LOGS, logs, f"{logs}:*"),
        allow(_ALARMS, endpoint.arn("cloudwatch", f"alarm:{endpoint.full_name}_*")),
        allow(_API_KEYS, endpoint.arn("secretsmanager", f"secret:mlflow-fargate/{name}/*")),
    ]
    return policy_of(
        [*statements, *_optional(f"arn:{partition_of(endpoint.region)}:s3:::", artifact_buckets, lease, topic)]
    )


def _optional(
    s3: str, artifact_buckets: tuple[str, ...], lease: str | None, topic: str | None
) -> list[PolicyStatement]:
    statements = []
    if artifact_buckets:
        statements.append(allow(["s3:ListBucket"], *(f"{s3}{bucket}" for bucket in artifact_buckets)))
        statements.append(allow(["s3:GetObject"], *(f"{s3}{bucket}/*" for bucket in artifact_buckets)))
    if lease:
        statements.append(allow(["s3:GetObject", "s3:PutObject"], f"{s3}{lease.removeprefix('s3://')}"))
    if topic:
        statements.append(allow(["sns:Publish"], topic))
    return statements


def _pass_role(*roles: str, to: str) -> PolicyStatement:
    return allow(["iam:PassRole"], *roles, if_equal={"iam:PassedToService": to})
