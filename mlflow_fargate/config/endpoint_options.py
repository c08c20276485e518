"""The network of an endpoint, or the existing load balancer that a deployment uses instead.

Network and certificate apply when the endpoint is created, with the first deployment or with create-endpoint.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import Arn, Names, OptionGroup, option

# Options of the load balancer that deployments share: a deployment's update does not repeat them.
OF_THE_LOAD_BALANCER = ("load_balancer_subnets", "scheme", "allowed_cidrs", "certificate_arn", "domain")


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
        "subnets for the tasks; by default, those of the load balancer",
        maps_to="ECS service: awsvpcConfiguration.subnets",
        examples=["subnet-a,subnet-b"],
        allowed="IDs of subnets in one VPC",
    )
    load_balancer_subnets: Names = option(
        (),
        "subnets for the endpoint's load balancer; by default, a public subnet in each zone of the VPC",
        maps_to="ELB load balancer: Subnets",
        examples=["subnet-c,subnet-d"],
        allowed="IDs of subnets in at least two availability zones",
    )
    scheme: Literal["internet-facing", "internal"] | None = option(
        None,
        "who can reach a new endpoint's load balancer: the internet (default) or only the VPC and networks connected "
        "to it",
        maps_to="ELB load balancer: Scheme",
        examples=["internal"],
    )
    allowed_cidrs: Names = option(
        (),
        "addresses that can reach the endpoint's load balancer; by default, all that its scheme allows",
        maps_to="EC2 security group: IpRanges, Ipv6Ranges",
        examples=["10.0.0.0/8,203.0.113.7/32"],
        allowed="CIDR blocks",
        max_length=25,
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
    load_balancer_arn: Arn = option(
        None,
        "existing load balancer to use; a rule for the deployment is added to its listener, and nothing else is "
        "changed",
        maps_to="ELB load balancer",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:loadbalancer/app/shared/0a1b2c3d4e5f6a7b"],
        allowed="ARN of an Application Load Balancer",
    )
    listener_arn: Arn = option(
        None,
        "existing listener to use; a rule for the deployment is added to it",
        maps_to="ELB listener",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:listener/app/shared/0a1b2c3d4e5f6a7b/8c9d"],
        allowed="ARN of a listener",
    )
    target_group_arn: Arn = option(
        None,
        "existing target group (type ip) to register the tasks with; you define the rules that route to it",
        maps_to="ECS service: loadBalancers.targetGroupArn",
        examples=["arn:aws:elasticloadbalancing:us-east-2:123456789012:targetgroup/churn/0a1b2c3d4e5f6a7b"],
        allowed="ARN of a target group",
    )
    assign_public_ip: bool | None = option(
        None,
        "give tasks a public IP address; by default, if their subnets are public (a route to an internet gateway)",
        maps_to="ECS service: assignPublicIp",
    )
    permissions_boundary: Arn = option(
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
    infrastructure_role_arn: Arn = option(
        None,
        "role that ECS uses to shift traffic (all strategies except rolling); by default, one is created",
        allowed="ARN of a role that ecs.amazonaws.com can assume",
        maps_to="ECS service: loadBalancers.advancedConfiguration.roleArn",
        examples=["arn:aws:iam::123456789012:role/ecs-infrastructure"],
    )
    certificate_arn: Arn = option(
        None,
        "certificate for a new endpoint; turns on HTTPS",
        maps_to="ACM certificate; ELB listener: HTTPS",
        allowed="the ARN of a certificate in the region",
        examples=["arn:aws:acm:us-east-2:123456789012:certificate/1a2b"],
    )

    domain: str | None = option(
        None,
        "domain of this deployment, with HTTPS: requests a certificate, and creates the DNS records if the domain's "
        "hosted zone is in the account; otherwise prints them and waits. Implies host",
        maps_to="ACM certificate; Route 53 records; ELB listener: HTTPS",
        allowed="a domain of at most 64 characters",
        max_length=64,
        pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$",
        examples=["churn.example.com"],
    )
    require_https: bool = option(
        False,
        "refuse to deploy to an endpoint or listener without HTTPS, where API keys and inputs could be read in transit",
        maps_to="checked before anything is created",
    )

    @field_validator("allowed_cidrs")
    @classmethod
    def _check_cidrs(cls, cidrs: tuple[str, ...]) -> tuple[str, ...]:
        for cidr in cidrs:
            try:
                ipaddress.ip_network(cidr)
            except ValueError as error:
                raise ValueError(f"'{cidr}' is not a CIDR block such as 10.0.0.0/8: {error}") from error
        return cidrs

    @property
    def is_adopted(self) -> bool:
        """True if the deployment uses an existing load balancer."""
        return bool(self.load_balancer_arn or self.listener_arn or self.target_group_arn)

    @model_validator(mode="after")
    def _check_adoption(self) -> Self:
        if self.domain and self.certificate_arn:
            raise ValueError("domain requests its own certificate; with certificate_arn, use host instead")
        if not self.is_adopted:
            return self
        if sum(map(bool, (self.load_balancer_arn, self.listener_arn, self.target_group_arn))) > 1:
            raise ValueError("use only one of load_balancer_arn, listener_arn and target_group_arn")
        if not self.security_groups:
            raise ValueError(
                "security_groups is required: list security groups that allow the load balancer to reach the tasks"
            )
        for name in OF_THE_LOAD_BALANCER:
            if getattr(self, name):
                raise ValueError(f"{name} only applies to a load balancer of mlflow-fargate, not to an existing one")
        return self
