"""
The how-to "A reverse proxy": its code runs, in front of a site with a page and a WebSocket.
"""

from __future__ import annotations

from typing import Any

import pytest_twisted
import treq
from twisted.internet.endpoints import TCP4ServerEndpoint, connectProtocol
from twisted.web.resource import Resource

from tests.kit.documented import read
from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, reactor, site_of
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream

__all__ = ["read"]  # a fixture


class Page(Resource):
    """Says what it was asked for."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        found: bytes = request.uri + b" " + request.getHeader(b"x-forwarded-for")
        return found


@pytest_twisted.async_yield_fixture
async def page(read: Any) -> Any:
    """The page's reader, with its code run, and its site and the back end listening."""
    reader = read("howto/proxy.md")
    reader.runs()
    stream = byte_stream(factory_of(EchoTarget)[0], allowed_origins=["*"])
    behind = site_of({"websocket": stream}, path=b"bytes")
    behind.resource.putChild(b"page", Page())
    ports = [
        await TCP4ServerEndpoint(reactor, reader.port(8000), interface="127.0.0.1").listen(behind),
        await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(reader.names["site"]),
    ]
    reader.url = f"127.0.0.1:{ports[1].getHost().port}/app/"
    yield reader
    for port in ports:
        await port.stopListening()
    await patient(reader.names["root"].children[b"app"].close())
    # It asks its back ends how they are.
    await patient(reader.names["shop"].close())


@pytest_twisted.ensureDeferred
async def test_page(page: Any) -> None:
    """A page comes through, for the path below the mount point."""
    response = await patient(treq.get(f"http://{page.url}page?x=1", persistent=False))
    assert await patient(response.content()) == b"/page?x=1 127.0.0.1"


@pytest_twisted.ensureDeferred
async def test_websocket(page: Any) -> None:
    """A WebSocket comes through."""
    endpoint = WebSocketEndpoint(reactor, f"ws://{page.url}bytes")
    client = await patient(connectProtocol(endpoint, Recorder()))
    client.send(b"hello")
    await client.receives(b"hello")
    client.transport.loseConnection()
    await client.is_lost()


def test_many(read: Any) -> None:
    """The proxies with several tokens, networks and back ends are what the page says."""
    reader = read("howto/proxy.md")
    reader.runs()
    assert len(reader.names["shop"].back_ends) == 2
    (docker,) = reader.names["docker"].back_ends
    assert docker.url == "unix:/var/run/docker.sock"
