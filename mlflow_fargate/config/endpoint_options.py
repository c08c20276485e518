"""The network of an endpoint, or the existing load balancer that a deployment uses instead.

Network and certificate apply when the endpoint is created, with the first deployment or with create-endpoint.
"""

from __future__ import annotations

from pydantic import model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import Names, OptionGroup, option


class EndpointOptions(OptionGroup):
    """Options of the endpoint's network and listeners."""

    vpc: str | None = option(
        None,
        "VPC for a new endpoint; by default, the account's default VPC",
        maps_to="EC2: VPC ID",
        examples=["vpc-0a1b2c3d"],
        allowed="ID of a VPC",
    )
    subnets: Names = option(
        (),
        "subnets for the load balancer of a new endpoint, and for the tasks",
        maps_to="EC2: subnet IDs",
        examples=["subnet-a,subnet-b"],
        allowed="IDs of subnets in one VPC",
    )
    security_groups: Names = option(
        (),
        "security groups for the tasks, in addition to the endpoint's; with load_balancer_arn, listener_arn or "
        "target_group_arn, tasks have only these",
        maps_to="ECS service: awsvpcConfiguration.securityGroups",
        examples=["sg-0a1b2c3d,sg-4e5f6a7b"],
        allowed="IDs of up to four security groups",
        max_length=4,
    )
    load_balancer_arn: str | None = option(
        None,
        "existing load balancer to use; a rule for the deployment is added to its listener, and nothing else is "
        "changed",
        maps_to="ELB load balancer",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:loadbalancer/app/shared/0a1b2c3d4e5f6a7b"],
        allowed="ARN of an Application Load Balancer",
    )
    listener_arn: str | None = option(
        None,
        "existing listener to use; a rule for the deployment is added to it",
        maps_to="ELB listener",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:listener/app/shared/0a1b2c3d4e5f6a7b/8c9d"],
        allowed="ARN of a listener",
    )
    target_group_arn: str | None = option(
        None,
        "existing target group (type ip) to register the tasks with; you define the rules that route to it",
        maps_to="ECS service: loadBalancers.targetGroupArn",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:targetgroup/churn/0a1b2c3d4e5f6a7b"],
        allowed="ARN of a target group",
    )
    assign_public_ip: bool = option(
        True,
        "give tasks a public IP address; required in subnets without NAT or VPC endpoints",
        maps_to="ECS service: assignPublicIp",
    )
    permissions_boundary: str | None = option(
        None,
        "permissions boundary for the roles created with a new endpoint",
        allowed="ARN of a policy",
        maps_to="IAM role: PermissionsBoundary",
        examples=["arn:aws:iam::123456789012:policy/boundary"],
    )
    role_path: str = option(
        "/",
        "IAM path for the roles created with a new endpoint",
        pattern=r"^/([\x21-\x7e]+/)?$",
        allowed="/ or /NAME/",
        maps_to="IAM role: Path",
        examples=["/ml/"],
    )
    infrastructure_role_arn: str | None = option(
        None,
        "role that ECS uses to shift traffic (all strategies except rolling); by default, one is created",
        allowed="ARN of a role that ecs.amazonaws.com can assume",
        maps_to="ECS service: loadBalancers.advancedConfiguration.roleArn",
        examples=["arn:aws:iam::123456789012:role/ecs-infrastructure"],
    )
    certificate_arn: str | None = option(
        None,
        "certificate for a new endpoint; turns on HTTPS",
        maps_to="ACM certificate; ELB listener: HTTPS",
        allowed="ARN of a certificate in the region",
        examples=["arn:aws:acm:us-east-2:123456789012:certificate/1a2b"],
    )

    require_https: bool = option(
        False,
        "refuse to deploy to an endpoint or listener without HTTPS, where API keys and inputs could be read in transit",
        maps_to="checked before anything is created",
    )

    @property
    def is_adopted(self) -> bool:
        """True if the deployment uses an existing load balancer."""
        return bool(self.load_balancer_arn or self.listener_arn or self.target_group_arn)

    @model_validator(mode="after")
    def _check_adoption(self) -> Self:
        if not self.is_adopted:
            return self
        if sum(map(bool, (self.load_balancer_arn, self.listener_arn, self.target_group_arn))) > 1:
            raise ValueError("use only one of load_balancer_arn, listener_arn and target_group_arn")
        if not self.security_groups:
            raise ValueError(
                "security_groups is required: list security groups that allow the load balancer to reach the tasks"
            )
        if self.certificate_arn:
            raise ValueError(
                "certificate_arn only applies to a new endpoint; an existing listener has its own certificate"
            )
        return self
