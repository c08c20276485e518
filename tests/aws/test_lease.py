"""One of several holds the lease: against two servers that take conditional writes as S3 does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlflow_fargate.aws.lease import S3Lease
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError
from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer
from mlflow_fargate.target import Target, TargetEnvironment

SECONDS = 30.0
_keys = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module", params=["moto", "the local stack"])
def endpoint_url(
    request: pytest.FixtureRequest, s3_endpoint_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "moto":
        yield s3_endpoint_url
        return
    s3 = S3App(tmp_path_factory.mktemp("s3"), keys=Keys("test", "test"))
    with WsgiServer(s3) as server:
        yield server.url
    s3.close()


@pytest.fixture(scope="module")
def session(endpoint_url: str) -> AwsSession:
    environment = TargetEnvironment(aws_endpoint_url=endpoint_url, access_key_id="test", secret_access_key="test")
    session = AwsSession(Target("fargate:/local", region="us-east-1", environment=environment))
    session.client("s3").create_bucket(Bucket="leases")
    return session


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica(session: AwsSession, clock: Clock) -> Callable[[str], S3Lease]:
    uri = f"s3://leases/some where/{next(_keys)}.json"
    return lambda name: S3Lease(session, uri, name, SECONDS, clock)


def test_only_one_of_two_holds_it(replica: Callable[[str], S3Lease]) -> None:
    first, second = replica("a"), replica("b")

    assert (first.renew(), second.renew(), first.renew(), second.renew()) == (True, False, True, False)
    assert (first.is_held, second.is_held) == (True, False)


def test_one_of_many_that_come_at_once_gets_it(replica: Callable[[str], S3Lease]) -> None:
    leases = [replica(f"r{number}") for number in range(12)]
    with ThreadPoolExecutor(len(leases)) as pool:
        taken = list(pool.map(S3Lease.renew, leases))

    assert taken.count(True) == 1


def test_a_holder_that_dies_is_followed_by_another_once_its_time_is_over(
    replica: Callable[[str], S3Lease], clock: Clock
) -> None:
    dead, heir = replica("dead"), replica("heir")
    dead.renew()
    taken_after = None
    for seconds in range(0, 60, 10):
        if heir.renew():
            taken_after = seconds
            break
        clock.now += 10

    assert taken_after == 30
    assert heir.is_held and not dead.is_held


def test_a_holder_that_writes_keeps_it_however_long(replica: Callable[[str], S3Lease], clock: Clock) -> None:
    holder, other = replica("a"), replica("b")
    for _ in range(20):
        assert holder.renew()
        assert not other.renew()
        clock.now += 10


def test_a_holder_that_is_cut_off_stops_before_another_can_take_it(
    replica: Callable[[str], S3Lease], clock: Clock
) -> None:
    cut_off, other = replica("a"), replica("b")
    cut_off.renew()
    other.renew()
    clock.now += SECONDS - 1

    assert not other.renew()
    assert not cut_off.is_held


def test_who_lost_it_meanwhile_waits(replica: Callable[[str], S3Lease], clock: Clock) -> None:
    slow, quick = replica("a"), replica("b")
    slow.renew()
    quick.renew()
    clock.now += SECONDS
    quick.renew()

    assert (quick.is_held, slow.renew(), slow.is_held) == (True, False, False)


def test_who_gives_it_back_lets_another_in_at_once(replica: Callable[[str], S3Lease]) -> None:
    first, second = replica("a"), replica("b")
    first.renew()
    second.renew()
    first.release()

    assert (first.is_held, second.renew(), first.renew()) == (False, True, False)


def test_giving_back_what_another_has_takes_nothing_from_it(replica: Callable[[str], S3Lease], clock: Clock) -> None:
    slow, quick = replica("a"), replica("b")
    slow.renew()
    quick.renew()
    clock.now += SECONDS
    quick.renew()
    slow.release()

    assert quick.renew()


def test_a_write_whose_answer_was_lost_is_still_ours(
    replica: Callable[[str], S3Lease], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = replica("a")
    holder.renew()
    call = holder._session.call

    def lose_the_answer(*told: Any, **named: Any) -> Any:
        call(*told, **named)
        raise AwsError("the connection broke", operation="s3:PutObject", code="ConnectionClosedError")

    with monkeypatch.context() as patch:
        patch.setattr(holder._session, "call", lose_the_answer)
        with pytest.raises(AwsError):
            holder.renew()
    assert holder.is_held  # by the write before
    assert holder.renew()


def test_a_bucket_that_is_not_there_is_an_error_and_not_a_lost_lease(session: AwsSession) -> None:
    with pytest.raises(AwsError, match="NoSuchBucket"):
        S3Lease(session, "s3://nowhere/lease", "a", SECONDS).renew()


def test_the_object_is_readable_and_small(session: AwsSession) -> None:
    S3Lease(session, "s3://leases/readable.json", "host-1", SECONDS).renew()
    body = session.client("s3").get_object(Bucket="leases", Key="readable.json")["Body"]

    assert body.read() == b'{"holder": "host-1", "write": 0}'
