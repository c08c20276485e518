"""Where an endpoint lives; these count when it is made, with the first deployment or with create-endpoint."""

from __future__ import annotations

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
    certificate_arn: str | None = option(
        None,
        "certificate of a new endpoint; it then answers on HTTPS",
        maps_to="ACM certificate; ELB listener: HTTPS",
        allowed="ARN of a certificate in the region",
        examples=["arn:aws:acm:eu-west-1:123456789012:certificate/1a2b"],
    )
