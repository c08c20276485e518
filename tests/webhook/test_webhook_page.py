"""Tests the page: its contents, its safety, and that a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import waitress
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_fargate.resolved_model import web_url
from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.reconcile import Action, Deployed
from mlflow_fargate.webhook.control_loop.rules import RuleBook
from mlflow_fargate.webhook.control_loop.worker import Seen, Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.page import Row, format_seconds, make_rows
from mlflow_fargate.webhook.http.views import PageLinks
from support.webhook_fakes import FakeDeployments, FakeRegistry

NOW = 1_767_323_045.0
MLFLOW = "https://mlflow.example.com"


def seen(
    kind: str = "nothing",
    *,
    version: str | None = "2",
    state: str = "COMPLETED",
    warning: str | None = None,
    **more: object,
) -> Seen:
    deployed = Deployed(
        "api", "Production", "churn", "1", state, url="http://lb/api", updated_at="2026-01-02T03:00:00Z"
    )
    return Seen(deployed, Action(kind, "why", version, warning), **more)  # type: ignore[arg-type]


def row(one: Seen) -> Row:
    (made,) = make_rows([one], MLFLOW, NOW)
    return made


@pytest.mark.parametrize(
    ("one", "state", "tone"),
    [
        (seen(), "up to date", "good"),
        (seen(warning="two versions are in Production"), "up to date", "warn"),
        (seen(state="FAILED", warning="the last rollout failed"), "failed", "bad"),
        (seen("update"), "update pending", "busy"),
        (seen("update", is_updating=True), "rolling out", "busy"),
        (seen("hold", state="IN_PROGRESS"), "rolling out", "busy"),
        (seen("hold", warning="no version is in Production"), "on hold", "warn"),
        (seen("hold"), "update pending", "busy"),
        (seen("blocked", warning="version 2 failed"), "blocked", "bad"),
        (seen(version=None), "scaled to zero", "quiet"),
        (Seen(Deployed("api", "pinned", "churn", "1", "COMPLETED"), Action("nothing", "pinned")), "pinned", "quiet"),
    ],
)
def test_each_state_has_a_word(one: Seen, state: str, tone: str) -> None:
    assert (row(one).state, row(one).tone) == (state, tone)


def test_a_failed_rollout_shows_the_reason_that_ecs_gave() -> None:
    failed = Deployed("api", "Production", "churn", "1", "FAILED", state_reason="tasks failed to start")

    assert row(Seen(failed, Action("nothing", "version 1 is deployed", "1", "the last rollout failed"))).error == (
        "tasks failed to start"
    )


def test_pinned_deployments_are_listed_and_a_rule_without_effect_is_shown(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry
) -> None:
    deployments.deploy("byhand", "churn", "1", follow="pinned", url="http://lb/byhand")
    worker.look()

    assert (row(worker.seen()["byhand"]).state, row(worker.seen()["byhand"]).tone) == ("pinned", "quiet")
    assert not worker.retry("byhand") and not worker.hint("churn")


def test_a_rule_for_a_pinned_deployment_is_shown_as_without_effect(
    deployments: FakeDeployments, registry: FakeRegistry
) -> None:
    deployments.deploy("churn", "churn", "1", follow="pinned", url="http://lb/churn")
    worker = Worker(
        connect=lambda: deployments, registry=registry, rules=RuleBook(lambda: "models: {churn: {stage: Production}}")
    )
    worker.look()

    made = row(worker.seen()["churn"])

    assert (made.state, made.tone) == ("pinned", "warn")
    assert "the rule has no effect" in str(made.error)


def test_deployments_that_need_attention_come_first() -> None:
    rows = make_rows([seen(), seen("blocked"), seen("update")], MLFLOW, NOW)

    assert [one.tone for one in rows] == ["bad", "busy", "good"]


def test_a_row_links_to_mlflow_and_to_the_swagger_page() -> None:
    made = row(seen("update"))

    assert made.model_url == f"{MLFLOW}/#/models/churn"
    assert (made.wanted_url, made.deployed_url) == (f"{made.model_url}/versions/2", f"{made.model_url}/versions/1")
    assert made.swagger_url == "http://lb/api/"


def test_the_last_rollout_is_shown_with_its_duration_or_as_recorded_in_aws() -> None:
    outcome = Outcome("api", "update", "churn", "2", "rollback", "it crashed", began=NOW - 600, duration_seconds=90.0)
    ours, theirs = row(seen("blocked", last_outcome=outcome)), row(seen())

    assert ours.error == "it crashed"
    assert ours.last_rollout is not None and theirs.last_rollout is not None
    assert (ours.last_rollout.result, ours.last_rollout.version, ours.last_rollout.duration) == (
        "rollback",
        "2",
        "90 s",
    )
    assert (ours.last_rollout.at.text, theirs.last_rollout.at.text) == ("8 min ago", "4 min ago")
    assert (theirs.last_rollout.version, theirs.last_rollout.duration) == ("1", None)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//elsewhere", None])
def test_only_web_addresses_become_links(url: str | None) -> None:
    one = Seen(Deployed("api", "Production", "churn", "1", "COMPLETED", url=url), Action("nothing", "", "1"))

    assert row(one).swagger_url is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")]
)
def test_durations_are_no_more_precise_than_is_useful(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.links: set[str | None] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.links |= {value for name, value in attrs if name == "href"}


def tags_of(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def page_of(worker: Worker) -> str:
    app = create_app(worker, (), Access(is_public=True), PageLinks("fargate:/local", MLFLOW))
    answer = app.test_client().get("/")
    assert answer.status_code == 200
    return answer.text


HOSTILE = st.text(st.sampled_from("<>\"'&/ ={}%\n") | st.characters(codec="utf-8"), min_size=1, max_size=40)


@pytest.mark.parametrize(
    "url", ["http://", "http://@", "https:///", "http://user:password@", "javascript:alert(1)", None]
)
def test_an_address_without_a_host_is_not_a_link(url: str | None) -> None:
    assert web_url(url) is None


@settings(max_examples=25, deadline=None)
@given(name=HOSTILE, reason=HOSTILE, version=HOSTILE, url=HOSTILE)
def test_no_text_changes_the_structure_of_the_page(name: str, reason: str, version: str, url: str) -> None:
    def page(text: tuple[str, str, str, str]) -> Tags:
        name, reason, version, url = text
        worker = Worker(connect=FakeDeployments, registry=FakeRegistry())
        deployed = Deployed(name, f"@{name}", name, version, "COMPLETED", url=f"http://u/{url}")
        worker._seen = {name: Seen(deployed, Action("blocked", reason, version, warning=f"{reason}!"))}
        worker._error = reason
        return tags_of(page_of(worker))

    hostile, harmless = page((name, reason, version, url)), page(("n", "r", "1", "u"))

    assert hostile.found == harmless.found
    assert all(link is None or link.startswith(("http://", "https://", "data:,")) for link in hostile.links)


def test_only_the_pages_own_script_runs_and_nothing_else_is_loaded(worker: Worker) -> None:
    answer = create_app(worker, (), Access(is_public=True)).test_client().get("/")
    policy = answer.headers["Content-Security-Policy"]

    tags = [tag for tag, _ in tags_of(answer.text).found]
    assert "default-src 'none'" in policy and "script-src 'nonce-" in policy and "unsafe" not in policy
    assert set(tags).isdisjoint({"iframe", "form", "object", "img"}) and tags.count("script") == 1
    assert "http-equiv" not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_shows_errors_and_the_time_of_the_last_poll(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry
) -> None:
    assert "not checked yet" in page_of(worker)
    assert "Nothing is deployed yet" in page_of(worker)
    deployments.deploy("api", "churn", "1", url="http://lb/api")
    registry.promote("churn", "1", "2")
    worker.look()
    worker._error = "MlflowException: <no answer>"
    page = page_of(worker)

    assert "MlflowException: &lt;no answer&gt;" in page
    assert "last checked <time" in page
    assert "rolling out" in page and "version 2" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def address(worker: Worker, deployments: FakeDeployments, registry: FakeRegistry) -> Iterator[str]:
    deployments.deploy("fraud", "fraud", "3", url="http://lb/fraud")
    deployments.deploy("x", "<script>document.title='broken'</script>", "1", url="http://lb/x")
    registry.promote("fraud", "3")
    registry.promote("<script>document.title='broken'</script>", "1")
    worker.look()
    app = create_app(worker, (), Access("t0ken"), PageLinks("fargate:/local", MLFLOW))
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"127.0.0.1:{server.effective_port}"
    server.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
def test_a_browser_shows_the_page_to_anyone_with_the_token(address: str, tmp_path: Path) -> None:
    def dump(authority: str, *options: str) -> str:
        assert CHROMIUM is not None
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={tmp_path}", *options, f"http://{authority}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    shown = dump(f"anyone:t0ken@{address}", "--dump-dom")
    picture = tmp_path / "phone.png"
    dump(f"anyone:t0ken@{address}", f"--screenshot={picture}", "--window-size=500,900")

    assert "<title>Deployments · fargate:/local</title>" in shown
    assert shown.count("up to date") >= 2
    assert "&lt;script&gt;document.title='broken'" in shown
    assert picture.stat().st_size > 5_000
    assert "up to date" not in dump(f"anyone:wrong@{address}", "--dump-dom")
