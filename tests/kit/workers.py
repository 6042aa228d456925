"""
``serve --workers``, and clients that know which of the workers serves them.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import LOCAL, PATIENCE, Process, read_until
from tests.kit.harness import status
from tests.kit.operating import body_of, get, upgraded

MODULE = """
import os
from pathlib import Path

from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from upgrade_switch import UpgradeResource

if Path(__file__).with_name("dies").exists():
    os._exit(7)


class Told(Protocol):
    def dataReceived(self, data):
        self.transport.write(b"%d\\n" % os.getpid() if data == b"?" else data)


class Page(Resource):
    def render_GET(self, request):
        return b"%d" % os.getpid()


class Who(UpgradeResource):
    def __init__(self):
        super().__init__({"who": Factory.forProtocol(Told)}, Page())
"""

WHO = ("--class", "/who who.Who")


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a module whose resource tells which process serves; workers that start later find it."""
    (folder / "who.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


class Switched:
    """A client that has switched, and knows to whom."""

    def __init__(self, url: str) -> None:
        self.socket = upgraded(url, "/who", "who")
        self.socket.sendall(b"?")
        self.pid = int(read_until(self.socket, b"\n"))

    def echoes(self) -> bool:
        self.socket.sendall(b"hello")
        return read_until(self.socket, b"hello") == b"hello"

    def close(self) -> None:
        self.socket.close()


def by_each(stack: ExitStack, url: str, count: int, processes: int = 2) -> dict[int, list[Switched]]:
    """So many clients at least, and of so many processes."""
    clients: dict[int, list[Switched]] = {}
    while len(clients) < processes or sum(map(len, clients.values())) < count:
        client = Switched(url)
        stack.callback(client.close)
        clients.setdefault(client.pid, []).append(client)
    return clients


def page_on(client: socket.socket) -> int:
    """Ask on a connection that stays who serves it."""
    client.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    assert status(head) == 200
    length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
    while len(body) < length:
        body += client.recv(100)
    return int(body)


def serves(url: str, is_wanted: Callable[[int], bool]) -> int:
    """Ask until a process answers that is wanted."""
    while not is_wanted(pid := int(body_of(get(url, "/who")[1]))):
        pass
    return pid


@contextmanager
def workers(*options: str, **kwargs: Any) -> Iterator[Any]:
    """Two workers, listening; whoever asks for them ends them."""
    base = ["--workers", "2", "--listen", LOCAL, "--log-format", "none", *WHO]
    with Process("serve", *base, *options, **kwargs) as server:
        found: Any = server
        found.url = server.says().removeprefix("listening on ")
        yield found


def wait_for_end(pid: int) -> None:
    """Wait for the end of a process that is nobody's child here."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(descriptor):
        ended, _, _ = select.select([descriptor], [], [], PATIENCE)
        assert ended
