"""What AWS documents: every error of every call has a meaning and a hint; lists are retried page by page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, quote

import botocore
import pytest
import stamina
from botocore.awsrequest import AWSResponse

from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.ecs_service import describe_service, remember_deletion
from mlflow_fargate.aws.error_table import _ROWS, classify
from mlflow_fargate.aws.resource_types.domain.certificate import CertificateType, find_certificates
from mlflow_fargate.aws.resource_types.iam import SecretsPolicyType
from mlflow_fargate.aws.resource_types.interfaces import wait_until_unused
from mlflow_fargate.aws.resource_types.load_balancer import tags_of
from mlflow_fargate.aws.resource_types.service import ServiceType
from mlflow_fargate.aws.resource_types.strategy import ROLLING, WANTED_TAG, read_strategy, refusal_of
from mlflow_fargate.aws.resource_types.task_definition import properties_of
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, ForeignResource, RolloutTimeout
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.properties import SecretsPolicyProperties
from mlflow_fargate.target import Target, TargetEnvironment
from support.error_page import PAGE, documented_errors, page
from support.policy_simulator import Body

DENIED = (
    403,
    "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>",
)


@pytest.fixture
def session() -> AwsSession:
    environment = TargetEnvironment(access_key_id="local", secret_access_key="local")
    return AwsSession(Target("fargate:/eu-west-1", "eu-west-1", environment=environment))


def answer(session: AwsSession, call: str, *answers: tuple[int, str]) -> list[str]:
    """Answers a call with these, the last one again and again; returns the bodies of the requests."""
    asked: list[str] = []

    def send(request: Any, **_: Any) -> AWSResponse:
        status, text = answers[min(len(asked), len(answers) - 1)]
        asked.append(str(request.body))
        return AWSResponse(request.url, status, {"x-amzn-RequestId": "r-1"}, Body(text.encode()))

    session._session.events.register_first(f"before-send.{call}", send)
    return asked


def test_every_documented_error_of_every_call_has_a_meaning_and_a_hint() -> None:
    faults = [(operation, code, classify(operation, code, "")) for operation, code in documented_errors()]

    assert len(faults) > 3000
    assert [(operation, code) for operation, code, fault in faults if fault.meaning == "unknown"] == []
    silent = {code for _, code, fault in faults if fault.meaning in ("user", "quota", "absent") and not fault.hint}
    assert silent == set()


def test_what_is_repeated_names_the_source_that_says_so_and_is_a_row_of_the_page() -> None:
    """A file of the Terraform AWS provider, or a page; what is not repeated needs none."""
    repeated = [row for row in _ROWS if row.meaning == "transient"]

    assert len(repeated) > 60
    assert [row for row in repeated if not re.fullmatch(r"\w+/\w+\.go|https://\S+", row.source)] == []
    assert [row for row in _ROWS if row.source and row not in repeated] == []
    written = PAGE.read_text(encoding="utf-8")
    assert [row for row in repeated if f"| {row.code} | {row.part} |" not in written] == []


def test_the_page_of_errors_is_current() -> None:
    """To write it: python tests/support/error_page.py."""
    written = PAGE.read_text(encoding="utf-8")

    if f"botocore {botocore.__version__})" in written:
        assert written == page()
    else:  # whose models have more or fewer errors
        assert "\n| all | ExpiredTokenException |" in written


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        ("SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z", "clock"),
        ("InvalidSignatureException", "Signature not yet current: 1 is still later than 2", "clock"),
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large", "clock"),
        ("AuthFailure", "AWS was not able to validate the provided access credentials", "get-caller-identity"),
        (
            "OperationNotPermitted",
            "This AWS account currently does not support creating load balancers.",
            "AWS Support",
        ),
        (
            "OperationNotPermitted",
            "Load balancer 'x' cannot be deleted because deletion protection is enabled",
            "turn off",
        ),
    ],
)
def test_what_services_spell_differently_has_the_same_hint(code: str, said: str, hint: str) -> None:
    assert hint in str(classify("elbv2:CreateLoadBalancer", code, said).hint)


def test_an_error_that_nobody_documented_is_shown_with_its_request_id(session: AwsSession) -> None:
    answer(session, "ecs.DescribeClusters", (400, json.dumps({"__type": "Strange", "message": "never seen"})))

    with pytest.raises(AwsError, match=r"never seen \(request ID r-1\)") as caught:
        session.call("ecs", "describe_clusters")
    assert "AWS Support with the request ID" in str(caught.value.hint)


def test_a_page_that_is_refused_for_now_is_requested_again_and_no_other(session: AwsSession) -> None:
    busy = (400, json.dumps({"__type": "UpdateInProgressException", "message": "busy"}))
    first = (200, json.dumps({"clusterArns": ["a", "b"], "nextToken": "more"}))
    asked = answer(session, "ecs.ListClusters", busy, first, busy, busy, (200, json.dumps({"clusterArns": ["c"]})))

    with stamina.set_testing(True, attempts=4):
        assert list(session.pages("ecs", "list_clusters", "clusterArns")) == ["a", "b", "c"]
    assert ["more" in body for body in asked] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("read", "missing"),
    [
        (lambda found: found["tasks"][0]["taskArn"], "AWS's answer to ecs:describe_tasks, tasks has no taskArn"),
        (lambda found: found["tasks"][1], "tasks has no item 1"),
        (lambda found: found["failures"], "AWS's answer to ecs:describe_tasks has no failures"),
    ],
)
def test_what_an_answer_lacks_is_named(session: AwsSession, read: Callable[[Any], Any], missing: str) -> None:
    answer(session, "ecs.DescribeTasks", (200, json.dumps({"tasks": [{"lastStatus": "RUNNING"}]})))
    found = session.call("ecs", "describe_tasks", cluster="c", tasks=["t"])

    assert found["tasks"][0].get("taskArn") is None
    with pytest.raises(AwsError, match=missing) as caught:
        read(found)
    assert "changed by hand" in str(caught.value.hint)


def test_an_answer_can_be_copied_and_written_like_any_document(session: AwsSession) -> None:
    document = {"tasks": [{"lastStatus": "RUNNING", "containers": [{"name": "model"}]}]}
    answer(session, "ecs.DescribeTasks", (200, json.dumps(document)))
    found = session.call("ecs", "describe_tasks", cluster="c", tasks=["t"])
    found.pop("ResponseMetadata")

    assert found == document == deepcopy(found)
    assert asdict(Found("arn", found))["properties"] == document  # type: ignore[arg-type]
    assert json.loads(json.dumps(found)) == document


@pytest.mark.parametrize("text", ["blue_green", "strategy=blue_green bake_time_minutes=soon", ""])
def test_a_strategy_tag_that_was_edited_by_hand_reads_as_rolling(text: str) -> None:
    service = {"tags": [{"key": WANTED_TAG, "value": text}]}

    assert (read_strategy(service), refusal_of(service)) == (ROLLING, None)


def test_a_task_definition_without_ports_or_with_an_empty_role_can_be_read() -> None:
    described = {"containerDefinitions": [{"name": "model", "image": "i"}], "cpu": "256", "memory": "512"}

    assert properties_of(described, {}).port == 0
    assert properties_of({**described, "taskRoleArn": ""}, {}) == properties_of(described, {})


@pytest.mark.parametrize(
    "resource",
    ["arn:aws:x:secret:a", ["arn:aws:x:secret:a"]],
    ids=["as one text, as the console writes it", "as a list"],
)
def test_a_policy_of_secrets_is_read_whatever_its_order(session: AwsSession, resource: object) -> None:
    statements = [
        {"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue"], "Resource": resource},
    ]
    document = quote(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    found = f"<PolicyDocument>{document}</PolicyDocument>"
    answer(session, "iam.GetRolePolicy", (200, f"<R><GetRolePolicyResult>{found}</GetRolePolicyResult></R>"))
    wanted = Resource("secrets policy", "p", SecretsPolicyProperties(()))

    seen = SecretsPolicyType(session).observe(wanted, {"execution role": "arn:aws:iam::1:role/r"})

    assert seen and seen.properties.secrets == ("arn:aws:x:secret:a",)


def test_a_policy_of_secrets_decrypts_through_their_services_only(session: AwsSession) -> None:
    asked = answer(session, "iam.PutRolePolicy", (200, "<R><ResponseMetadata/></R>"))
    wanted = Resource("secrets policy", "p", SecretsPolicyProperties(("arn:aws:x:secret:a",)))

    SecretsPolicyType(session).create(wanted, {"execution role": "arn:aws:iam::1:role/r"})

    (statement,) = (
        one for one in json.loads(parse_qs(asked[0])["PolicyDocument"][0])["Statement"] if "kms" in str(one)
    )
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": ["secretsmanager.*", "ssm.*"]}}


@pytest.fixture
def quick() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


@pytest.mark.usefixtures("quick")
def test_a_service_that_is_shown_as_active_after_our_deletion_is_read_again(session: AwsSession) -> None:
    deleted = {"serviceName": "churn", "createdAt": datetime.fromtimestamp(1000, timezone.utc)}
    active = (200, json.dumps({"services": [{"serviceName": "churn", "status": "ACTIVE", "createdAt": 1000}]}))
    draining = (200, json.dumps({"services": [{"serviceName": "churn", "status": "DRAINING", "createdAt": 1000}]}))
    again = (200, json.dumps({"services": [{"serviceName": "churn", "status": "ACTIVE", "createdAt": 2000}]}))
    asked = answer(session, "ecs.DescribeServices", active, active, draining, again)
    remember_deletion(session, "mlflow-fargate-default", deleted)

    first = describe_service(session, "mlflow-fargate-default", "churn")
    second = describe_service(session, "mlflow-fargate-default", "churn")

    assert first and second
    assert (first["status"], second["status"], len(asked)) == ("DRAINING", "ACTIVE", 4)


@pytest.mark.usefixtures("quick")
def test_an_outdated_read_is_repeated_within_an_observation(session: AwsSession) -> None:
    deleted = {"serviceName": "churn", "createdAt": datetime.fromtimestamp(1000, timezone.utc)}
    active = (200, json.dumps({"services": [{"serviceName": "churn", "status": "ACTIVE", "createdAt": 1000}]}))
    asked = answer(session, "ecs.DescribeServices", active, active, (200, json.dumps({"services": []})))
    remember_deletion(session, "mlflow-fargate-default", deleted)

    with session.observation():
        session.call("ecs", "describe_services", cluster="mlflow-fargate-default", services=["churn"], include=["TAGS"])
        assert describe_service(session, "mlflow-fargate-default", "churn") is None
    assert len(asked) == 3


@pytest.mark.usefixtures("quick")
def test_what_ecs_lists_as_not_deleted_is_deleted_again_and_then_an_error(session: AwsSession) -> None:
    gone = {"arn": "arn:1", "reason": "MISSING"}
    kept = {"arn": "arn:2", "reason": "INVALID_STATE", "detail": "still ACTIVE"}
    some, all_gone = (200, json.dumps({"failures": [gone, kept]})), (200, json.dumps({"failures": [gone]}))
    asked = answer(session, "ecs.DeleteTaskDefinitions", some, some, all_gone, some)
    both = {"taskDefinitions": ["arn:1", "arn:2"]}

    session.delete("ecs", "delete_task_definitions", **both)
    assert len(asked) == 3
    with pytest.raises(AwsError, match=r"AWS did not delete arn:2 \(INVALID_STATE\): still ACTIVE") as raised:
        session.delete("ecs", "delete_task_definitions", **both)
    assert len(asked) == 3 + 5
    assert "finishes the deletion" in str(raised.value.hint)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("code", "is_error"), [("ImageNotFound", False), ("ImageReferencedByManifestList", True)])
def test_an_image_that_ecr_does_not_delete_is_an_error(session: AwsSession, code: str, is_error: bool) -> None:
    failure = {"imageId": {"imageTag": "churn.1"}, "failureCode": code, "failureReason": "it is used"}
    asked = answer(session, "ecr.BatchDeleteImage", (200, json.dumps({"failures": [failure]})))
    repository = Repository(session, "default", {})

    with pytest.raises(AwsError, match=r"churn\.1.*it is used") if is_error else nullcontext():
        repository.delete_images(["churn.1"])
    assert len(asked) == 1


def shown_while_deleting(session: AwsSession, *running: int) -> list[str]:
    """Deletes a service with so many running tasks at each look, the last number for ever; returns what is shown."""
    states = [{"status": "DRAINING" if count else "INACTIVE", "runningCount": count} for count in running]
    looks = [(200, json.dumps({"services": [{"serviceName": "churn", **state}]})) for state in states]
    answer(session, "ecs.DeleteService", (200, json.dumps({"service": {"serviceName": "churn"}})))
    answer(session, "ecs.DescribeServices", *looks)
    time = Minutes()
    services = ServiceType(session, lambda: time.seconds, time.sleep)
    services.tell = time.shown.append
    services.delete(Found("arn:aws:ecs:eu-west-1:1:service/mlflow-fargate-default/churn", Properties()))
    return time.shown


def test_a_deletion_shows_how_many_tasks_are_still_stopping(session: AwsSession) -> None:
    shown = [text.split(",")[0] for text in shown_while_deleting(session, 2, 1, 0)]

    assert shown == [f"waiting for {count} task(s) of 'churn' that are stopping" for count in (2, 1)]


def test_a_deletion_whose_tasks_do_not_stop_says_how_many(session: AwsSession) -> None:
    with pytest.raises(RolloutTimeout, match="After 15 minutes, ECS still has 1 task") as raised:
        shown_while_deleting(session, 2, 1)
    assert "run the same command again" in str(raised.value.hint)


def interfaces(*described: str, managed: bool = True) -> tuple[int, str]:
    items = "".join(
        f"<item><networkInterfaceId>eni-{number}</networkInterfaceId><description>{text}</description>"
        f"<requesterManaged>{str(managed).lower()}</requesterManaged></item>"
        for number, text in enumerate(described)
    )
    return 200, f"<R><networkInterfaceSet>{items}</networkInterfaceSet></R>"


BALANCER = "ELB app/mlflow-fargate-default/0123"
TASK = "arn:aws:ecs:eu-west-1:123456789012:attachment/0123"


class Minutes:
    """A clock that only moves by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.shown: list[str] = []

    def wait(self, session: AwsSession) -> None:
        wait_until_unused(session, "sg-1", self.shown.append, lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_security_group_waits_for_the_interfaces_that_aws_removes_late(session: AwsSession) -> None:
    asked = answer(
        session, "ec2.DescribeNetworkInterfaces", interfaces(BALANCER, TASK), interfaces(BALANCER), interfaces()
    )
    minutes = Minutes()

    minutes.wait(session)

    assert (len(asked), len(minutes.shown)) == (3, 2)
    assert "2 network interface(s)" in minutes.shown[0] and "Ctrl-C is safe" in minutes.shown[0]


def test_what_another_owner_put_in_the_security_group_is_named_at_once(session: AwsSession) -> None:
    answer(session, "ec2.DescribeNetworkInterfaces", interfaces("AWS Lambda VPC ENI-scoring"))
    minutes = Minutes()

    with pytest.raises(ForeignResource, match=r"eni-0 \(AWS Lambda VPC ENI-scoring\) still uses it"):
        minutes.wait(session)
    assert minutes.seconds == 0


def test_after_twenty_minutes_the_same_command_finishes_the_deletion(session: AwsSession) -> None:
    answer(session, "ec2.DescribeNetworkInterfaces", interfaces(BALANCER))
    minutes = Minutes()

    with pytest.raises(RolloutTimeout, match="after 20 minutes") as caught:
        minutes.wait(session)
    assert "run the same command again" in str(caught.value.hint)
    assert 1200 <= minutes.seconds <= 1210


def test_without_permission_to_look_the_deletion_goes_ahead(session: AwsSession) -> None:
    answer(session, "ec2.DescribeNetworkInterfaces", DENIED)

    Minutes().wait(session)


IN_USE = (400, '{"__type": "ResourceInUseException", "message": "The certificate is in use."}')
CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/0123"


def delete_certificate(session: AwsSession, *answers: tuple[int, str]) -> tuple[list[str], Minutes]:
    """Deletes a certificate without a validation record; returns the requests, and what was shown in which time."""
    answer(session, "acm.DescribeCertificate", (200, '{"Certificate": {"Status": "ISSUED"}}'))
    asked, minutes = answer(session, "acm.DeleteCertificate", *answers), Minutes()
    certificates = CertificateType(session, lambda: minutes.seconds, minutes.sleep)
    certificates.tell = minutes.shown.append
    with stamina.set_testing(True, attempts=1):
        certificates.delete(Found(CERTIFICATE, Properties()))
    return asked, minutes


def test_a_certificate_waits_until_its_listener_has_released_it(session: AwsSession) -> None:
    asked, minutes = delete_certificate(session, IN_USE, IN_USE, IN_USE, (200, "{}"))

    assert len(asked) == 4
    assert minutes.shown == [
        f"waiting for AWS to release certificate {CERTIFICATE} from its listener, for up to 20 minutes; Ctrl-C is safe"
    ]


def test_a_certificate_that_stays_in_use_says_how_to_finish(session: AwsSession) -> None:
    with pytest.raises(AwsError, match="in use") as caught:
        delete_certificate(session, IN_USE)

    assert "run the command again" in str(caught.value.hint)


GONE = (400, "<R><Error><Code>TargetGroupNotFound</Code><Message>One or more are not found</Message></Error></R>")


def described(arn: str) -> tuple[int, str]:
    """DescribeTags' answer on one target group."""
    tag = "<member><Key>managed-by</Key><Value>mlflow-fargate</Value></member>"
    one = f"<member><ResourceArn>{arn}</ResourceArn><Tags>{tag}</Tags></member>"
    return 200, f"<R><DescribeTagsResult><TagDescriptions>{one}</TagDescriptions></DescribeTagsResult></R>"


def test_what_another_command_deletes_between_two_reads_has_no_tags(session: AwsSession) -> None:
    asked = answer(session, "elastic-load-balancing-v2.DescribeTags", GONE, described("arn:a"), GONE)

    assert tags_of(session, ["arn:a", "arn:b"]) == {"arn:a": {"managed-by": "mlflow-fargate"}, "arn:b": {}}
    assert len(asked) == 3
    with pytest.raises(AwsError, match="TargetGroupNotFound"):
        tags_of(session, ["arn:b"])


def test_a_certificate_of_others_that_is_deleted_between_two_reads_is_passed_by(session: AwsSession) -> None:
    listed = [{"CertificateArn": CERTIFICATE, "DomainName": "a.example.com"}]
    answer(session, "acm.ListCertificates", (200, json.dumps({"CertificateSummaryList": listed})))
    answer(session, "acm.ListTagsForCertificate", (400, '{"__type": "ResourceNotFoundException", "message": "gone"}'))

    assert list(find_certificates(session, {"managed-by": "mlflow-fargate"})) == []
