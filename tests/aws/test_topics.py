"""Messages to a topic arrive: moto's SNS, seen through a queue that listens to it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlflow_fargate.aws.topics import Topic
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import AwsError

pytestmark = pytest.mark.slow


def test_a_message_arrives_whatever_its_subject_holds(deployer: Deployer) -> None:
    client = deployer.account.session.client
    topic = client("sns").create_topic(Name="rollouts")["TopicArn"]
    queue = client("sqs").create_queue(QueueName="rollouts")["QueueUrl"]
    arn = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    Topic(deployer.target, topic).publish("churn\r\nBcc: ü " + "x" * 200, "version 3 of 'churn'\nis deployed ✓")

    (message,) = client("sqs").receive_message(QueueUrl=queue)["Messages"]
    told = json.loads(message["Body"])
    assert told["Message"] == "version 3 of 'churn'\nis deployed ✓"
    assert told["Subject"] == ("churnBcc:  " + "x" * 200)[:99]


def test_a_topic_that_is_not_there_is_an_error(deployer: Deployer) -> None:
    target = replace(deployer.target)
    with pytest.raises(AwsError, match="sns:Publish"):
        Topic(target, "arn:aws:sns:us-east-1:123456789012:nobody").publish("s", "m")
