"""A client that dies just before or just after any of its writes is finished by running the same command again.

Death is an exception that nothing catches, raised below boto3; a dead client reaches AWS no more.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.reading import history
from mlflow_fargate.aws.reading.history import never_rolled_out
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import Orphan
from mlflow_fargate.deployments import cleanup, variants
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import DeploymentExists, DeploymentNotFound
from support.deployer import QUICK, READS, PreparingPublisher

pytestmark = pytest.mark.slow

# No tasks: every write is made, and no process has to start.
OPTIONS = {
    **QUICK,
    "auth": "api_key",
    "desired_count": 0,
    "secrets": {"TOKEN": "arn:aws:secretsmanager:x"},
    "inference_log": "s3://logs/churn",
}
# Each changes another resource: target group and rule, log group, the tasks' role, task definition, service,
# autoscaling.
CHANGES = {
    "inference_log": "s3://logs/other",
    "port": 8099,
    "log_retention_days": 7,
    "cpu": 1024,
    "memory": 4096,
    "follow": "@champion",
    "min_count": 0,
    "max_count": 2,
    "target_cpu_percent": 70,
    "target_requests_per_minute": 600,
    "schedule": {"night": "cron(0 20 * * ? *) 0"},
    "max_error_rate": 5,
}
# Makes the infrastructure role, the second target group and the test rule.
SHIFTING = {"strategy": "blue_green", "bake_time_minutes": 0, "cpu": 1024, "memory": 4096, "max_latency_p99_ms": 250}
# Removes what the changes added: autoscaling and the alarm.
WITHOUT = {"max_count": "", "max_error_rate": ""}


# With a task, because a variant without healthy tasks gets no share of the requests.
CHALLENGER = {**QUICK, "variant_of": "churn", "auth": "api_key", "traffic": 10}

# What state_of calls the things that a deployment has for itself.
DEPLOYMENTS_OWN = {"service", "ACTIVE", "INACTIVE", "rule", "target", "log", "secret", "log-role"}


class Killed(BaseException):
    """What kill -9 is to a process."""


@dataclass
class Reaper:
    """Counts the writes of one client, and ends it before or after number `at`."""

    at: int | None = None
    after: bool = False
    writes: int = 0
    is_dead: bool = False

    def watch(self, account: Account) -> None:
        account.session._session.events.register("before-call.*", self._before)
        account.session._session.events.register("after-call.*", self._after)

    def _before(self, model: Any, **_: Any) -> None:
        if self.is_dead:
            raise Killed
        if not READS.match(model.name):
            self.writes += 1
            self._end_if(self.writes == self.at and not self.after)

    def _after(self, model: Any, **_: Any) -> None:
        self._end_if(not READS.match(model.name) and self.writes == self.at and self.after)

    def _end_if(self, is_time: bool) -> None:
        if is_time:
            self.is_dead = True
            raise Killed


def new_client(deployer: Deployer, reaper: Reaper | None = None) -> Deployer:
    account = Account(deployer.target, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    if reaper:
        reaper.watch(account)
    return replace(
        deployer, account=account, make_publisher=lambda: PreparingPublisher(deployer.publisher.image, account)
    )  # type: ignore[arg-type,attr-defined]


def create(client: Deployer) -> None:
    client.create("churn", "models:/churn/Production", None, NamedOptions(OPTIONS))


def create_or_find_done(client: Deployer) -> None:
    """Killed after its last write, create has nothing left to do, and says so."""
    try:
        create(client)
    except DeploymentExists:
        assert client.get("churn").state == "COMPLETED"


def update(client: Deployer) -> None:
    client.update("churn", "models:/churn/2", None, NamedOptions(CHANGES))


def shift(client: Deployer) -> None:
    client.update("churn", "models:/churn/2", None, NamedOptions(SHIFTING))


def reset(client: Deployer) -> None:
    client.update("churn", None, None, NamedOptions(WITHOUT))


def delete(client: Deployer) -> None:
    client.delete("churn")


def delete_endpoint(client: Deployer) -> None:
    client.delete_endpoint("default")


def nothing(client: Deployer) -> None:
    pass


def create_and_update(client: Deployer) -> None:
    create(client)
    update(client)


def create_and_shift(client: Deployer) -> None:
    create(client)
    shift(client)


def create_and_delete(client: Deployer) -> None:
    create(client)
    delete(client)


def challenge(client: Deployer) -> None:
    client.create("churn-challenger", "models:/churn/2", None, NamedOptions(CHALLENGER))


def challenge_or_find_done(client: Deployer) -> None:
    challenge(client)
    assert client.endpoint.shares("churn") == {"churn": 90, "churn-challenger": 10}


def divide(client: Deployer) -> None:
    variants.divide(client, "churn", {"challenger": 25})


def promote(client: Deployer) -> None:
    variants.promote(client, "churn", "challenger")


def promote_or_drop(client: Deployer) -> None:
    """Killed after it deleted the variant's service, it is finished by the deletion that its message names."""
    try:
        promote(client)
    except DeploymentNotFound:
        drop(client)


