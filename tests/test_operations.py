"""Looking at a deployment and going back: decisions alone, then deployments on the local stack's AWS."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from click import BadParameter
from click.testing import CliRunner, Result

from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.aws.reading.history import LEFT_TAG, state_of
from mlflow_fargate.cli import main
from mlflow_fargate.cli.deployment.logs import parse_moment
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import LogLine, Revision, TaskStatus
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.logs import read_logs
from mlflow_fargate.deployments.roll_back import choose_revision, roll_back
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption, RolloutFailed
from mlflow_fargate.resolved_model import Provenance
from support.deployer import CRASHING, answer, count_writes, create, use_account
from support.registry import PushImage

Call = Callable[..., Result]


def revision(
    number: int, state: str = "COMPLETED", *, is_current: bool = False, at: int | None = None, was_left: bool = False
) -> Revision:
    provenance = Provenance(f"models:/churn/{number}", f"models:/churn/{number}", "f", "sklearn", "churn", str(number))
    moment = f"2026-11-24T21:{at if at is not None else number:02}:00+00:00"
    completed = moment if state == "COMPLETED" else None
    return Revision(
        number,
        f"arn:{number}",
        state,
        is_current,
        "image",
        provenance,
        {},
        moment,
        "arn:me",
        moment,
        completed,
        was_left,
    )


def test_going_back_means_the_last_revision_before_the_current_that_completed() -> None:
    revisions = [revision(4, is_current=True), revision(3, "FAILED", at=1), revision(2), revision(1)]

    assert choose_revision(revisions).number == 2


def test_going_back_twice_goes_further_back() -> None:
    revisions = [revision(3, was_left=True), revision(2, is_current=True, at=9), revision(1)]

    assert choose_revision(revisions).number == 1


def test_going_back_twice_within_a_second_goes_further_back() -> None:
    revisions = [revision(3, was_left=True, at=9), revision(2, is_current=True, at=9), revision(1)]

    assert choose_revision(revisions).number == 1


def test_going_back_goes_by_time_not_by_the_number_of_the_revision() -> None:
    assert choose_revision([revision(2, at=2), revision(1, is_current=True, at=3)]).number == 2


def test_going_back_never_leads_to_what_was_rolled_back_from() -> None:
    revisions = [revision(3, is_current=True, at=4), revision(2, was_left=True), revision(1, at=3)]

    assert choose_revision(revisions).number == 1


def test_a_revision_that_ecs_went_back_from_is_not_chosen_although_it_completed_once() -> None:
    again = revision(1, at=3, was_left=True)

    with pytest.raises(InvalidOption, match="rollout of revision 1 failed, and ECS already rolled back to 2"):
        choose_revision([revision(2, is_current=True), again])
    assert choose_revision([revision(4, is_current=True), revision(2), again]).number == 2


def test_going_back_while_a_bad_rollout_is_under_way_goes_to_what_served_before() -> None:
    revisions = [revision(3, "IN_PROGRESS", is_current=True), revision(2), revision(1)]

    assert choose_revision(revisions).number == 2


@pytest.mark.parametrize("state", ["IN_PROGRESS", "COMPLETED"])
@pytest.mark.parametrize("to", [None, 2])
def test_an_interrupted_rollback_is_finished_before_another_one_begins(state: str, to: int | None) -> None:
    left = replace(revision(3, was_left=True), unfinished_rollback_to=2)

    assert choose_revision([left, revision(2, state, is_current=True, at=4), revision(1)], to).number == 2
    assert choose_revision([left, revision(2), revision(1, is_current=True, at=4)], 2).number == 2


def test_after_a_rollback_by_ecs_a_further_one_needs_a_revision() -> None:
    revisions = [revision(3, "FAILED"), revision(2, is_current=True), revision(1)]

    with pytest.raises(InvalidOption, match="ECS already rolled back to 2"):
        choose_revision(revisions)
    assert choose_revision(revisions, 1).number == 1


@pytest.mark.parametrize(("to", "said"), [(7, "There is no revision 7"), (2, "Revision 2 is already deployed")])
def test_a_revision_that_makes_no_sense_is_refused(to: int, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        choose_revision([revision(2, is_current=True), revision(1)], to)


def test_a_first_revision_has_nothing_to_go_back_to() -> None:
    with pytest.raises(InvalidOption, match="No earlier revision"):
        choose_revision([revision(1, is_current=True)])


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([], "UNKNOWN"),
        (["IN_PROGRESS"], "IN_PROGRESS"),
        (["PENDING", "SUCCESSFUL"], "IN_PROGRESS"),
        (["SUCCESSFUL"], "COMPLETED"),
        (["ROLLBACK_SUCCESSFUL", "SUCCESSFUL"], "COMPLETED"),
        (["ROLLBACK_SUCCESSFUL"], "FAILED"),
        (["STOPPED", "ROLLBACK_FAILED"], "FAILED"),
    ],
)
def test_a_revision_completed_when_a_rollout_of_it_once_did(statuses: list[str], state: str) -> None:
    assert state_of(statuses) == state


def test_a_moment_is_an_age_or_a_date() -> None:
    assert abs(parse_moment(None, None, "10m") - (time.time() - 600) * 1000) < 60_000
    assert parse_moment(None, None, "1970-01-02T00:00") == 86_400_000
    assert parse_moment(None, None, "1970-01-02T01:00+01:00") == 86_400_000
    with pytest.raises(BadParameter, match="is not a duration"):
        parse_moment(None, None, "yesterday")


class StubAccount:
    """Log lines as CloudWatch gives them from look to look, of its only endpoint."""

    def __init__(self, looks: list[list[LogLine]]) -> None:
        self.looks = looks
        self.asked: list[int] = []

    def endpoint(self, name: str) -> StubAccount:
        return self

    def status(self, name: str) -> object:
        return object()

    def log_lines(self, name: str, since: int, task: str | None) -> list[LogLine]:
        self.asked.append(since)
        return [line for line in self.looks[min(len(self.asked), len(self.looks)) - 1] if line.at_milliseconds >= since]


def test_following_yields_each_line_once_including_late_ones(deployer_without_aws: Deployer) -> None:
    first, late, second = (
        LogLine("a", 100_000, "t", "a"),
        LogLine("b", 99_000, "t", "b"),
        LogLine("c", 200_000, "t", "c"),
    )
    account = StubAccount([[first], [late, first], [late, first, second], []])
    watched = replace(deployer_without_aws, account=account)  # type: ignore[arg-type]
    told = read_logs(watched, "churn", 0, follow=True, sleep=lambda _: None)

    assert [next(told).id for _ in range(3)] == ["a", "b", "c"]
    assert account.asked == [0, 85_000, 85_000]


class StubTasks:
    """An account whose deployments have these tasks."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def endpoint(self, name: str) -> StubTasks:
        return self

    def status(self, name: str) -> bool:
        return True

    def tasks(self, name: str) -> list[TaskStatus]:
        return [TaskStatus(id_, "RUNNING", 1) for id_ in self._ids]

    def log_lines(self, name: str, since: int, task: str) -> list[LogLine]:
        return [LogLine("a", 1, task, "first")]


