"""
The servers that this project is compared with, each with an echo behind the upgrade.

A program here gets a port of 127.0.0.1 as its first argument, prints a line on standard output when it
accepts connections there, and ends at SIGTERM. What it switches is at /echo. A proxy may get the port
of the server behind it as its second.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from .fronting import PATH

__all__ = ["PEERS", "Peer", "running"]

HERE = Path(__file__).parent
HOST = "127.0.0.1"


class Peer(NamedTuple):
    """A server, and what its program needs."""

    name: str
    """What it is called on command lines."""
    title: str
    """What it is called in tables."""
    token: str
    """What it is asked for at /echo."""
    program: Sequence[str]
    """A file beside this one, and its arguments behind the port."""
    packages: Sequence[str] = ()
    """What it needs of PyPI; the version of the first is its own."""
    runs: str | None = None
    """The program that it needs, whose version is its own."""
    leaves: str = ""
    """What it leaves to its user, as whole sentences."""

    def why_missing(self) -> str | None:
        """Why it cannot be started here; None if it can."""
        if self.runs is not None and shutil.which(self.runs, path=PATH) is None:
            return f"there is no {self.runs}"
        for package in self.packages:
            try:
                version(package)
            except PackageNotFoundError:
                return f"pip install {package}"
        return None

    def version(self) -> str:
        """The version of what is installed here."""
        if self.runs is None:
            return version(self.packages[0])
        asked = [shutil.which(self.runs, path=PATH) or self.runs, _ASKED.get(self.runs, "-v")]
        answer = subprocess.run(asked, check=True, capture_output=True, text=True)
        found = re.search(r"\d+(\.\d+)+", answer.stdout + answer.stderr)
        return found[0] if found else "unknown"


# How a program is asked for its version, if not by -v.
_ASKED = {"go": "version"}

_ALL_OF_IT = (
    "Everything but parsing: to read Connection and Upgrade as lists, to leave HTTP/1.0 alone, to "
    "write the 101."
)

PEERS = (
    Peer("ours", "upgrade_switch", "echo", ["ours.py"], ["upgrade_switch"]),
    Peer("ours-websocket", "upgrade_switch, WebSocket", "websocket", ["ours.py"], ["upgrade_switch"]),
    Peer(
        "node",
        "Node http",
        "echo",
        ["node_http.js"],
        runs="node",
        leaves="To choose a token from the list, to leave HTTP/1.0 alone, to write the 101, to give "
        "`head` to the new protocol.",
    ),
    Peer(
        "go",
        "Go net/http",
        "echo",
        ["go_net_http.go"],
        runs="go",
        leaves=f"{_ALL_OF_IT} To read the body before, and from Hijack's buffer after.",
    ),
    Peer("aiohttp", "aiohttp", "websocket", ["aiohttp_websocket.py"], ["aiohttp"]),
    Peer(
        "uvicorn",
        "uvicorn (httptools, websockets)",
        "websocket",
        ["uvicorn_websocket.py", "httptools", "websockets"],
        ["uvicorn", "httptools", "websockets"],
    ),
    Peer(
        "uvicorn-wsproto",
        "uvicorn (h11, wsproto)",
        "websocket",
        ["uvicorn_websocket.py", "h11", "wsproto"],
        ["uvicorn", "h11", "wsproto"],
    ),
    Peer("hypercorn", "hypercorn", "websocket", ["hypercorn_websocket.py"], ["hypercorn"]),
    Peer(
        "tornado",
        "Tornado detach",
        "echo",
        ["tornado_detach.py"],
        ["tornado"],
        leaves=_ALL_OF_IT,
    ),
    Peer("tornado-websocket", "Tornado WebSocket", "websocket", ["tornado_websocket.py"], ["tornado"]),
    Peer("autobahn", "autobahn", "websocket", ["autobahn_alone.py"], ["autobahn"]),
    Peer(
        "autobahn-resource",
        "autobahn WebSocketResource",
        "websocket",
        ["autobahn_resource.py"],
        ["autobahn"],
    ),
    Peer(
        "twisted",
        "twisted.web.websocket",
        "websocket",
        ["twisted_websocket.py"],
        ["Twisted", "wsproto"],
    ),
    Peer("websockets", "websockets", "websocket", ["websockets_serve.py"], ["websockets"]),
    Peer(
        "ours-proxy",
        "upgrade_switch, proxy",
        "echo",
        ["ours_front.py"],
        ["upgrade_switch"],
        leaves="Which tokens may pass; by default websocket alone.",
    ),
    Peer(
        "nginx",
        "nginx",
        "echo",
        ["nginx_front.py"],
        runs="nginx",
        leaves="To pass Upgrade on at all, and which tokens: its example passes every one.",
    ),
    Peer(
        "haproxy",
        "haproxy",
        "echo",
        ["haproxy_front.py"],
        runs="haproxy",
        leaves="Which tokens may pass; by default every one.",
    ),
)


def _go(path: str, folder: str) -> Sequence[str]:
    built = str(Path(folder, "built"))
    subprocess.run(["go", "build", "-o", built, path], check=True)
    return [built]


_STARTED: dict[str, Callable[[str, str], Sequence[str]]] = {
    ".py": lambda path, folder: [sys.executable, path],
    ".js": lambda path, folder: ["node", path],
    ".go": _go,
}


@contextmanager
def running(peer: Peer) -> Iterator[tuple[int, int]]:
    """
    A peer while it runs; it ends with the block.

    :return: its port, and the id of its process.
    :raises RuntimeError: if it does not start.
    """
    file, *arguments = peer.program
    path = HERE / file
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [*_STARTED[path.suffix](str(path), folder), str(port), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"{peer.name} has ended: {' '.join(command)}")
            # Some say more than one line.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield port, process.pid
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        # A graceful end that waits for a connection that is gone.
        process.kill()
        process.wait()
