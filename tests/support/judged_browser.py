"""Chromium, driven by its DevTools protocol: what axe-core and the console say of a page, by width and color scheme.

Nothing is added to the page, and its Content-Security-Policy applies; axe-core runs as the developer tools would.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

AXE = "axe-core@4"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_START_SECONDS, _ANSWER_SECONDS, _QUIET_SECONDS = 60, 120, 1.0


class Verdict(NamedTuple):
    """What is wrong with a page."""

    violations: list[str]  # serious and critical ones
    console: list[str]  # errors
    wider_by: int  # pixels, which a person has to scroll sideways


def install_axe(folder: Path) -> str:
    """Returns axe-core's code; skips the test, with the reason, where npm cannot install it."""
    if not (CHROMIUM and shutil.which("npm")):
        pytest.skip("chromium and npm are not both installed: make tools")
    command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", AXE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install {AXE}: {done.stderr[-300:]}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


class Tab:
    """One tab of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol; errors that the page logs meanwhile are kept."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=_ANSWER_SECONDS)
            self._keep_error(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    async def run(self, script: str) -> Any:
        """Returns the JSON value of a script in the page."""
        done = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def judge(self, url: str, axe: str, width: int, scheme: str) -> Verdict:
        self.errors.clear()
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Page.navigate", url=url)
        for _ in range(_START_SECONDS):
            await asyncio.sleep(_QUIET_SECONDS)
            if await self.run("document.readyState === 'complete' && !!document.querySelector('main')"):
                break
        await self.run(f"{axe}; 0")
        found = await self.run("axe.run().then(found => found.violations)")
        wrong = [
            f"{one['impact']} {one['id']}: {node['html'][:120]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        wider = await self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return Verdict(wrong, list(self.errors), int(wider))

    def _keep_error(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        if message.get("method") == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(said["exceptionDetails"].get("exception", said)))
        elif message.get("method") == "Runtime.consoleAPICalled" and said["type"] == "error":
            self.errors.append(str(said["args"]))


@contextlib.asynccontextmanager
async def open_tab(folder: Path) -> AsyncIterator[Tab]:
    """Starts a browser with its data in `folder`, and stops it."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            file, deadline = folder / "DevToolsActivePort", time.monotonic() + _START_SECONDS
            while not (file.is_file() and file.read_text().count("\n")):
                assert time.monotonic() < deadline, "the browser did not start"
                await asyncio.sleep(0.1)
            address = f"http://127.0.0.1:{file.read_text().split()[0]}/json/list"
            async with aiohttp.ClientSession() as session:
                listed = await (await session.get(address)).json()
                target = next(one for one in listed if one["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Page", "Runtime", "Log"):
                        await tab.call(f"{domain}.enable")
                    yield tab
        finally:
            browser.terminate()
            try:
                browser.wait(20)
            except subprocess.TimeoutExpired:
                browser.kill()
