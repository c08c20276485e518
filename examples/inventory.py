"""Counts the resources that deployments have left in an account, by type."""

from __future__ import annotations

import boto3


def inventory() -> dict[str, int]:
    """Counts by type, without the shared endpoint (cluster, load balancer, roles, repository, its locks)."""
    ecs, elb, logs = boto3.client("ecs"), boto3.client("elbv2"), boto3.client("logs")
    clusters = ecs.list_clusters()["clusterArns"]
    services = [arn for cluster in clusters for arn in ecs.list_services(cluster=cluster)["serviceArns"]]
    definitions = [
        arn
        for status in ("ACTIVE", "INACTIVE")
        for arn in ecs.list_task_definitions(status=status)["taskDefinitionArns"]
    ]
    balancers = elb.describe_load_balancers()["LoadBalancers"]
    listeners = [
        listener
        for balancer in balancers
        for listener in elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    ]
    rules = [
        rule
        for listener in listeners
        for rule in elb.describe_rules(ListenerArn=listener["ListenerArn"])["Rules"]
        if not rule["IsDefault"]
    ]
    return {
        "services": len(services),
        "task definitions": len(definitions),
        "target groups": len(elb.describe_target_groups()["TargetGroups"]),
        "listener rules": len(rules),
        "log groups": len(logs.describe_log_groups(logGroupNamePrefix="/mlflow-fargate/")["logGroups"]),
        "scaling targets": len(
            boto3.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
        ),
        "secrets": len(boto3.client("secretsmanager").list_secrets()["SecretList"]),
        "images": _count_images(),
    }


def _count_images() -> int:
    ecr = boto3.client("ecr")
    names = [repository["repositoryName"] for repository in ecr.describe_repositories()["repositories"]]
    images = [image for name in names for image in ecr.list_images(repositoryName=name)["imageIds"]]
    return sum(not image.get("imageTag", "").startswith("_lock-") for image in images)
