"""
What docs/howto/probe.md shows is what the probe says.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.kit.commands import run, serving
from tests.kit.documented import read, sessions
from tests.kit.faulty import SwitchesBeforeTheContent

__all__ = ["read"]  # a fixture

PAGE = "howto/probe.md"


def test_the_page(read: Any) -> None:
    """The lines of the page come, but for their times; and so does its object."""
    reader = read(PAGE)
    asking = sessions(reader.blocks("console")[0].text)[0]
    with serving() as process:
        done = run("probe", f"{process.url}echo")
        checked = run("probe", "--conformance", "--json", f"{process.url}echo", "echo")

    def timeless(text: str) -> str:
        return re.sub(r" +[0-9.]+ ms", " ms", text)

    assert timeless(done.stdout.decode()).strip() == timeless(asking.answer).strip()
    assert json.loads(reader.blocks("json")[0].text) in json.loads(checked.stdout)


def test_the_failure(read: Any) -> None:
    """The failure that the page shows is that of a server that is wrong in this one thing."""
    with SwitchesBeforeTheContent() as server:
        said = run("probe", "--conformance", "--jobs", "4", server.url, "echo").stdout.decode()
    shown = read(PAGE).blocks("text")[0].text
    assert " ".join(shown.split()) in " ".join(said.split())
