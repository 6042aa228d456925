"""
The back ends while they run: a module's tests share one of each.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kit import ROOT
from tests.kit.back_ends.pages import CERTIFICATE, KEY, LARGE, SOCKET
from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.foreign import NODE_MODULES, find, needs
from tests.kit.programs import PATIENCE

#: How a proxy gets to a back end.
KINDS = ("tcp", "tls", "unix")

#: What ``/large`` is.
LARGE_FILE = random.Random(11).randbytes(3_000_000)

_PYTHON = (sys.executable, "-m")
_NODE = ("node", str(ROOT / "tests" / "kit" / "node" / "back_end.cjs"))


class BackEnd:
    """
    One back end, until :meth:`end`.

    :ivar urls: where it is, by kind.
    """

    def __init__(self, name: str) -> None:
        """
        :param name: "node", or a program beside this module, without its "_server".
        """
        if name == "node":
            # Skips where they are missing, whichever test asked for it.
            find("node")
            find("ws (of Node)")
        self.name = name
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for file, content in ((CERTIFICATE, CERTIFICATE_PEM), (KEY, KEY_PEM), (LARGE, LARGE_FILE)):
            (folder / file).write_bytes(content)
        command = [*_PYTHON, f"tests.kit.back_ends.{name}_server", str(folder)]
        if name == "node":
            command = [*_NODE, json.dumps(str(folder))]
        self._process = _started(command)
        _, tcp, tls = self.tells("listening")
        self.urls = {
            "tcp": f"http://127.0.0.1:{tcp}",
            "tls": f"https://localhost:{tls}",
            "unix": f"unix:{folder / SOCKET}",
        }

    def tells(self, *kinds: str) -> list[Any]:
        """What it says next, which must be of one of these kinds; blocks."""
        assert self._process.stdout is not None
        alarm = threading.Timer(PATIENCE, self._process.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        alarm.join()
        assert line, f"{self.name} says nothing"
        event: list[Any] = json.loads(line)
        assert event[0] in kinds, event
        return event

    def closed(self) -> tuple[int, str]:
        """What the next WebSocket that ends has been closed with; blocks."""
        _, code, reason = self.tells("close")
        return code, reason

    def kill(self) -> None:
        """End it in the middle of what it does."""
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)
        self._folder.cleanup()


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"NODE_PATH": str(NODE_MODULES), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


#: Their names, for ``parametrize``.
BACK_ENDS = [
    pytest.param("node", marks=[needs("node"), needs("ws (of Node)")]),
    "aiohttp",
    "uvicorn",
    "ours",
]
