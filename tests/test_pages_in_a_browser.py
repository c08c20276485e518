"""The pages in a real browser, as axe-core, the console and a person with a selection see them."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import waitress
from test_pictures import ADDRESSES, NOW, services, tags_of

from mlflow_fargate.bento import template_folder
from mlflow_fargate.local.page import PageApp
from mlflow_fargate.local.wsgi_server import WsgiServer
from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.reconcile import Action, Deployed
from mlflow_fargate.webhook.control_loop.worker import Seen, Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.views import PageLinks
from support.judged_browser import Tab, Verdict, install_axe, open_tab
from support.webhook_fakes import FakeDeployments, FakeRegistry

pytestmark = pytest.mark.slow
LINES = ["Traceback (most recent call last):", '  File "model.py", line 1', "ValueError: zero"] * 40


class Logs:
    def describe_log_streams(self, **_: Any) -> dict[str, Any]:
        return {"logStreams": [{"logStreamName": "model/model/0c1d2e3f4a5b"}]}

    def get_log_events(self, **_: Any) -> dict[str, Any]:
        return {"events": [{"timestamp": int(NOW * 1000), "message": text} for text in LINES]}


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return install_axe(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def local() -> Iterator[str]:
    with WsgiServer(PageApp(services, lambda: ADDRESSES, Logs, clock=lambda: NOW, tags=tags_of)) as server:
        yield server.url


def seen() -> dict[str, Seen]:
    def one(name: str, action: Action, state: str = "COMPLETED", **more: Any) -> Seen:
        follow = more.pop("follow", "Production")
        return Seen(Deployed(name, follow, name, "1", state, url=f"http://lb/{name}"), action, **more)

    outcome = Outcome("fraud", "update", "fraud", "2", "rollback", "ValueError: zero", began=NOW, duration_seconds=90.0)
    found = (
        one("churn", Action("nothing", "version 1 is deployed", "1")),
        one("digits", Action("update", "version 2 is in Production", "2"), is_updating=True),
        one("fraud", Action("blocked", "version 2 failed", "2", "it failed"), last_outcome=outcome),
        one("hold", Action("hold", "no version is in Production", warning="no version has it")),
        one("byhand", Action("nothing", "pinned to a fixed version"), follow="pinned"),
    )
    return {item.deployed.key: item for item in found}


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    worker = Worker(connect=FakeDeployments, registry=FakeRegistry())
    worker._seen, worker._error, worker._looked_at = seen(), "MLflow does not respond", NOW
    app = create_app(worker, (), Access(is_public=True), PageLinks("fargate:/local", "http://127.0.0.1:5000"))
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://127.0.0.1:{server.effective_port}"
    server.close()


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    sys.path.append(str(template_folder()))
    page = importlib.import_module("fargate_service.http.model_page")
    settings = importlib.import_module("fargate_service.settings")
    hostile = "<script>document.title='broken'</script>"
    described = settings.ServiceDescription("pyfunc", "sklearn", None, f"models:/{hostile}/3", hostile, "3", "5f1c0de2")
    columns = f'[{{"name": "{hostile}", "type": "double"}}, {{"name": "age", "type": "long"}}]'
    metadata = {"signature": {"inputs": columns, "outputs": '[{"type": "long"}]'}}
    shown = page.make_model_page(
        described, needs_key=True, prefix="/churn", metadata=metadata, example={"inputs": [hostile]}
    )
    assert b"<script" not in shown.body

    def app(_: Any, start: Any) -> list[bytes]:
        start("200 OK", [(name.decode(), value.decode()) for name, value in shown.raw_headers])
        return [shown.body]

    with WsgiServer(app) as server:
        yield server.url


def test_no_page_has_a_serious_fault_or_an_error_in_the_console(
    axe: str, local: str, webhook: str, model: str, tmp_path: Path
) -> None:
    pages = {
        "a model": f"{model}/",
        "the local stack": f"{local}/",
        "its logs": f"{local}/logs/mlflow-fargate-default/churn",
        "the webhook service": f"{webhook}/",
    }

    async def judge_all() -> dict[str, Verdict]:
        async with open_tab(tmp_path) as tab:
            return {
                f"{name}, {width} px, {scheme}": await tab.judge(url, axe, width, scheme)
                for name, url in pages.items()
                for width in (390, 1280)
                for scheme in ("light", "dark")
            }

    assert {place: told for place, told in asyncio.run(judge_all()).items() if told != ([], [], 0)} == {}


def test_logs_refresh_in_place_end_in_view_and_leave_a_selection_alone(local: str, tmp_path: Path) -> None:
    async def read(tab: Tab) -> None:
        await tab.call("Page.navigate", url=f"{local}/logs/mlflow-fargate-default/churn")
        await asyncio.sleep(2)
        assert await tab.run("scrollY > 100 && innerHeight + scrollY >= document.body.scrollHeight - 40")
        await tab.run("window.stays = 1; getSelection().selectAllChildren(document.querySelector('pre')); 0")
        LINES.append("the newest line")
        await asyncio.sleep(5)
        assert await tab.run("String(getSelection()).includes('ValueError')")
        assert not await tab.run("document.body.textContent.includes('the newest line')")
        await tab.run("getSelection().removeAllRanges()")
        await asyncio.sleep(5)
        assert await tab.run("document.body.textContent.includes('the newest line') && window.stays === 1")

    async def start() -> None:
        async with open_tab(tmp_path) as tab:
            await read(tab)

    asyncio.run(start())
