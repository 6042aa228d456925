"""
The how-tos about servers, clients, WebSockets, prefaces and HTTP/2: their code does what they say.
"""

from __future__ import annotations

import re
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.web.resource import IResource, Resource
from twisted.web.websocket import WebSocketClientEndpoint

from tests.kit import ROOT
from tests.kit.documented import DOCS, Reader, read
from tests.kit.h2client import H2Client
from tests.kit.harness import (
    Recorder,
    Waiters,
    WatchedSite,
    localhost,
    patient,
    reactor,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeResource

__all__ = ["read"]  # a fixture


class User:
    room = "kitchen"


class Users:
    """The page leaves them to its reader."""

    async def find(self, cookie: bytes | None) -> User | None:
        return User() if cookie == b"good" else None


class Talk(Recorder):
    """The protocol that the pages leave to their reader."""

    talking: list[Talk] = []  # noqa: RUF012 - one list for the whole test, on purpose

    def connectionMade(self) -> None:
        super().connectionMade()
        self.talking.append(self)
        self.send(b"hello")


async def client_of(reader: Reader, named: int = 8080) -> Recorder:
    """Connect to a port that a page has named."""
    return await patient(connectProtocol(localhost(reader.port(named)), Recorder()))


@pytest_twisted.ensureDeferred
async def test_server(read: Any) -> None:
    """The page's echo switches, its acceptor decides by cookie, and its resource switches by hand."""
    reader = read("howto/server.md", users=Users(), Chat=lambda user: Recorder())
    reader.runs()
    for path, token, fields, expected in (
        (b"/echo", b"echo", b"", 101),
        (b"/echo", b"other", b"", 426),
        (b"/chat", b"chat/2", b"Cookie: session=good\r\n", 101),
        (b"/chat", b"chat/2", b"Cookie: session=bad\r\n", 403),
        (b"/by-hand", b"echo", b"", 101),
        (b"/by-hand", b"other", b"", 426),
    ):
        client = await client_of(reader)
        client.send(upgrade_head(token, path=path, fields=fields))
        head = await client.head()
        assert status(head) == expected
        assert (b"X-Room: kitchen" in head) is (token == b"chat/2" and expected == 101)
        client.transport.abortConnection()
    for token, expected in ((b"tcp", 101), (b"other", 200)):
        client = await client_of(reader)
        client.send(upgrade_head(token, b"POST", b"/raw", b"Content-Length: 1\r\n") + b"x" + b"raw")
        assert status(await client.head()) == expected
        await client.receives(b"raw")
        client.transport.abortConnection()
    assert reader.names["limited"].accept_timeout == 10


@pytest_twisted.ensureDeferred
async def test_client(read: Any, capsys: Any) -> None:
    """The page's treq client and its endpoints connect; a refusal is printed."""
    server = read("howto/server.md", users=Users(), Chat=None)
    server.runs()
    reader = read("howto/client.md", Talk=Talk)
    reader.runs()
    url = f"http://127.0.0.1:{server.port(8080)}"
    await reader.names["talk"](f"{url}/echo")
    talk = Talk.talking.pop()
    await talk.receives(b"hello")
    talk.transport.abortConnection()
    await talk.is_lost()
    await reader.names["talk"](f"{url}/nothing")
    assert capsys.readouterr().out.startswith("404 ")
    for name in ("endpoint", "exec_start", "same"):
        talk = await patient(reader.names[name].connect(Factory.forProtocol(Talk)))
        await talk.receives(b"hello")
        talk.transport.loseConnection()
        await talk.is_lost()
    await reader.names["pool"].closeCachedConnections()


@pytest_twisted.ensureDeferred
async def test_websocket(read: Any, capsys: Any) -> None:
    """The page's client gets its message back; its stream is an acceptor and an endpoint."""
    reader = read("howto/websocket.md")
    reader.runs()
    url = f"ws://127.0.0.1:{reader.port(8080)}/ws"
    await patient(Deferred.fromCoroutine(reader.names["ask"](url)))
    assert capsys.readouterr().out == "hello\n"
    assert isinstance(reader.names["root"].children[b"vnc"], UpgradeResource)
    assert IStreamClientEndpoint.providedBy(reader.names["client"])


@pytest_twisted.ensureDeferred
async def test_messages(read: Any) -> None:
    """The page's client gets what it has said in its chat; its own acceptor lets in members only."""
    said: Deferred[str] = Deferred()
    reader = read("howto/messages.md", print=said.callback)
    reader.runs()
    assert await patient(said) == "hello"
    stranger = SimpleNamespace(getCookie=lambda name: None)
    refused = await patient(Deferred.fromCoroutine(reader.names["members_only"](stranger, None)))
    assert IResource.providedBy(refused)
    await patient(reader.names["service"].stopService())


@pytest_twisted.ensureDeferred
async def test_preface(read: Any) -> None:
    """The flag line leads to its protocol, which receives that line too, also between two requests."""
    reader = read("howto/prefaces.md")
    reader.runs()
    client = await client_of(reader)
    client.send(b"SHOUT\r\nhello\r\n")
    await client.receives(b"SHOUT\r\nHELLO\r\n")
    client.transport.abortConnection()
    client = await client_of(reader)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.response())[0].startswith(b"HTTP/1.1 404 ")
    client.send(b"SHOUT\r\nhello\r\n")
    await client.receives(b"HELLO\r\n")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_h2c(read: Any) -> None:
    """The page's site switches to HTTP/2."""
    reader = read("howto/h2c.md")
    reader.runs()
    client = await client_of(reader)
    settings = b"Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    client.send(upgrade_head(b"h2c", path=b"/", fields=settings))
    assert status(await client.head()) == 101
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_http2(read: Any) -> None:
    """A stream of the page's site switches, and its target echoes."""
    reader = read("howto/http2.md")
    reader.runs()
    client = await patient(connectProtocol(localhost(reader.port(8080)), H2Client()))
    client.begin()
    stream = client.begin_connect(b"echo", b"/echo")
    assert (await client.head_of(stream))[0] == 200
    client.give(stream, b"hello", end=True)
    await client.until(lambda: stream in client.ended)
    assert client.body_of(stream) == b"hello"
    client.transport.loseConnection()
    await client.is_lost()
    # Without TLS there is no ALPN: the page's client asks over HTTP/1.1.
    target = Recorder()
    await reader.names["talk"](f"http://127.0.0.1:{reader.port(8080)}/echo", target)
    target.send(b"hello")
    await target.receives(b"hello")
    target.transport.loseConnection()
    await target.is_lost()


