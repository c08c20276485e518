"""Where an endpoint lives, or what a deployment stands behind instead.

Network and certificate count when the endpoint is made, with the first deployment or with create-endpoint.
"""

from __future__ import annotations

from pydantic import model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import Names, OptionGroup, option


class EndpointOptions(OptionGroup):
    """Options of the endpoint's network and listeners."""

    vpc: str | None = option(
        None,
        "VPC of a new endpoint; by default the account's default VPC",
        maps_to="EC2: VPC id",
        examples=["vpc-0a1b2c3d"],
        allowed="id of a VPC",
    )
    subnets: Names = option(
        (),
        "subnets of a new endpoint's load balancer and of the tasks",
        maps_to="EC2: subnet ids",
        examples=["subnet-a,subnet-b"],
        allowed="ids of subnets of that VPC",
    )
    security_groups: Names = option(
        (),
        "security groups of the tasks, beside the endpoint's own; with a load balancer of yours the only ones",
        maps_to="ECS service: awsvpcConfiguration.securityGroups",
        examples=["sg-0a1b2c3d,sg-4e5f6a7b"],
        allowed="ids of up to four security groups",
        max_length=4,
    )
    load_balancer_arn: str | None = option(
        None,
        "a load balancer of yours: its listener gets a rule for the deployment, nothing else of it is touched",
        maps_to="ELB load balancer",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:loadbalancer/app/shared/0a1b2c3d4e5f6a7b"],
        allowed="ARN of an Application Load Balancer",
    )
    listener_arn: str | None = option(
        None,
        "the same, by the listener that gets the rule",
        maps_to="ELB listener",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:listener/app/shared/0a1b2c3d4e5f6a7b/8c9d"],
        allowed="ARN of a listener",
    )
    target_group_arn: str | None = option(
        None,
        "a target group of yours (type ip) that the tasks are registered in; which paths lead there is up to you",
        maps_to="ECS service: loadBalancers.targetGroupArn",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:targetgroup/churn/0a1b2c3d4e5f6a7b"],
        allowed="ARN of a target group",
    )
    assign_public_ip: bool = option(
        True,
        "tasks get a public address; needed in subnets without NAT or VPC endpoints",
        maps_to="ECS service: assignPublicIp",
    )
    permissions_boundary: str | None = option(
        None,
        "policy that bounds the roles made for a new endpoint, by ARN",
        allowed="ARN of a policy",
        maps_to="IAM role: PermissionsBoundary",
        examples=["arn:aws:iam::123456789012:policy/boundary"],
    )
    role_path: str = option(
        "/",
        "path of the roles made for a new endpoint",
        pattern=r"^/([\x21-\x7e]+/)?$",
        allowed="/ or /NAME/",
        maps_to="IAM role: Path",
        examples=["/ml/"],
    )
    infrastructure_role_arn: str | None = option(
        None,
        "role with which ECS shifts traffic (any strategy but rolling); by default the endpoint gets one",
        allowed="ARN of a role that ecs.amazonaws.com may take on",
        maps_to="ECS service: loadBalancers.advancedConfiguration.roleArn",
        examples=["arn:aws:iam::123456789012:role/ecs-infrastructure"],
    )
    certificate_arn: str | None = option(
        None,
        "certificate of a new endpoint; it then answers on HTTPS",
        maps_to="ACM certificate; ELB listener: HTTPS",
        allowed="ARN of a certificate in the region",
        examples=["arn:aws:acm:us-east-2:123456789012:certificate/1a2b"],
    )

    @property
    def is_adopted(self) -> bool:
        """True when the deployment stands behind somebody else's load balancer."""
        return bool(self.load_balancer_arn or self.listener_arn or self.target_group_arn)

    @model_validator(mode="after")
    def _check_adoption(self) -> Self:
        if not self.is_adopted:
            return self
        if sum(map(bool, (self.load_balancer_arn, self.listener_arn, self.target_group_arn))) > 1:
            raise ValueError("one of load_balancer_arn, listener_arn and target_group_arn is enough")
        if not self.security_groups:
            raise ValueError("security_groups: name those that let your load balancer reach the tasks")
        if self.certificate_arn:
            raise ValueError("certificate_arn is of an endpoint made here; your listener has its own")
        return self