@pytest.mark.parametrize(("given", "read"), [("a1", "a1b2"), ("c" * 32, "c" * 32)])
def test_logs_take_the_start_of_a_task_id_and_the_whole_id_of_an_old_task(
    given: str, read: str, deployer_without_aws: Deployer
) -> None:
    deployer = replace(deployer_without_aws, account=StubTasks("a1b2", "a2b3"))  # type: ignore[arg-type]

    assert [line.task for line in read_logs(deployer, "churn", 0, task=given)] == [read]


@pytest.mark.parametrize(("given", "reason"), [("zzz", "is not a task of 'churn'"), ("a", "start of several task IDs")])
def test_logs_of_an_unknown_task_list_the_tasks(given: str, reason: str, deployer_without_aws: Deployer) -> None:
    deployer = replace(deployer_without_aws, account=StubTasks("a1b2", "a2b3"))  # type: ignore[arg-type]

    with pytest.raises(InvalidOption, match=f"(?s){reason}.*pass one of a1b2, a2b3"):
        next(read_logs(deployer, "churn", 0, task=given))


@pytest.fixture
def deployer_without_aws() -> Deployer:
    from mlflow_fargate.progress import RecordedProgress
    from mlflow_fargate.target import Target

    return Deployer(Target("fargate:/us-east-1"), None, None, RecordedProgress())  # type: ignore[arg-type]