@pytest_twisted.ensureDeferred
async def test_from_twisted_web_websocket(listen: Any) -> None:
    """
    What docs/ says about moving from twisted.web.websocket: a protocol of that module works on the
    switch with that module's own client, and gets a frame from the request's own segment.
    """
    page = (DOCS / "howto" / "from-twisted-web-websocket.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = run_path(str(ROOT / "examples" / "twisted_websocket.py"), run_name="example")
    names["root"] = Resource()
    exec(compile(block, "docs", "exec"), names)
    listening = await listen("tcp", WatchedSite(names["root"]))

    told = Waiters()
    heard: list[Any] = []

    class Listener(names["Echo"]):
        def textMessageReceived(self, message: str) -> None:
            heard.append(message)
            told.look()

        def connectionLost(self, reason: Any) -> None:
            heard.append("lost")
            told.look()

    class Factory:
        def buildProtocol(self, url: str) -> Any:
            return Listener()

    endpoint = WebSocketClientEndpoint.new(reactor, f"{listening.url}/ws")
    protocol = await patient(Deferred.fromCoroutine(endpoint.connect(Factory())))
    protocol.transport.sendTextMessage("hello")
    await told.until(lambda: heard == ["hello"])
    protocol.transport.loseConnection()
    await told.until(lambda: heard == ["hello", "lost"])

    client = await listening.connect()
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    client.send(upgrade_head(b"websocket", path=b"/ws", fields=key) + b"\x81\x82\0\0\0\0hi")
    assert status(await client.head()) == 101
    await client.receives(b"\x81\x02hi")
