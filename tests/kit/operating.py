"""
``upgrade-switch serve`` and ``twist upgrade-switch``, operated as servers are: signals, logs, and plain
clients that look at what is answered.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.commands import COMMAND, LOCAL, read_all, read_until
from tests.kit.harness import status, upgrade_head
from tests.kit.programs import PATIENCE, Script

TWIST = str(Path(COMMAND).with_name("twist"))
TWISTD = str(Path(COMMAND).with_name("twistd"))

#: What begins each kind of server, with its log as JSON.
SERVERS = {
    "serve": [COMMAND, "serve", "--log-format", "json"],
    "twist": [TWIST, "--log-format=json", "upgrade-switch"],
}


class Operated(Script):
    """A server, of one of the :data:`SERVERS` for example, while it runs."""

    def __init__(self, command: list[str], *arguments: str, **kwargs: Any) -> None:
        super().__init__([*command, *arguments], **{"stdin": None} | kwargs)

    def listens(self) -> str:
        """The next address that it says it listens on."""
        said = self.says()
        assert said.startswith("listening on "), said
        return said.removeprefix("listening on ")

    def finishes(self) -> list[dict[str, Any]]:
        """
        Wait for its end, by SIGTERM, which is a success.

        :return: what it has logged about switches.
        """
        code, out, error = self.ends()
        assert code == 0, (code, error)
        return [event for event in logged(out + error) if "event" in event]


def logged(lines: bytes) -> list[dict[str, Any]]:
    """A log, as JSON: an object a line, and nothing else."""
    # twist's lines begin with RS (RFC 7464).
    return [json.loads(line.lstrip(b"\x1e")) for line in lines.splitlines()]


@contextmanager
def operated(kind: str, *arguments: str, **kwargs: Any) -> Iterator[Operated]:
    """A server, listening; its ``url`` says where. Who asks for it ends it."""
    with Operated(SERVERS[kind], "--listen", LOCAL, *arguments, **kwargs) as server:
        found: Any = server
        found.url = server.listens()
        yield found


def connected(url: str) -> socket.socket:
    """A client of a URL, or of a UNIX socket."""
    match = re.fullmatch(r"(https?)://([0-9.]+):([0-9]+)/", url)
    if match is None:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(url)
        return client
    client = socket.create_connection((match[2], int(match[3])), PATIENCE)
    if match[1] == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = context.wrap_socket(client)
    return client


def upgraded(url: str, path: str, token: str, fields: bytes = b"") -> socket.socket:
    """A client that has switched."""
    client = connected(url)
    client.sendall(upgrade_head(token.encode(), path=path.encode(), fields=fields))
    head = read_until(client, b"\r\n\r\n")
    assert status(head) == 101, head
    return client


def answer(url: str, head: bytes) -> tuple[int, bytes]:
    """
    Send a request as it is, which has ``Connection: close``.

    :return: the status code, and all of the answer.
    """
    with connected(url) as client:
        client.sendall(head)
        got = read_all(client)
    return status(got), got


def get(url: str, target: str = "/", fields: bytes = b"") -> tuple[int, bytes]:
    """Ask for a page by exactly this target: clients clean up what is in it."""
    line = b"GET " + target.encode("latin-1") + b" HTTP/1.1\r\n"
    return answer(url, line + b"Host: localhost\r\nConnection: close\r\n" + fields + b"\r\n")


def body_of(got: bytes) -> bytes:
    """The body of an answer that has a Content-Length."""
    return got.partition(b"\r\n\r\n")[2]