# The story, and the commands, on the local stack's AWS


@pytest.fixture
def call(deployer: Deployer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs `mlflow-fargate VERB --name churn …` in this process, against the deployer's account."""
    use_account(monkeypatch, deployer)
    # Verbs tag model versions: without an address MLflow would make a database in the checkout.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.getbasetemp()}/mlflow.db")

    def run(verb: str, *arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, [verb, "-t", "fargate:/us-east-1", "--name", "churn", *arguments])
        assert result.exit_code == exit_code, (result.output, result.exception)
        return result

    return run


def printed_json(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_plan_shows_what_would_change_and_sets_the_exit_code(
    deployer: Deployer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_fargate.publisher.Publisher", lambda *_: deployer.publisher)
    assert "a model URI is required" in call("plan", exit_code=1).stderr
    first = call("plan", "-m", "models:/churn/1", exit_code=2).stdout
    assert "+ create service churn" in first
    assert "cost: about USD 39.69 per month, plus 16.43 for the shared endpoint" in first
    create(deployer)

    assert "cost: about USD" in call("plan").stdout
    changed = call("plan", "-C", "desired_count=2", "-C", "environment.A=1", exit_code=2).stdout
    assert "    desired_count: 1 → 2" in changed
    assert "    environment.A: none → 1" in changed
    assert "USD 39.69 → 79.38 per month" in changed
    as_json = printed_json(call("plan", "-m", "models:/churn/2", "--json", exit_code=2))
    assert {item["kind"] for item in as_json["changes"] if item["action"] == "change"} == {"task definition", "service"}
    assert deployer.get("churn").provenance.version == "1"


@pytest.mark.parametrize("wrong", [["--nonsense"], ["--name", "churn", "-C", "cpu"]])
def test_a_plan_that_cannot_be_meant_is_not_taken_for_one_with_changes(wrong: list[str]) -> None:
    result = CliRunner().invoke(main, ["plan", "-t", "fargate:/us-east-1", *wrong])

    assert result.exit_code == 1
    assert "Error: " in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("call")
def test_a_list_shows_each_deployment_and_its_url(deployer: Deployer) -> None:
    command = ["list", "-t", "fargate:/us-east-1"]
    assert "no deployments; create one with" in CliRunner().invoke(main, command).stdout
    create(deployer)

    lines = CliRunner().invoke(main, command).stdout.splitlines()
    document = printed_json(CliRunner().invoke(main, [*command, "--json"]))

    assert [line.split() for line in lines] == [
        ["NAME", "VERSION", "STATE", "TASKS"],
        ["churn", "1", "COMPLETED", "1/1"],
        [],
        ["churn", deployer.get("churn").url],
    ]
    assert [(one["name"], one["model_version"]) for one in document] == [("churn", "1")]


@pytest.mark.slow
def test_history_lists_revisions_and_rollback_restores_one(deployer: Deployer, call: Call) -> None:
    create(deployer, **{"environment.VERSION": "1"})
    deployer.update("churn", "models:/churn/2", None, NamedOptions({"environment.VERSION": "2", "desired_count": 2}))

    told = call("rollback")

    assert "churn rolled back to models:/churn/1" in told.stdout
    revisions = printed_json(call("history", "--json"))
    shown = [(item["provenance"]["version"], item["state"], item["is_current"]) for item in revisions]
    assert shown == [("2", "COMPLETED", False), ("1", "COMPLETED", True)]
    assert all(":user/" in item["registered_by"] and item["registered_at"] for item in revisions)
    assert "1*" in call("history").stdout
    status = deployer.get("churn")
    assert (status.follow, status.desired_count, answer(status.url)["version"]) == ("pinned", 2, "1")


@pytest.mark.slow
def test_a_rollback_writes_only_what_moves_the_service(deployer: Deployer) -> None:
    create(deployer, **{"environment.VERSION": "1"})
    deployer.update("churn", None, None, NamedOptions({"environment.VERSION": "2"}))

    writes = count_writes(deployer, lambda counted: roll_back(counted, "churn"))

    # What it follows; what it goes back from, before the rollout and after it.
    assert writes == Counter(["UpdateService", *["TagResource"] * 3])
    said = "\n".join(deployer.progress.lines)  # type: ignore[attr-defined]
    assert "mlflow deployments update -t fargate:/us-east-1 --name churn -C follow=Production" in said


@pytest.mark.slow
def test_rollbacks_go_by_completed_rollouts_and_never_to_a_version_that_was_left(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/1", desired_count=0)

    def deployed_after(act: Callable[[], object]) -> str | None:
        act()
        return deployer.get("churn").provenance.version

    def updated_to(version: int) -> str | None:
        return deployed_after(lambda: deployer.update("churn", f"models:/churn/{version}", None, NamedOptions()))

    assert updated_to(2) == "2"
    assert deployed_after(lambda: roll_back(deployer, "churn")) == "1"
    assert updated_to(3) == "3"
    assert deployed_after(lambda: roll_back(deployer, "churn")) == "1"
    with pytest.raises(InvalidOption, match="No earlier revision"):
        roll_back(deployer, "churn")
    assert updated_to(2) == "2"  # deployed again: it is meant now
    assert updated_to(4) == "4"
    assert deployed_after(lambda: roll_back(deployer, "churn")) == "2"


def interrupt_rollback(deployer: Deployer) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Endpoint, "wait_until_rolled_out", interrupted)
        roll_back(deployer, "churn")


@pytest.mark.slow
def test_a_rollback_that_was_interrupted_is_finished_by_the_same_command(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/1", desired_count=0)
    deployer.update("churn", "models:/churn/2", None, NamedOptions())
    deployer.update("churn", "models:/churn/3", None, NamedOptions())
    interrupt_rollback(deployer)

    assert deployer.get("churn").provenance.version == "2"
    assert roll_back(deployer, "churn").provenance.version == "2"
    assert [item.unfinished_rollback_to for item in operations.history(deployer, "churn")] == [None, None, None]
    assert roll_back(deployer, "churn").provenance.version == "1"


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["", "2026-11-24T00:00:00+00:00", "a b c d"])
def test_a_mark_that_no_rollback_wrote_does_not_count(deployer: Deployer, mark: str) -> None:
    create(deployer, uri="models:/churn/1", desired_count=0)
    deployer.update("churn", "models:/churn/2", None, NamedOptions())
    tags = [{"key": LEFT_TAG, "value": mark}]
    for revision in operations.history(deployer, "churn"):
        deployer.account.session.call("ecs", "tag_resource", resourceArn=revision.task_definition, tags=tags)

    assert roll_back(deployer, "churn").provenance.version == "1"


@pytest.mark.slow
def test_a_version_to_which_ecs_returned_from_a_rollback_counts_as_meant(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/1", desired_count=1)
    deployer.update("churn", "models:/churn/2", None, NamedOptions())
    interrupt_rollback(deployer)
    at = {"cluster": deployer.endpoint.cluster, "service": "churn"}
    ecs = deployer.account.session.client("ecs")
    records = ecs.list_service_deployments(**at, status=["IN_PROGRESS", "PENDING"])["serviceDeployments"]
    ecs.stop_service_deployment(serviceDeploymentArn=records[0]["serviceDeploymentArn"], stopType="ROLLBACK")
    deadline = time.monotonic() + 60
    while (now := deployer.get("churn")).provenance.version != "2" or now.state != "COMPLETED":
        assert time.monotonic() < deadline, now
        time.sleep(0.2)

    deployer.update("churn", "models:/churn/3", None, NamedOptions({"desired_count": 0}))

    assert roll_back(deployer, "churn").provenance.version == "2"


@pytest.mark.slow
def test_after_a_failed_update_everything_about_it_can_be_looked_up(deployer: Deployer, call: Call) -> None:
    create(deployer)
    with pytest.raises(RolloutFailed):
        deployer.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))

    events = call("events").stdout
    assert "deployment failed: tasks failed to start" in events
    assert "(exit code 1): boom: the model cannot be loaded" in events
    assert "boom: the model cannot be loaded" in call("logs").stdout
    assert [item["state"] for item in printed_json(call("history", "--json"))] == ["FAILED", "COMPLETED"]
    assert "ECS already rolled back to" in call("rollback", exit_code=1).stderr
    status = printed_json(call("status", "--json"))
    assert (status["state"], status["model_version"], status["last_failed_version"]) == ("COMPLETED", "1", "13")
    stopped = [task for task in status["tasks"] if task["state"] == "STOPPED"]
    assert any(task["exit_code"] == 1 for task in stopped)
    assert "Essential container in task exited" in call("status").stdout


@pytest.mark.parametrize(
    ("running", "said"),
    [
        (2, "2 of 2 tasks running"),
        (3, "2 of 2 tasks running; 1 old task is still draining"),
        (4, "2 of 2 tasks running; 2 old tasks are still draining"),
    ],
)
def test_scaling_down_reports_the_tasks_that_still_drain(
    deployer_without_aws: Deployer, monkeypatch: pytest.MonkeyPatch, running: int, said: str
) -> None:
    use_account(monkeypatch, deployer_without_aws)
    status = SimpleNamespace(running_count=running, desired_count=2)
    monkeypatch.setattr(operations, "scale", lambda *_: status)

    done = CliRunner().invoke(main, ["scale", "-t", "fargate:/us-east-1", "--name", "churn", "2"])

    assert done.stdout == f"churn: {said}\n"


@pytest.mark.slow
def test_scaling_changes_the_count_and_nothing_else(deployer: Deployer, call: Call) -> None:
    create(deployer)

    assert call("scale", "2").stdout == "churn: 2 of 2 tasks running\n"
    assert len(printed_json(call("history", "--json"))) == 1
    assert deployer.get("churn").follow == "Production"
    call("scale", "0")
    assert deployer.get("churn").desired_count == 0


@pytest.mark.slow
def test_a_rollout_under_way_is_shown_as_such_and_can_be_watched(deployer: Deployer, call: Call) -> None:
    create(deployer, wait=False, **{"environment.MODE": "never"})

    call("status", exit_code=3)
    deployer.update("churn", None, None, NamedOptions({"environment.MODE": "", "wait": False}))
    call("status", "-f")
    deployer.update("churn", None, None, NamedOptions({"environment.MODE": "never", "wait": False}))
    assert "it continues in ECS" in call("status", "-f", "--timeout-seconds", "1", exit_code=1).stderr


@pytest.mark.slow
def test_a_failed_first_rollout_sets_the_exit_code(deployer: Deployer, call: Call) -> None:
    with pytest.raises(RolloutFailed):
        create(deployer, uri=CRASHING, **{"environment.MODE": "crash"})

    assert "FAILED" in call("status", exit_code=4).stdout
    assert printed_json(call("status", "--json", exit_code=4))["state"] == "FAILED"


def heed_ctrl_c() -> None:
    """In a child: what a shell put into the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_ends_following_the_log_as_if_it_had_ended(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    create(deployer)
    use_account(monkeypatch, deployer)
    command = [sys.executable, "-m", "mlflow_fargate.cli", "logs", "-t", "fargate:/us-east-1", "--name", "churn", "-f"]

    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509  # one call, and no thread
    ) as following:
        try:
            assert following.stdout is not None
            first = following.stdout.readline()
            following.send_signal(signal.SIGINT)
            _, said = following.communicate(timeout=60)
        finally:
            following.kill()

    assert re.match(r"\d{4}-\d\d-\d\dT\S+ \w{8}  ", first)
    assert (following.returncode, said) == (0, "")


@pytest.mark.slow
def test_ctrl_c_leaves_the_rollout_running_and_says_how_to_follow_it(deployer: Deployer) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Endpoint, "wait_until_rolled_out", interrupted)
        create(deployer)

    assert "mlflow-fargate status -f -t 'fargate:/us-east-1' --name churn" in deployer.progress.lines  # type: ignore[attr-defined]
    assert operations.watch(deployer, "churn", 60).state == "COMPLETED"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["status", "events", "history", "logs", "rollback"])
def test_a_name_that_is_not_there_is_said_so(call: Call, verb: str) -> None:
    assert "There is no deployment 'churn'" in call(verb, exit_code=1).stderr


@pytest.mark.slow
def test_a_deployment_that_is_not_there_has_no_history(deployer: Deployer) -> None:
    with pytest.raises(DeploymentNotFound):
        operations.history(deployer, "churn")


@pytest.mark.slow
def test_what_a_killed_client_left_is_listed_and_deleted_only_with_an_option(
    deployer: Deployer, call: Call, push_image: PushImage
) -> None:
    create(deployer, "alive")
    keep_a_lock(deployer, push_image)
    create(deployer, "churn", auth="api_key")
    session = deployer.account.session
    session.call("ecs", "delete_service", cluster="mlflow-fargate-default", service="churn", force=True)
    deadline = time.monotonic() + 60
    while any(task.state != "STOPPED" for task in deployer.endpoint.tasks("churn")):
        assert time.monotonic() < deadline
        time.sleep(0.2)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["gc", "-t", "fargate:/us-east-1", *arguments])

    listed = run()

    assert "churn on endpoint default" in listed.stdout
    assert "nothing was deleted" in listed.stderr
    (orphan,) = json.loads(run("--json").stdout)
    assert (orphan["endpoint"], orphan["name"]) == ("default", "churn")  # the endpoint's lock is not left, but kept
    assert {arn.split(":")[2] for arn in orphan["resources"]} >= {"secretsmanager", "elasticloadbalancing"}
    assert run("--delete").exit_code == 0
    assert run().stdout == "nothing to clean up\n"
    assert [status.name for status in deployer.list()] == ["alive"]
    assert not list(
        session.pages("ecs", "list_task_definitions", "taskDefinitionArns", familyPrefix="mlflow-fargate-default_churn")
    )


def keep_a_lock(deployer: Deployer, push_image: PushImage) -> None:
    """A record in the endpoint's repository, as image/packages/lock_record.py keeps it."""
    deployer.account.endpoint("default").repository.ensure()
    where = {"repositoryName": "mlflow-fargate/default"}
    digest = push_image(repository=where["repositoryName"]).partition("@")[2]
    session = deployer.account.session
    (found,) = session.call("ecr", "batch_get_image", **where, imageIds=[{"imageDigest": digest}])["images"]
    session.call("ecr", "put_image", **where, imageManifest=found["imageManifest"], imageTag="_lock-0123")
    session.call("ecr", "batch_delete_image", **where, imageIds=[{"imageTag": "latest"}])
