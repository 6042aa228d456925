"""
The how-to "Through a proxy": its code runs, through a proxy that notes where it is asked to go.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.web.client import Agent
from twisted.web.pages import forbidden
from twisted.web.resource import Resource

from tests.kit.documented import read
from tests.kit.harness import EchoTarget, Recorder, WatchedSite, factory_of, patient, reactor, site_of
from tests.kit.wsstream import client_factory
from upgrade_switch import NotSwitched, UpgradeResource
from upgrade_switch.protocols import byte_stream, tunnel, websocket

__all__ = ["read"]  # a fixture


class Chat(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn has no types in some versions
    """Sends every message back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class Proxy:
    """
    An acceptor that connects where it is asked to.

    :ivar asked: what it was asked: the authority, and the credentials.
    :ivar answer: what it answers with instead.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.answer: Any = None

    def __call__(self, request: Any, authority: bytes) -> Any:
        self.asked.append((authority.decode(), request.getHeader("proxy-authorization")))
        host, _, port = authority.decode().rpartition(":")
        return self.answer or tunnel(HostnameEndpoint(reactor, host, int(port)))(request, authority)


@pytest.fixture
def page(read: Any) -> Any:
    """The page's reader, with its code run."""
    reader = read("howto/proxies.md")
    reader.runs()
    return reader


@pytest_twisted.async_yield_fixture
async def proxy(page: Any) -> Any:
    """The servers that the page names: a site, a proxy, and an echo in place of sshd."""
    proxy = Proxy()
    chats = WebSocketServerFactory()
    chats.protocol = Chat
    site = site_of({"echo": factory_of(EchoTarget)[0]}, path=b"echo")
    origins = ["*"]
    stream = byte_stream(factory_of(EchoTarget)[0], allowed_origins=origins)
    site.resource.putChild(b"bytes", UpgradeResource({"websocket": stream}))
    site.resource.putChild(b"chat", UpgradeResource({"websocket": websocket(chats)}))
    ports = [
        await TCP4ServerEndpoint(reactor, page.port(number), interface="127.0.0.1").listen(factory)
        for number, factory in (
            (8080, site),
            (8888, WatchedSite(Resource(), connect=proxy)),
            (8022, factory_of(EchoTarget)[0]),
        )
    ]
    yield proxy
    for port in ports:
        await port.stopListening()


async def echoes(connecting: Deferred[Any]) -> None:
    client = await patient(connecting)
    client.send(b"hello")
    await client.receives(b"hello")
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_upgrades(page: Any, proxy: Proxy) -> None:
    """The agent asks through the proxy, and so does the endpoint over it."""
    names = page.names
    client = Recorder()
    connection = await patient(Deferred.fromCoroutine(names["ask"]()))
    connection.install(client)
    await echoes(connectProtocol(names["endpoint"], Recorder()))
    client.transport.loseConnection()
    await client.is_lost()
    assert proxy.asked == [(f"127.0.0.1:{page.port(8080)}", None)] * 2


@pytest_twisted.ensureDeferred
async def test_websockets(page: Any, proxy: Proxy) -> None:
    """Bytes in WebSockets, and a chat, go through the proxy."""
    await echoes(connectProtocol(page.names["stream"], Recorder()))
    chat = await patient(page.names["open_chat"](client_factory()))
    chat.sendMessage(b"hello", True)
    await chat.until("message", b"hello", True)
    chat.sendClose(1000)
    await chat.is_over()
    assert len(proxy.asked) == 2


@pytest_twisted.ensureDeferred
async def test_other_clients(page: Any, proxy: Proxy) -> None:
    """Bytes that are no HTTP go through the proxy, by the object and by the string."""
    await echoes(connectProtocol(page.names["ssh"], Recorder()))
    await echoes(connectProtocol(page.names["same"], Recorder()))
    assert proxy.asked == [(f"127.0.0.1:{page.port(8022)}", None)] * 2


@pytest_twisted.ensureDeferred
async def test_refused(page: Any, proxy: Proxy) -> None:
    """The answer of a proxy that refuses can be read; it was sent the credentials."""
    proxy.answer = forbidden(message="Not you.")
    connecting = connectProtocol(page.names["ssh"], Recorder())
    code, body = await patient(Deferred.fromCoroutine(page.names["why_not"](connecting)))
    assert code == 403
    assert b"Not you." in body
    agent = Agent.usingEndpointFactory(reactor, page.names["named"])
    with pytest.raises(NotSwitched, match="403"):
        await patient(treq.get(f"http://127.0.0.1:{page.port(8080)}/", agent=agent, persistent=False))
    assert proxy.asked[-1][1] == "Basic bWU6c2VjcmV0IQ=="


@pytest_twisted.ensureDeferred
async def test_tls_by_upgrade(page: Any, proxy: Proxy) -> None:
    """The agent for printers asks through the proxy; a server without TLS gets no request."""
    url = f"http://127.0.0.1:{page.port(8080)}/page".encode()
    with pytest.raises(NotSwitched):
        await patient(page.names["printing"].request(b"GET", url))
    assert len(proxy.asked) == 1
