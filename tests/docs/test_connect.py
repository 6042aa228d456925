"""
What docs/howto/connect.md says about a proxy for CONNECT holds.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import contextmanager
from typing import Any

import pytest_twisted
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from tests.kit.documented import Reader, Session, read, sessions
from tests.kit.foreign import needs
from tests.kit.harness import Recorder, reactor, status

__all__ = ["read"]  # a fixture

PAGE = "howto/connect.md"


def commands_of(reader: Reader) -> list[Session]:
    return [session for block in reader.blocks("console") for session in sessions(block.text)]


@contextmanager
def behind(reader: Reader) -> Any:
    """What stands for the server behind the proxy."""
    root = Resource()
    root.putChild(b"", Data(b"hello from behind the proxy\n", "text/plain"))
    listening = reactor.listenTCP(reader.port(8092), Site(root), interface="127.0.0.1")
    try:
        yield
    finally:
        listening.stopListening()


@needs("curl")
@pytest_twisted.ensureDeferred
async def test_command(read: Any) -> None:
    """curl gets where the page's proxy lets it, with and without a password, and nowhere else."""
    reader = read(PAGE)
    serve, get, elsewhere, serve_users, as_user = commands_of(reader)
    (reader.folder / "passwords").write_text("ada:lovelace\n")
    with behind(reader):
        with reader.serves(serve):
            await reader.types(get)
            await reader.types(elsewhere)
        with reader.serves(serve_users):
            await reader.types(as_user)


@pytest_twisted.ensureDeferred
async def test_own_site(read: Any, listen: Any) -> None:
    """The page's own site does the same."""
    reader = read(PAGE)
    (reader.folder / "passwords").write_text("ada:lovelace\n")
    reader.runs()
    listening = await listen("tcp", reader.names["site"])
    credentials = b"Proxy-Authorization: Basic " + b64encode(b"ada:lovelace") + b"\r\n"
    there = b"localhost:%d" % reader.port(8092)
    with behind(reader):
        for target, fields, code in (
            (there, b"", 407),
            (b"localhost:1", credentials, 403),
            (b"127.0.0.1:%d" % reader.port(8092), credentials, 403),
            (there, credentials, 200),
        ):
            client = await listening.connect(Recorder())
            client.send(b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
            assert status(await client.head()) == code
            if code == 200:
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                await client.receives(b"hello from behind the proxy\n")
