"""
A real browser for tests: Chromium without a screen, driven over its DevTools protocol, which is JSON
over a WebSocket. The tests need no driver of anybody else's.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from base64 import b64decode
from itertools import count
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.kit.harness import patient, reactor
from upgrade_switch import UpgradePool
from upgrade_switch.protocols import connect_websocket

#: Resolves when a condition has come true in a page: it is looked at whenever the page changes.
UNTIL = """
new Promise(resolve => {
  const look = () => { if (%s) { watcher.disconnect(); resolve(true); return true; } return false; };
  const watcher = new MutationObserver(look);
  const everything = {subtree: true, childList: true, attributes: true, characterData: true};
  watcher.observe(document, everything);
  look();
})
"""


#: How long the browser may keep silent before a test fails: its work is not seen here.
SECONDS = 30


class DevToolsError(Exception):
    """The browser says that something is wrong."""


class _DevTools(WebSocketClientProtocol):
    """One connection to the browser, for all of its windows."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)
        self._waiting: dict[int, Deferred[Any]] = {}
        self.windows: dict[str, Window] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Deferred[Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        d: Deferred[Any] = Deferred()
        self._waiting[number] = d
        self.sendMessage(json.dumps(message).encode())
        return patient(d, seconds=SECONDS)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        if "id" not in message:
            window = self.windows.get(message.get("sessionId", ""))
            if window is not None and message["method"] == "Runtime.exceptionThrown":
                window.errors.append(message["params"])
            return
        d = self._waiting.pop(message["id"])
        if d.called:
            return
        if "error" in message:
            d.errback(DevToolsError(message["error"]))
        else:
            d.callback(message["result"])


class Window:
    """
    One window.

    :ivar errors: what the page's scripts have not caught.
    """

    def __init__(self, tools: _DevTools, session: str, context: str) -> None:
        """
        :param context: whose it is: what is kept for somebody, all of that one's windows know.
        """
        self.errors: list[Any] = []
        self.context = context
        self._tools = tools
        self._session = session

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self._tools.call(method, self._session, **parameters)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, when it is there."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise DevToolsError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """When an expression has come true in the page."""
        await self.run(UNTIL % condition)

    async def go(self, url: str) -> None:
        """Open a page, and wait until all of it is there."""
        await self.call("Page.navigate", url=url)
        await self._loaded()

    async def reload(self) -> None:
        await self.run("window.before = true")
        await self.call("Page.reload")
        await self._loaded()

    async def _loaded(self) -> None:
        # A page that is on its way takes those who wait for it with it.
        while True:
            try:
                ready = "window.before || document.readyState !== 'complete'"
                if not await self.run(f"{ready} || location.href === 'about:blank'"):
                    return
            except DevToolsError:
                pass

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click on an element as its user does, which lets the page do more than a script's click."""
        element = f"document.querySelector({selector!r})"
        await self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        middle = "(b => [b.x + b.width / 2, b.y + b.height / 2])"
        x, y = await self.run(f"{middle}({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def looks(self, width: int, height: int, scheme: str = "light") -> None:
        """Give the window a size, and its owner a taste for light or dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self) -> bytes:
        """A PNG."""
        return b64decode((await self.call("Page.captureScreenshot"))["data"])


class Browser:
    """Chromium, until :meth:`stop`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self._tools: Any = None
        self._contexts: list[str] = []

    async def start(self) -> Browser:
        self._process = subprocess.Popen(
            [
                "chromium",
                "--headless",
                "--no-sandbox",  # it refuses to run as root with it, as CI does
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                # A name for this machine that browsers do not trust as they trust its address.
                "--host-resolver-rules=MAP insecure.test 127.0.0.1",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder.name}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        url = await patient(deferToThread(self._address), seconds=SECONDS)
        factory = WebSocketClientFactory()
        factory.protocol = _DevTools
        self._tools = await patient(
            connect_websocket(UpgradePool(reactor), url, factory), seconds=SECONDS
        )
        return self

    def _address(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line.decode(errors="replace"))
            if said[-1].startswith("DevTools listening on "):
                return said[-1].split()[-1]
        raise AssertionError("".join(said))

    async def window(self) -> Window:
        """A new window, of somebody who shares nothing with the others."""
        context = (await self._tools.call("Target.createBrowserContext"))["browserContextId"]
        self._contexts.append(context)
        return await self._window_of(context)

    async def window_beside(self, window: Window) -> Window:
        """Another window of the one who has this one."""
        return await self._window_of(window.context)

    async def _window_of(self, context: str) -> Window:
        target = await self._tools.call(
            "Target.createTarget", url="about:blank", browserContextId=context
        )
        attached = await self._tools.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        window = Window(self._tools, attached["sessionId"], context)
        self._tools.windows[attached["sessionId"]] = window
        for domain in ("Page", "Runtime"):
            await window.call(f"{domain}.enable")
        return window

    async def close_windows(self) -> None:
        """Close all windows, and forget what their owners have kept."""
        while self._contexts:
            context = self._contexts.pop()
            await self._tools.call("Target.disposeBrowserContext", browserContextId=context)
        self._tools.windows.clear()

    async def stop(self) -> None:
        assert self._process is not None
        if self._tools is not None:
            gone = self._tools.is_closed
            self._tools.dropConnection(abort=True)
            await patient(gone)
        self._process.terminate()
        # What it still says must not hold it up.
        await deferToThread(self._process.communicate)
        self._folder.cleanup()
