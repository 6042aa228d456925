"""
A real browser for tests: Chromium without a screen, driven over its DevTools protocol.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from twisted.internet.defer import Deferred

from tests.kit.driven import DevToolsError, Driven, Tools

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


class _DevTools(Tools):
    """One connection to the browser, for all of its windows."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: dict[str, Window] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Deferred[Any]:
        more = {} if session is None else {"sessionId": session}
        return self.ask(method, parameters, **more)

    def heard(self, message: Any) -> None:
        window = self.windows.get(message.get("sessionId", ""))
        if window is not None and message["method"] == "Runtime.exceptionThrown":
            window.errors.append(message["params"])


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

    async def enter(self, text: str) -> None:
        """Type into what has the focus, and press the Enter key."""
        await self.call("Input.insertText", text=text)
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key)

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


class Browser(Driven):
    """Chromium, until :meth:`stop`."""

    def __init__(self) -> None:
        super().__init__()
        self._contexts: list[str] = []

    async def start(self) -> Browser:
        command = [
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
            f"--user-data-dir={self.folder.name}",
        ]
        await self.launch(command, "DevTools listening on ", _DevTools)
        return self

    async def window(self) -> Window:
        """A new window, of somebody who shares nothing with the others."""
        context = (await self.tools.call("Target.createBrowserContext"))["browserContextId"]
        self._contexts.append(context)
        return await self._window_of(context)

    async def window_beside(self, window: Window) -> Window:
        """Another window of the one who has this one."""
        return await self._window_of(window.context)

    async def _window_of(self, context: str) -> Window:
        target = await self.tools.call(
            "Target.createTarget", url="about:blank", browserContextId=context
        )
        attached = await self.tools.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        window = Window(self.tools, attached["sessionId"], context)
        self.tools.windows[attached["sessionId"]] = window
        for domain in ("Page", "Runtime"):
            await window.call(f"{domain}.enable")
        return window

    async def close_windows(self) -> None:
        """Close all windows, and forget what their owners have kept."""
        while self._contexts:
            context = self._contexts.pop()
            await self.tools.call("Target.disposeBrowserContext", browserContextId=context)
        self.tools.windows.clear()