def drop(client: Deployer) -> None:
    client.delete("churn-challenger")


def create_and_challenge(client: Deployer) -> None:
    create(client)
    challenge(client)


Act = Callable[[Deployer], None]
VERBS: dict[str, tuple[Act, Act, Act]] = {
    "create": (nothing, create, create_or_find_done),
    "update": (create, update, update),
    "shift": (create, shift, shift),
    "reset": (create_and_update, reset, reset),
    "delete": (create_and_update, delete, delete),
    "delete after a shift": (create_and_shift, delete, delete),
    "variant": (create, challenge, challenge_or_find_done),
    "traffic": (create_and_challenge, divide, divide),
    "promote": (create_and_challenge, promote, promote_or_drop),
    "drop": (create_and_challenge, drop, drop),
    "delete_endpoint": (create_and_delete, delete_endpoint, delete_endpoint),
}


@pytest.fixture
def clean(deployer: Deployer) -> Iterator[Deployer]:
    deployer.account.session.call("s3", "create_bucket", Bucket="logs")
    yield deployer
    wipe(deployer)


def wipe(deployer: Deployer) -> None:
    client = new_client(deployer)
    drop(client)
    delete(client)
    delete_endpoint(client)


@pytest.mark.parametrize(
    ("which", "verb"),
    [
        *(("one", verb) for verb in ("create", "update", "delete", "variant", "delete_endpoint")),
        *(pytest.param("every", verb, marks=pytest.mark.exhaustive) for verb in VERBS),
    ],
)
@pytest.mark.timeout(1500)
def test_a_verb_that_was_killed_is_finished_by_running_it_again(clean: Deployer, verb: str, which: str) -> None:
    prepare, act, again = VERBS[verb]
    prepare(new_client(clean))
    undisturbed = Reaper()
    act(new_client(clean, undisturbed))
    wanted = state_of(clean)
    moments = [(at, after) for at in range(1, undisturbed.writes + 1) for after in (False, True)]
    chosen = moments if which == "every" else [moments[len(moments) // 3]]

    differing = []
    for at, after in chosen:
        wipe(clean)
        prepare(new_client(clean))
        reaper = Reaper(at, after)
        with pytest.raises(Killed):
            act(new_client(clean, reaper))
        again(new_client(clean))
        if state_of(clean) != wanted:
            differing.append((at, after))
    print(f"{verb}: {undisturbed.writes} writes, {len(chosen) - len(differing)} of {len(chosen)}")
    assert (differing, state_of(clean)) == ([], wanted)


@pytest.mark.parametrize("which", ["few", pytest.param("every", marks=pytest.mark.exhaustive)])
@pytest.mark.timeout(1500)
def test_what_a_killed_create_left_is_found_and_deleted(clean: Deployer, which: str) -> None:
    """By `gc` for what has no service or cluster, and by the deletion of the endpoint for what has one."""
    undisturbed = Reaper()
    create(new_client(clean, undisturbed))
    moments = [(at, after) for at in range(1, undisturbed.writes + 1) for after in (False, True)]

    missed = []
    # The first writes make the repository, and of an endpoint that was never finished nothing else is there.
    for at, after in moments if which == "every" else [moments[1], moments[len(moments) * 2 // 3]]:
        wipe(clean)
        with pytest.raises(Killed):
            create(new_client(clean, Reaper(at, after)))
        for orphan in list(clean.account.orphans()):
            cleanup.collect(new_client(clean), orphan)
        kept = {what.split()[0] for what in state_of(clean)} & DEPLOYMENTS_OWN
        if next(new_client(clean).list(), None) is None and kept:
            missed.append((at, after, kept))
        if at <= 2 and state_of(clean):
            missed.append((at, after, {"repository"}))
    print(f"gc after create: {len(moments)} moments, missed {missed}")
    assert missed == []


def test_a_revision_of_a_killed_update_is_found_after_an_hour_if_another_update_came_first(
    clean: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(new_client(clean))

    def update_to(client: Deployer, version: int) -> None:
        client.update("churn", f"models:/churn/{version}", None, NamedOptions({}))

    reaper = Reaper(at=2)  # it has registered the revision, and not updated the service
    with pytest.raises(Killed):
        client = new_client(clean, reaper)
        client = replace(client, make_publisher=clean.make_publisher)
        update_to(client, 2)
    session, cluster = clean.account.session, clean.endpoint.cluster
    current, *_ = [revision for revision in clean.endpoint.revisions("churn") if revision.is_current]
    newest, *_ = clean.endpoint.revisions("churn")
    assert (newest.number, newest.state) == (current.number + 1, "UNKNOWN")

    def found(**later: float) -> list[str]:
        return never_rolled_out(session, cluster, "churn", datetime.now(timezone.utc) + timedelta(**later))

    assert found() == []  # a command may be about to roll it out
    assert found(days=91) == []  # its record may be gone
    assert found(hours=2) == [newest.task_definition]
    monkeypatch.setattr(history, "_ROLLING_OUT", timedelta(seconds=-10))
    (orphan,) = clean.account.orphans()
    assert orphan == Orphan("default", "churn", (newest.task_definition,), is_deployed=True)
    cleanup.collect(new_client(clean), orphan)

    assert list(clean.account.orphans()) == []
    assert [revision.number for revision in clean.endpoint.revisions("churn")] == [current.number]
    assert clean.get("churn").state == "COMPLETED"
    update_to(new_client(clean), 3)
    assert list(clean.account.orphans()) == []


def test_deleting_deployment_and_endpoint_leaves_nothing_with_our_tag_or_name(clean: Deployer) -> None:
    create_and_update(new_client(clean))
    assert len(state_of(clean)) >= 15

    wipe(clean)

    assert state_of(clean) == {}


def state_of(deployer: Deployer) -> dict[str, str]:
    """All that is ours in every service, by tag or by name, without what differs between two that are alike."""
    session = deployer.account.session
    return {name: _without_identifiers(what) for name, what in _everything(session)}


def _everything(session: Any) -> Iterator[tuple[str, Any]]:
    yield from _containers(session)
    yield from _balancers(session)
    yield from _rights(session)
    yield from _stores(session)
    yield from _scaling(session)
    for alarm in session.pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix="mlflow-fargate-"):
        keep = ("Threshold", "Metrics", "EvaluationPeriods", "DatapointsToAlarm", "TreatMissingData")
        yield f"alarm {alarm['AlarmName']}", {key: alarm.get(key) for key in keep}


def _containers(session: Any) -> Iterator[tuple[str, Any]]:
    call, pages = session.call, session.pages
    for arn in pages("ecs", "list_clusters", "clusterArns"):
        cluster = call("ecs", "describe_clusters", clusters=[arn], include=["TAGS"])["clusters"][0]
        if cluster["status"] == "ACTIVE":
            yield f"cluster {cluster['clusterName']}", [cluster["capacityProviders"], cluster["tags"]]
            for service in pages("ecs", "list_services", "serviceArns", cluster=arn):
                found = call("ecs", "describe_services", cluster=arn, services=[service], include=["TAGS"])
                keep = ("status", "desiredCount", "loadBalancers", "networkConfiguration", "taskDefinition", "tags")
                keep += ("deploymentConfiguration",)
                yield f"service {service}", {key: found["services"][0].get(key) for key in keep}
    for status in ("ACTIVE", "INACTIVE"):
        for number, arn in enumerate(pages("ecs", "list_task_definitions", "taskDefinitionArns", status=status)):
            described = call("ecs", "describe_task_definition", taskDefinition=arn, include=["TAGS"])
            definition = described["taskDefinition"]
            keep = ("containerDefinitions", "cpu", "memory", "status")
            yield (
                f"{status} {definition['family']} {number}",
                [{key: definition[key] for key in keep}, described["tags"]],
            )


def _balancers(session: Any) -> Iterator[tuple[str, Any]]:
    call, pages = session.call, session.pages
    for balancer in pages("elbv2", "describe_load_balancers", "LoadBalancers"):
        arn = balancer["LoadBalancerArn"]
        attributes = call("elbv2", "describe_load_balancer_attributes", LoadBalancerArn=arn)["Attributes"]
        yield f"load balancer {balancer['LoadBalancerName']}", [attributes, _tags(session, arn)]
        for listener in pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=arn):
            yield f"listener {listener['Port']}", _tags(session, listener["ListenerArn"])
            for rule in pages("elbv2", "describe_rules", "Rules", ListenerArn=listener["ListenerArn"]):
                if not rule["IsDefault"]:
                    yield (
                        f"rule {rule['Priority']}",
                        [rule["Conditions"], rule["Actions"], _tags(session, rule["RuleArn"])],
                    )
    for group in pages("elbv2", "describe_target_groups", "TargetGroups"):
        arn = group["TargetGroupArn"]
        attributes = call("elbv2", "describe_target_group_attributes", TargetGroupArn=arn)["Attributes"]
        yield f"target group {group['TargetGroupName']}", [attributes, group["Port"], _tags(session, arn)]


def _rights(session: Any) -> Iterator[tuple[str, Any]]:
    call, pages = session.call, session.pages
    for group in pages("ec2", "describe_security_groups", "SecurityGroups"):
        if group["GroupName"] != "default":
            yield f"security group {group['GroupName']}", [group["IpPermissions"], group.get("Tags")]
    for role in pages("iam", "list_roles", "Roles"):
        if role["RoleName"].startswith("mlflow-fargate"):
            names = sorted(pages("iam", "list_role_policies", "PolicyNames", RoleName=role["RoleName"]))
            read = [call("iam", "get_role_policy", RoleName=role["RoleName"], PolicyName=name) for name in names]
            kind = "log-role" if "_log-" in role["RoleName"] else "role"
            yield f"{kind} {role['RoleName']}", [policy["PolicyDocument"] for policy in read]


def _stores(session: Any) -> Iterator[tuple[str, Any]]:
    call, pages = session.call, session.pages
    for log_group in pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix="/mlflow-fargate"):
        yield f"log group {log_group['logGroupName']}", log_group.get("retentionInDays")
    for secret in pages("secretsmanager", "list_secrets", "SecretList"):
        yield f"secret {secret['Name']}", secret.get("Tags")
    for repository in pages("ecr", "describe_repositories", "repositories"):
        name = repository["repositoryName"]
        if name.startswith("mlflow-fargate/"):
            policy = call("ecr", "get_lifecycle_policy", repositoryName=name)["lifecyclePolicyText"]
            yield f"repository {name}", [repository["imageTagMutability"], policy]


def _scaling(session: Any) -> Iterator[tuple[str, Any]]:
    kinds = ("scalable_targets", "scaling_policies", "scheduled_actions")
    keep = re.compile("Capacity|PolicyName|Configuration|Action|Schedule|Timezone")
    for kind in kinds:
        key = "".join(part.capitalize() for part in kind.split("_"))
        for found in session.pages("application-autoscaling", f"describe_{kind}", key, ServiceNamespace="ecs"):
            name = found.get("PolicyName") or found.get("ScheduledActionName") or found["ResourceId"]
            yield f"{kind} {name}", {key: value for key, value in found.items() if keep.search(key)}


def _tags(session: Any, arn: str) -> Any:
    return session.call("elbv2", "describe_tags", ResourceArns=[arn])["TagDescriptions"][0]["Tags"]


def _without_identifiers(what: Any) -> str:
    text = json.dumps(what, sort_keys=True, default=str)
    text = re.sub(r"(secret:mlflow-fargate/[\w/]+)-\w{6}", r"\1", text)
    # Revisions are numbered on after a family was deleted.
    text = re.sub(r"(task-definition/[\w-]+):\d+", r"\1", text)
    # What the test header has to show is made at random with its rule.
    text = re.sub(r'"[0-9a-f]{32}"', '"VALUE"', text)
    return re.sub(r"(?<=[/-])[0-9a-f]{16,17}\b", "ID", text)
