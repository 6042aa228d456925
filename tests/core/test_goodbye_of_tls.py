"""
An end of TLS that says goodbye while the other one still has much to send, and then nothing more. (A
splice's and HTTP/2's are in their own modules.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.exchanging import CHUNKED, Heard
from tests.kit.farside import LARGE, Collector
from tests.kit.harness import patient, site_of
from tests.kit.scripted import playing
from tests.kit.waiting import eventually
from tests.kit.wsframes import handshake, websocket_factory
from upgrade_switch import UpgradeResource, UpgradeSite, _twisted
from upgrade_switch.protocols import message_stream, websocket

#: More than the kernel takes for an end that does not read.
MUCH = bytes(LARGE * 32)


@implementer(IPushProducer)
class Idle:
    """A producer that has nothing more."""

    def pauseProducing(self) -> None:
        """It does not write."""

    resumeProducing = stopProducing = pauseProducing


class Ends:
    """
    What keeps a server's side of a connection until it has ended.

    :ivar transport: the server's.
    :ivar ended: fires when its owner has been told of the end.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.ended: Deferred[None] = Deferred()


class Unfinished(Resource):
    """Answers with much, and does not finish."""

    isLeaf = True

    def __init__(self, ends: Ends, has_producer: bool) -> None:
        super().__init__()
        self._ends = ends
        self._has_producer = has_producer

    def render_GET(self, request: Any) -> int:
        self._ends.transport = request.transport
        request.notifyFinish().addErrback(lambda _: self._ends.ended.callback(None))
        if self._has_producer:
            request.registerProducer(Idle(), True)
        request.write(MUCH)
        return NOT_DONE_YET


def page(ends: Ends) -> UpgradeSite:
    return UpgradeSite(Unfinished(ends, False))


def page_with_a_producer(ends: Ends) -> UpgradeSite:
    return UpgradeSite(Unfinished(ends, True))


def messages(ends: Ends) -> UpgradeSite:
    async def handle(stream: Any) -> None:
        ends.transport = stream._connection.transport
        sending = stream.send(MUCH)
        await stream.wait_closed()
        sending.addErrback(lambda _: None)
        ends.ended.callback(None)

    return site_of(UpgradeResource({"websocket": message_stream(handle)}))


def frames_of_autobahn(ends: Ends) -> UpgradeSite:
    class Sends(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's types
        def onOpen(self) -> None:
            ends.transport = self.transport
            self.registerProducer(Idle(), True)
            self.sendMessage(MUCH, True)

        def onClose(self, *_: object) -> None:
            self.unregisterProducer()
            ends.ended.callback(None)

    return site_of(UpgradeResource({"websocket": websocket(websocket_factory(Sends))}))


@pytest.mark.parametrize("serve", [page, page_with_a_producer, messages, frames_of_autobahn])
@pytest_twisted.ensureDeferred
async def test_of_a_client(listen: Any, serve: Callable[[Ends], UpgradeSite]) -> None:
    """When everything has been sent, the connection ends, and its owner is told."""
    ends = Ends()
    listening = await listen("tls", serve(ends))
    client = await listening.connect(Collector())
    client.send(
        handshake() if serve in (messages, frames_of_autobahn) else b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    await client.has(1)
    client.transport.pauseProducing()
    await eventually(lambda: ends.transport is not None)
    socket = _twisted.bottom(ends.transport)
    await eventually(lambda: socket.producerPaused)
    # A channel that is paused does not read.
    socket.resumeProducing()
    client.transport.loseConnection()
    await eventually(lambda: socket.disconnecting)
    client.transport.resumeProducing()
    await patient(ends.ended)
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_of_a_server() -> None:
    """A server that goes away without an answer fails the exchange."""
    async with playing("tls") as server:
        heard = Heard()
        client = await patient(server.pool.exchange_client("key", server.client))
        exchange = client.exchange(CHUNKED, heard)
        exchange.registerProducer(Idle(), True)
        exchange.flush()
        peer, _ = await server.asked()
        peer.transport.pauseProducing()
        exchange.write(MUCH)
        socket = _twisted.bottom(client.transport)
        await eventually(lambda: socket.producerPaused)
        peer.transport.loseConnection()
        await eventually(lambda: socket.disconnecting)
        peer.transport.resumeProducing()
        await heard.over()
        assert heard.last == "failed"
