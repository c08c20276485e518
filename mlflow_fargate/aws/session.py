"""Makes every call to AWS, with one retry policy and one translation of errors.

botocore retries throttling and server errors; `error_table` lists what else is retried. A ClientError is raised as an
`AwsError` with operation and code, so that callers can check `error.code` and users read one sentence.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import boto3
import stamina
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSOError,
    TokenRetrievalError,
)

from mlflow_fargate.aws import error_table
from mlflow_fargate.aws.s3 import make_s3_client
from mlflow_fargate.errors import AwsError, did_you_mean
from mlflow_fargate.target import Target

# The default of three attempts gives up after four seconds of throttling: too short for a busy account.
_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 10},
    connect_timeout=10,
    read_timeout=60,
    user_agent_extra="mlflow-fargate",
)
# Roles and load balancers become visible within seconds; Terraform waits two minutes for the same.
_RETRY = stamina.RetryingCaller(timeout=120, attempts=None, wait_initial=1.0, wait_max=10.0)
_ABSENT = ("MISSING", "ImageNotFound")  # among the failures in an answer
_READS = ("describe_", "list_", "get_")
_REGION_IN_ADDRESS = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.")


class AwsSession:
    """The account and region of a target; `call` and `pages` call its services."""

    def __init__(self, target: Target) -> None:
        self.target = target
        environment = target.environment
        try:
            self._session = boto3.Session(
                region_name=target.region,
                profile_name=target.profile,
                aws_access_key_id=environment.access_key_id,
                aws_secret_access_key=environment.secret_access_key,
            )
        except ProfileNotFound as error:
            raise AwsError(
                f"{error}.",
                operation="configure",
                code="ProfileNotFound",
                hint="list the profiles with: aws configure list-profiles",
            ) from error
        if not self._session.region_name:
            raise AwsError(
                "No AWS region is set.",
                operation="configure",
                code="NoRegion",
                hint="add it to the target (fargate:/us-east-2) or set AWS_REGION",
            )
        self.region: str = self._session.region_name
        self._endpoint_url = environment.aws_endpoint_url
        self._clients: dict[str, Any] = {}
        # (cluster, service) → what ECS answered to the last change made through this session; see ecs_service.py.
        self.own_changes: dict[tuple[str, str], dict[str, Any]] = {}
        # Service → what was read of it and stays true; see reading/status.py.
        self.kept: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._artifacts = environment.artifacts

    @functools.cached_property
    def account(self) -> str:
        """The account ID. As the first call, it is where missing credentials show."""
        return str(self.call("sts", "get_caller_identity")["Account"])

    def client(self, service: str) -> Any:
        """Returns the boto3 client of a service. Clients can be shared between threads; their session cannot."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._session.client(service, config=_CONFIG, endpoint_url=self._endpoint_url)
            return self._clients[service]

    def artifacts_client(self) -> Any:
        """Returns a client for MLflow's artifacts: at MLFLOW_S3_ENDPOINT_URL with the credentials in the environment,
        as in MLflow; otherwise in this account."""
        settings = self._artifacts
        if settings.endpoint_url and settings.endpoint_url != self._endpoint_url:
            return make_s3_client(boto3.Session(region_name=self.region), settings.endpoint_url, settings)
        return make_s3_client(self._session, self._endpoint_url, settings)

    @contextlib.contextmanager
    def observation(self) -> Iterator[None]:
        """Within it, a read that is repeated returns what AWS answered first: one look at what exists.

        It ends with the block, with a write, or with `end_observation`, so it lasts no longer than the reads for one
        plan. It belongs to one thread; in a block inside of the block it continues.
        """
        if self._known is not None:
            yield
            return
        self._of_thread.known = {}
        try:
            yield
        finally:
            self.end_observation()

    def end_observation(self) -> None:
        """Makes the next reads call AWS: before a wait, and before a check of what has changed meanwhile."""
        self._of_thread.known = None

    @property
    def _known(self) -> dict[str, dict[str, Any]] | None:
        return getattr(self._of_thread, "known", None)

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Returns the response of one operation; raises AwsError if AWS refuses, after retrying transient errors."""
        if not operation.startswith(_READS):
            self.end_observation()
        known, read = self._known, repr((service, operation, sorted(parameters.items())))
        if known is not None and read in known:
            return known[read]
        answer = _RETRY(_is_transient, self._call_once, service, operation, parameters)
        if known is not None:
            known[read] = answer
        return answer

    def find(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any] | None:
        """Returns the response of one operation; None if what it is about does not exist."""
        try:
            return self.call(service, operation, **parameters)
        except AwsError as error:
            if error.meaning != "absent":
                raise
            return None

    def delete(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Returns the response of an operation that deletes something; empty if it is already gone.

        What the answer lists as not deleted is an AwsError too: for seconds, ECS may list what was just deregistered.
        """
        return _RETRY(_is_transient, self._delete_all, service, operation, parameters)

    def _delete_all(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer = self.find(service, operation, **parameters) or {}
        for failure in answer.get("failures", ()):
            code = str(failure.get("failureCode") or failure.get("reason"))
            if code not in _ABSENT:
                raise AwsError(
                    f"AWS did not delete {failure.get('arn') or failure.get('imageId')} ({code}): "
                    f"{failure.get('failureReason') or failure.get('detail') or 'no reason given'}",
                    operation=f"{service}:{operation}",
                    code=code,
                    hint="run the same command again; it finishes the deletion",
                    meaning="transient" if service == "ecs" else "user",
                )
        return answer

    def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> Iterator[Any]:
        """Yields every item under `key` of all pages of a response."""
        paginator = self.client(service).get_paginator(operation)
        # Each page is a call of its own, retried like any other; paginators have no public way to do so.
        paginator._method = functools.partial(self.call, service, operation)
        try:
            for page in paginator.paginate(**parameters):
                yield from page[key]
        except BotoCoreError as error:
            raise _translate(service, operation, error) from error

    def _call_once(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self.client(service), operation)(**parameters)
        except (ClientError, BotoCoreError) as error:
            raise _translate(service, operation, error) from error
        return Answer(answer, f"AWS's answer to {service}:{operation}")


class Answer(dict[str, Any]):
    """What AWS answered: a missing key, or item of a list in it, is an AwsError that names the place."""

    # `where` has a default because dataclasses.asdict calls the class with the pairs alone.
    def __init__(self, content: Mapping[str, Any] | Iterable[tuple[str, Any]], where: str = "AWS's answer") -> None:
        super().__init__({key: _read(value, f"{where}, {key}") for key, value in dict(content).items()})
        self._where = where

    def __missing__(self, key: str) -> Any:
        raise _incomplete(self._where, key)


class _Items(list[Any]):
    def __init__(self, items: Iterable[Any], where: str = "AWS's answer") -> None:
        super().__init__(_read(item, where) for item in items)
        self._where = where

    def __getitem__(self, index: Any) -> Any:
        try:
            return super().__getitem__(index)
        except IndexError as error:
            raise _incomplete(self._where, f"item {index}") from error


def _read(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return Answer(value, where)
    return _Items(value, where) if isinstance(value, list) else value


def _incomplete(where: str, what: str) -> AwsError:
    hint = "it may have been changed by hand; run the command again, and report this if it fails again"
    return AwsError(f"{where} has no {what}.", operation=where, code="IncompleteAnswer", hint=hint)


def _is_transient(error: Exception) -> bool:
    return isinstance(error, AwsError) and error.meaning == "transient"


def _translate(service: str, operation: str, error: ClientError | BotoCoreError) -> AwsError:
    action = f"{service}:{''.join(part.capitalize() for part in operation.split('_'))}"
    if isinstance(error, NoCredentialsError):
        hint = "run `aws configure` or `aws sso login`, or set AWS_PROFILE"
        return AwsError("No AWS credentials were found.", operation=action, code="NoCredentials", hint=hint)
    if isinstance(error, NoRegionError):
        return AwsError("No AWS region is set.", operation=action, code="NoRegion", hint="set AWS_REGION")
    if not isinstance(error, ClientError):
        message = f"Could not call {action}: {error}"
        return AwsError(message, operation=action, code=type(error).__name__, hint=_connection_hint(error))
    code = str(error.response.get("Error", {}).get("Code", "Unknown"))
    said = error.response.get("Error", {}).get("Message", "")
    message = f"AWS refused {action} ({code}): {said}"
    fault = error_table.classify(action, code, said)
    if fault.meaning == "unknown" and (request := error.response.get("ResponseMetadata", {}).get("RequestId")):
        message += f" (request ID {request})"
    return AwsError(message, operation=action, code=code, hint=fault.hint, meaning=fault.meaning)


def _connection_hint(error: BotoCoreError) -> str | None:
    """What to do if the call did not reach AWS; None if there is nothing to add to botocore's message."""
    if isinstance(error, (SSOError, TokenRetrievalError)):
        return "sign in again: aws sso login"
    if isinstance(error, PartialCredentialsError):
        return "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, ProxyConnectionError):
        return "check HTTPS_PROXY"
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError)):
        named = _REGION_IN_ADDRESS.search(str(error.kwargs.get("endpoint_url", "")))
        regions = boto3.Session().get_available_regions("ecs")
        if named and named[1] not in regions:
            return "; ".join(
                filter(None, (f"boto3 does not know region '{named[1]}'", did_you_mean(named[1], regions)))
            )
        return "check that this machine can reach AWS; behind a proxy, set HTTPS_PROXY"
    return None
