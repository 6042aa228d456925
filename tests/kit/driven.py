"""
A browser without a screen, driven over JSON in a WebSocket: what Chromium (``browser.py``) and Firefox
(``firefox.py``) have in common. The tests need no driver of anybody else's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.kit.harness import patient, reactor
from upgrade_switch import UpgradePool
from upgrade_switch.protocols import connect_websocket

#: How long the browser may keep silent before a test fails: its work is not seen here.
SECONDS = 30


class DevToolsError(Exception):
    """The browser says that something is wrong."""


class Tools(WebSocketClientProtocol):
    """The connection to a browser."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)
        self._waiting: dict[int, Deferred[Any]] = {}

    def ask(self, method: str, parameters: Mapping[str, Any], **more: str) -> Deferred[Any]:
        """What the browser answers; fails with :class:`DevToolsError`."""
        number = next(self._numbers)
        d: Deferred[Any] = Deferred()
        self._waiting[number] = d
        message = {"id": number, "method": method, "params": parameters, **more}
        self.sendMessage(json.dumps(message).encode())
        return patient(d, seconds=SECONDS)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        d = self._waiting.pop(message.get("id"), None)
        if d is None:
            self.heard(message)
        elif not d.called and "error" in message:
            d.errback(DevToolsError(message))
        elif not d.called:
            d.callback(message["result"])

    def heard(self, message: Any) -> None:
        """The browser has said something by itself."""


class Driven:
    """A browser, until :meth:`stop`."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.tools: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    async def launch(
        self, command: Sequence[str], greeting: str, protocol: type[Tools] = Tools, path: str = ""
    ) -> None:
        """
        Start it, and connect to it.

        :param greeting: what stands in front of the address that it says.
        :param path: what the address lacks.
        """
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # It has helpers, which end with it as a group.
            start_new_session=True,
            env={**os.environ, "HOME": self.folder.name, "MOZ_CRASHREPORTER_DISABLE": "1"},
        )
        url = await patient(deferToThread(self._address, greeting), seconds=SECONDS)
        factory = WebSocketClientFactory()
        factory.protocol = protocol
        connecting = connect_websocket(UpgradePool(reactor), url + path, factory)
        self.tools = await patient(connecting, seconds=SECONDS)

    def _address(self, greeting: str) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line.decode(errors="replace"))
            if said[-1].startswith(greeting):
                return said[-1].split()[-1]
        raise AssertionError("".join(said))

    async def stop(self) -> None:
        assert self._process is not None
        if self.tools is not None:
            gone = self.tools.is_closed
            self.tools.dropConnection(abort=True)
            await patient(gone)
        os.killpg(self._process.pid, signal.SIGKILL)
        # What it still says must not hold it up.
        await deferToThread(self._process.communicate)
        self.folder.cleanup()
