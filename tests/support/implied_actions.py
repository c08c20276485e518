"""Actions for which AWS checks permissions when the caller uses another action.

No call in the source code shows them; AWS's documentation lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_ELB = "https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-permissions.html"
_AUTOSCALING = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/auto-scaling-IAM.html"


class Implied(NamedTuple):
    """One row: a caller of `call` needs `actions` too, because of `gist`, documented at `source`."""

    call: str
    actions: tuple[str, ...]
    gist: str
    source: str


IMPLIED = (
    Implied(
        "elasticloadbalancing:CreateLoadBalancer",
        (
            "ec2:DescribeAccountAttributes",
            "ec2:DescribeAddresses",
            "ec2:DescribeInternetGateways",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcs",
            "iam:CreateServiceLinkedRole",
        ),
        "for some actions of Elastic Load Balancing, users need permission for actions of EC2 as well",
        _ELB,
    ),
    Implied(
        "elasticloadbalancing:CreateLoadBalancer",
        ("ec2:GetSecurityGroupsForVpc",),
        "since October 2024 AWS answers: not authorized to perform ec2:GetSecurityGroupsForVpc",
        "https://github.com/kubernetes-sigs/aws-load-balancer-controller/issues/3917",
    ),
    Implied(
        "elasticloadbalancing:CreateTargetGroup",
        ("ec2:DescribeInternetGateways", "ec2:DescribeVpcs"),
        "for some actions of Elastic Load Balancing, users need permission for actions of EC2 as well",
        _ELB,
    ),
    Implied(
        "elasticloadbalancing:SetSubnets",
        ("ec2:DescribeSubnets",),
        "for some actions of Elastic Load Balancing, users need permission for actions of EC2 as well",
        _ELB,
    ),
    Implied(
        "ecs:CreateCluster",
        ("iam:CreateServiceLinkedRole",),
        "ECS creates its service-linked role with the first cluster, if the caller is allowed to",
        "https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_CreateCluster.html",
    ),
    Implied(
        "application-autoscaling:RegisterScalableTarget",
        ("ecs:DescribeServices", "ecs:UpdateService", "iam:CreateServiceLinkedRole"),
        "callers need permission to describe and update the service; the first call creates a service-linked role",
        _AUTOSCALING,
    ),
    Implied(
        "application-autoscaling:PutScalingPolicy",
        ("cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:PutMetricAlarm"),
        "Application Auto Scaling creates a policy's alarms with its caller's permissions",
        _AUTOSCALING,
    ),
    Implied(
        "application-autoscaling:DeleteScalingPolicy",
        ("cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms"),
        "deleting a policy deletes the alarms that were created for it",
        "https://docs.aws.amazon.com/autoscaling/application/userguide/delete-target-tracking-policy.html",
    ),
    Implied(
        "application-autoscaling:DeregisterScalableTarget",
        ("cloudwatch:DeleteAlarms",),
        "deregistering a target deletes its policies and their alarms",
        "https://docs.aws.amazon.com/autoscaling/application/APIReference/API_DeregisterScalableTarget.html",
    ),
    Implied(
        "ecs:RegisterTaskDefinition",
        ("ecs:TagResource", "iam:PassRole"),
        "tags need ecs:TagResource, and a caller that names a role for a service needs permission to pass it",
        "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/supported-iam-actions-tagging.html",
    ),
    Implied(
        "ecs:CreateService",
        ("ecs:TagResource", "iam:PassRole"),
        "tags need ecs:TagResource, and the role with which ECS shifts traffic is passed to it",
        "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AmazonECSInfrastructureRolePolicyForLoadBalancers.html",
    ),
    Implied(
        "ec2:CreateSecurityGroup",
        ("ec2:CreateTags",),
        "callers who create a resource with tags need permission for ec2:CreateTags",
        "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html",
    ),
    *(
        Implied(
            f"elasticloadbalancing:Create{what}",
            ("elasticloadbalancing:AddTags",),
            "callers who create a resource with tags need permission for elasticloadbalancing:AddTags",
            "https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/tagging-resources-during-creation.html",
        )
        for what in ("LoadBalancer", "Listener", "Rule", "TargetGroup")
    ),
    Implied(
        "iam:CreateRole",
        ("iam:TagRole",),
        "callers who create a role with tags need permission for iam:TagRole",
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags_roles.html",
    ),
    Implied(
        "logs:CreateLogGroup",
        ("logs:TagResource",),
        "to attach tags when a log group is created, callers need permission for logs:TagResource",
        "https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html",
    ),
    Implied(
        "secretsmanager:CreateSecret",
        ("secretsmanager:TagResource",),
        "to include tags in a secret, callers need permission for secretsmanager:TagResource",
        "https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html",
    ),
    Implied(
        "cloudwatch:PutMetricAlarm",
        ("cloudwatch:TagResource",),
        "to set tags when an alarm is created, callers need permission for cloudwatch:TagResource",
        "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html",
    ),
    Implied(
        "ecr:CreateRepository",
        ("ecr:TagResource",),
        "callers who create a repository with tags need permission for ecr:TagResource",
        "https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html",
    ),
)


def with_implied(actions: Iterable[str]) -> set[str]:
    """Returns the actions, and those that AWS checks in addition."""
    called = set(actions)
    return called | {action for row in IMPLIED if row.call in called for action in row.actions}
