"""Sends messages to SNS topics."""

from __future__ import annotations

from dataclasses import replace

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.target import Target

# https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: printable ASCII in one line, fewer than 100 characters.
_SUBJECT_CHARACTERS = 99


class Topic:
    """A topic by its ARN, which names the region; `publish` raises AwsError if AWS refuses."""

    def __init__(self, target: Target, arn: str) -> None:
        self._session = AwsSession(replace(target, region=arn.split(":")[3]))
        self._arn = arn

    def publish(self, subject: str, message: str) -> None:
        """Sends one message; characters that a subject cannot contain are removed."""
        fit = "".join(one for one in subject if " " <= one <= "~")[:_SUBJECT_CHARACTERS].strip()
        self._session.call("sns", "publish", TopicArn=self._arn, Subject=fit or "mlflow-fargate", Message=message)
