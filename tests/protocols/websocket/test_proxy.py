"""
``connect_websocket`` through an HTTP proxy: ``twisted.web.client.ProxyAgent`` over an ``UpgradePool``.

ProxyAgent sends the whole URL (absolute-form, RFC 9112 §3.2.2) to the proxy, which has to pass the
upgrade on. It does not know CONNECT, and so is of no use for ``wss``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import ProxyAgent
from twisted.web.http_headers import Headers

from tests.kit.harness import field, localhost, patient, reactor
from tests.kit.wsframes import websocket_factory, websocket_site
from tests.kit.wsstream import client_factory
from upgrade_switch import NotSwitched, UpgradePool, _twisted, splice
from upgrade_switch.protocols import connect_websocket


class Proxy(Protocol):
    """A proxy's connection: one request with the whole URL, and whatever comes of it."""

    transport: Any
    factory: Any

    def __init__(self) -> None:
        self._head = b""

    def dataReceived(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        self.factory.heads.append(self._head)
        self.transport.pauseProducing()
        method, url, rest = self._head.split(b" ", 2)
        parts = urlsplit(url)
        if field(self._head, b"proxy-authorization") != self.factory.wants:
            self.transport.write(
                b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
            )
            self.transport.resumeProducing()
            return
        connecting = connectProtocol(localhost(parts.port), Protocol())
        connecting.addCallback(self._connected, b"%b %b %b" % (method, parts.path, rest))

    def _connected(self, far: Any, head: bytes) -> None:
        far.transport.write(head)
        splice(self.transport, far.transport)
        self.transport.resumeProducing()


@asynccontextmanager
async def proxied(wants: bytes | None = None) -> AsyncIterator[tuple[ProxyAgent, Any]]:
    """An agent that goes through a proxy, and the proxy's factory, which has the heads it was sent."""
    factory: Any = Factory.forProtocol(Proxy)
    factory.noisy = False
    factory.heads, factory.wants = [], wants
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    pool = UpgradePool(reactor)
    try:
        yield ProxyAgent(localhost(port.getHost().port), reactor, pool), factory
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_through_a_proxy(scheme: str, listen: Any) -> None:
    """A WebSocket opens through a proxy; messages go both ways, and it closes as any other does."""
    listening = await listen("tcp", websocket_site(websocket_factory()))
    url = f"{listening.url}/u".replace("http", scheme, 1)
    async with proxied() as (agent, proxy):
        websocket = await patient(
            connect_websocket(UpgradePool(reactor), url, client_factory(), agent=agent)
        )
        (head,) = proxy.heads
        assert head.startswith(f"GET {listening.url}/u HTTP/1.1\r\n".encode())
        assert field(head, b"host") == urlsplit(listening.url).netloc.encode()
        assert field(head, b"connection") == b"Upgrade"
        for message in (b"there and back", bytes(200_000)):
            websocket.sendMessage(message, isBinary=True)
            await websocket.until("message", message, True)
        websocket.sendClose(1000)
        await websocket.until("close", True, 1000)


@pytest_twisted.ensureDeferred
async def test_proxy_that_asks_who_is_there(listen: Any) -> None:
    """A proxy's refusal is NotSwitched; with the field that it wants, the WebSocket opens."""
    listening = await listen("tcp", websocket_site(websocket_factory()))
    async with proxied(wants=b"Basic eDp5") as (agent, _):
        with pytest.raises(NotSwitched) as caught:
            await patient(
                connect_websocket(
                    UpgradePool(reactor), f"{listening.url}/u", client_factory(), agent=agent
                )
            )
        assert caught.value.response.code == 407
        websocket = await patient(
            connect_websocket(
                UpgradePool(reactor),
                f"{listening.url}/u",
                client_factory(),
                Headers({b"Proxy-Authorization": [b"Basic eDp5"]}),
                agent,
            )
        )
        _twisted.abort(websocket.transport)
        await websocket.is_over()
