"""
Firefox without a screen, driven over WebDriver BiDi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.kit.driven import DevToolsError, Driven
from tests.kit.foreign import find


class Firefox(Driven):
    """Firefox with one window, until :meth:`stop`; it takes every certificate."""

    _context = ""

    async def start(self) -> Firefox:
        # No proxies, and nothing of Mozilla's is asked for.
        preferences = 'user_pref("network.proxy.type", 0);\nuser_pref("app.update.enabled", false);\n'
        (Path(self.folder.name) / "user.js").write_text(preferences)
        command = [find("firefox"), "--headless", "--no-remote", "--profile", self.folder.name]
        greeting = "WebDriver BiDi listening on "
        await self.launch([*command, "--remote-debugging-port=0"], greeting, path="/session")
        wanted = {"alwaysMatch": {"acceptInsecureCerts": True}}
        await self.tools.ask("session.new", {"capabilities": wanted})
        made = await self.tools.ask("browsingContext.create", {"type": "tab"})
        self._context = made["context"]
        return self

    async def go(self, url: str) -> None:
        """Open a page, and wait until all of it is there."""
        where = {"context": self._context, "url": url, "wait": "complete"}
        await self.tools.ask("browsingContext.navigate", where)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, when it is there; it has to be JSON."""
        wanted = {
            "expression": f"(async () => JSON.stringify(await ({script})))()",
            "target": {"context": self._context},
            "awaitPromise": True,
        }
        answer = await self.tools.ask("script.evaluate", wanted)
        if answer["type"] == "exception":
            raise DevToolsError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])
