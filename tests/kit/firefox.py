"""
Firefox without a screen, driven over WebDriver BiDi, which is JSON over a WebSocket. As with Chromium
(``browser.py``), the tests need no driver of anybody else's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.kit.browser import SECONDS, DevToolsError
from tests.kit.foreign import find
from tests.kit.harness import patient, reactor
from upgrade_switch import UpgradePool
from upgrade_switch.protocols import connect_websocket


class _BiDi(WebSocketClientProtocol):
    """The connection to the browser."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)
        self._waiting: dict[int, Deferred[Any]] = {}

    def call(self, method: str, **parameters: Any) -> Deferred[Any]:
        number = next(self._numbers)
        d: Deferred[Any] = Deferred()
        self._waiting[number] = d
        self.sendMessage(json.dumps({"id": number, "method": method, "params": parameters}).encode())
        return patient(d, seconds=SECONDS)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        d = self._waiting.pop(message.get("id"), None)
        if d is None or d.called:
            return
        if message["type"] == "error":
            d.errback(DevToolsError(message))
        else:
            d.callback(message["result"])


class Firefox:
    """Firefox with one window, until :meth:`stop`; it takes every certificate."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self._tools: Any = None
        self._context = ""

    async def start(self) -> Firefox:
        # No proxies, and nothing of Mozilla's is asked for.
        preferences = 'user_pref("network.proxy.type", 0);\nuser_pref("app.update.enabled", false);\n'
        (Path(self._folder.name) / "user.js").write_text(preferences)
        self._process = subprocess.Popen(
            [
                find("firefox"),
                "--headless",
                "--no-remote",
                "--profile",
                self._folder.name,
                "--remote-debugging-port=0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # It has helpers, which end with it as a group.
            start_new_session=True,
            env={**os.environ, "HOME": self._folder.name, "MOZ_CRASHREPORTER_DISABLE": "1"},
        )
        url = await patient(deferToThread(self._address), seconds=SECONDS)
        factory = WebSocketClientFactory()
        factory.protocol = _BiDi
        pool = UpgradePool(reactor)
        self._tools = await patient(connect_websocket(pool, url + "/session", factory), seconds=SECONDS)
        wanted = {"alwaysMatch": {"acceptInsecureCerts": True}}
        await self._tools.call("session.new", capabilities=wanted)
        self._context = (await self._tools.call("browsingContext.create", type="tab"))["context"]
        return self

    def _address(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line.decode(errors="replace"))
            if said[-1].startswith("WebDriver BiDi listening on "):
                return said[-1].split()[-1]
        raise AssertionError("".join(said))

    async def go(self, url: str) -> None:
        """Open a page, and wait until all of it is there."""
        await self._tools.call(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, when it is there; it has to be JSON."""
        answer = await self._tools.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({script})))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise DevToolsError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    async def stop(self) -> None:
        assert self._process is not None
        if self._tools is not None:
            gone = self._tools.is_closed
            self._tools.dropConnection(abort=True)
            await patient(gone)
        os.killpg(self._process.pid, signal.SIGKILL)
        await deferToThread(self._process.communicate)
        self._folder.cleanup()
