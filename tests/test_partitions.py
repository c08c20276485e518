"""Partitions: GovCloud and China are other AWSs, with ARNs of their own."""

from __future__ import annotations

import json
import re

import boto3
import pytest
from click.testing import CliRunner

from mlflow_fargate.cli import main
from mlflow_fargate.config import parse_config
from mlflow_fargate.doctor.examination import wanted_statements
from mlflow_fargate.doctor_facts import Caller
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.partitions import check_partition, partition_of
from mlflow_fargate.resources import EndpointSpec, Network, execution_policy, infrastructure_policy, webhook_policy


@pytest.mark.parametrize(
    ("region", "partition"),
    [("us-east-1", "aws"), ("us-gov-west-1", "aws-us-gov"), ("cn-northwest-1", "aws-cn"), ("ca-central-1", "aws")],
)
def test_the_partition_of_a_region_is_the_one_that_boto3_knows(region: str, partition: str) -> None:
    assert partition_of(region) == partition == boto3.Session().get_partition_for_region(region)


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1"])
def test_every_arn_in_a_policy_is_in_the_regions_partition(region: str) -> None:
    endpoint = EndpointSpec("prod", Network("vpc-1", ()), region, "123456789012")
    lease = "s3://leases/key"
    printed = CliRunner().invoke(main, ["iam", "deployer", "--account", "123456789012", "--region", region]).stdout
    policies = [
        execution_policy(endpoint),
        infrastructure_policy(endpoint),
        webhook_policy(endpoint, artifact_buckets=("models",), lease=lease),
        json.loads(printed),
    ]
    simulated = wanted_statements(Caller("123456789012", "arn:any", region), "prod", parse_config({"max_count": 3}))

    found = re.findall(r"arn:[\w-]*", json.dumps([policies, simulated]))
    assert len(found) > 40
    assert set(found) == {f"arn:{partition_of(region)}"}


@pytest.mark.parametrize(
    "options", [{"certificate_arn": "arn:aws:acm:us-east-1:1:certificate/1"}, {"secrets.A": "arn:aws:secretsmanager:x"}]
)
def test_an_arn_of_another_partition_is_refused(options: dict[str, str]) -> None:
    named = parse_config(options).named

    check_partition(named, "us-east-1")
    with pytest.raises(InvalidOption, match=r"is in partition 'aws'; us-gov-west-1 is in 'aws-us-gov'"):
        check_partition(named, "us-gov-west-1")
