"""
A WebSocket and its connection: going down, producers, clients that do not read, TLS beneath it, and
what is left when it has ended.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.protocols import tls
from zope.interface import implementer

from tests.kit.harness import KINDS, SOCKETS, Flood, patient, turns
from tests.kit.wscodec import BINARY, CLOSE, Frame
from tests.kit.wsframes import (
    GOING_AWAY,
    Echo,
    Stops,
    close_frame,
    frame,
    raw_client,
    waiting_in,
    websocket_factory,
    websocket_site,
)
from upgrade_switch import IDrainable

# Going down.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [None, 50, -1], ids=["between", "in a frame", "in a message"])
@pytest_twisted.ensureDeferred
async def test_drain(serve: Any, kind: str, cut: int | None) -> None:
    """A site that goes down says 1001, also in the middle of a message, and ends with the answer."""

    class Notes(Echo):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.note("message", payload, isBinary)

    client, protocol = await serve(Notes, kind)
    message = frame(b"x" * 100, fin=cut != -1)
    begun, rest = {None: (b"", b""), 50: (message[:50], message[50:]), -1: (message, b"")}[cut]
    client.send(begun)
    stats = protocol.trafficStats
    await protocol.waiters.until(lambda: stats.incomingOctetsWireLevel >= len(begun))
    drained = client.site.drain(60)
    said = await client.frame()
    assert (said.opcode, said.payload[:2]) == (CLOSE, GOING_AWAY.to_bytes(2, "big"))
    client.send(rest + close_frame(GOING_AWAY))
    await client.is_lost()
    await patient(drained)
    assert (await protocol.has("close"))[1:] == (True, GOING_AWAY)
    assert protocol.messages == ([b"x" * 100] if cut == 50 else [])


@pytest_twisted.ensureDeferred
async def test_drain_in_a_message_that_is_sent(serve: Any) -> None:
    """The close comes between the frames of a message that is being sent; the rest is not sent."""
    client, protocol = await serve()
    protocol.beginMessage(True)
    protocol.sendMessageFrame(b"begun")
    assert await client.frame() == Frame(BINARY, b"begun", fin=False)
    client.site.drain(60)
    await client.closed(GOING_AWAY)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_drain_is_not_answered(serve: Any, kind: str) -> None:
    """Who does not answer the close is aborted when the time is over."""
    clock = Clock()
    client, protocol = await serve(kind=kind, reactor=clock)
    protocol.closeHandshakeTimeout = 0
    drained = client.site.drain(5)
    assert (await client.frame()).opcode == CLOSE
    clock.advance(5)
    await client.is_lost()
    await patient(drained)


@implementer(IDrainable)
class Own(Echo):
    """Says goodbye in its own way."""

    def drain(self) -> None:
        self.sendClose(4001, "own")


class Inherits(Own):
    """Has it from its parent."""


@pytest.mark.parametrize("make", [Own, Inherits])
@pytest_twisted.ensureDeferred
async def test_own_goodbye(serve: Any, make: Any) -> None:
    """A protocol class that is IDrainable by itself says goodbye in its own way."""
    client, protocol = await serve(make)
    assert IDrainable.providedBy(protocol)
    client.site.drain(60)
    said = await client.closed(4001)
    assert said.payload[2:] == b"own"


# Whose transport it is.


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_transport(serve: Any, kind: str) -> None:
    """The transport gives its bytes to the protocol, and to nothing in between."""
    client, protocol = await serve(kind=kind)
    name = "wrappedProtocol" if kind in ("tls", "proxy") else "protocol"
    assert getattr(protocol.transport, name) is protocol
    (entry,) = client.site.switched
    assert (entry.target, str(entry.token), entry.path) == (protocol, "websocket", b"/u")
    assert protocol.factory.countConnections == 1


# Producers.


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_own_producer(serve: Any, kind: str) -> None:
    """A protocol can register a producer of its own, which is paused and resumed."""
    client, protocol = await serve(kind=kind)
    producer = Stops()
    protocol.registerProducer(producer, True)
    client.transport.pauseProducing()
    protocol.sendMessage(b"x" * 10_000_000, True)
    assert producer.told == ["pause"]
    client.transport.resumeProducing()
    assert len((await client.frame()).payload) == 10_000_000
    await producer.waiters.until(lambda: producer.told[-1] == "resume")
    protocol.unregisterProducer()
    await client.echoes()
    await client.closes()
    assert "stop" not in producer.told


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_pull_producer(serve: Any, kind: str) -> None:
    """A pull producer is asked as fast as the client reads."""
    client, protocol = await serve(kind=kind)

    class Registers:
        write = staticmethod(lambda data: protocol.sendMessage(data, True))
        registerProducer = protocol.registerProducer

    flood = Flood(Registers())
    for _ in range(100):
        assert len((await client.frame()).payload) == 65536
    protocol.unregisterProducer()
    assert flood.sent >= 65536 * 100


# Clients that do not read.

MUCH = 50_000_000


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_slow_reader(serve: Any, kind: str) -> None:
    """Echoing to a client that sends 50 MB and does not read takes little memory, loses nothing."""
    client, protocol = await serve(kind=kind)
    client.transport.pauseProducing()
    size = 100_000
    most = 0
    rest = MUCH // size
    message = frame(b"x" * size)

    class Sends:
        """Sends as fast as the connection takes it."""

        def resumeProducing(self) -> None:
            nonlocal rest
            if rest:
                rest -= 1
                client.transport.write(message)
            else:
                client.transport.unregisterProducer()

        def stopProducing(self) -> None:
            pass

    client.transport.registerProducer(Sends(), False)
    # Nothing moves any more: the server does not read, so that the client cannot write.
    before, still = -1, 0
    while still < 50:
        await turns(1)
        most = max(most, waiting_in(protocol))
        still = still + 1 if len(protocol.events) == before else 0
        before = len(protocol.events)
    assert rest > 0
    assert most < 5_000_000, most
    client.transport.resumeProducing()
    received = 0
    while received < MUCH:
        await client.until(lambda: client.amount > 0)
        received += client.data.count(b"x")
        client.data = b""
        most = max(most, waiting_in(protocol))
        await turns(1)
    assert rest == 0
    assert most < 5_000_000, most


# What is left.


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        # Twisted's TLS layer keeps the failure of the other two endings.
        (kind, ending)
        for kind in SOCKETS
        for ending in ("client closes", "server closes", "lost")
        if kind != "tls" or ending == "client closes"
    ],
)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, kind: str, ending: str) -> None:
    """Channel and request are freed at the switch, the protocol at the end, by counting alone."""
    watched: list[Any] = []

    class Watched(Echo):
        def __init__(self) -> None:
            super().__init__()
            watched.append(ref(self))

        def note(self, *event: Any) -> None:
            """Keeps nothing."""

    factory: Any = websocket_factory(Watched)
    site = websocket_site(factory)
    client = await raw_client(await listen(kind, site))
    await client.opens()
    await client.echoes()
    protocol = factory.built.pop()
    # autobahn's own: a closed protocol is the result of its Deferred.
    protocol.is_closed.addCallback(lambda _: None)
    assert [weak() for weak in site.requests + site.channels if weak()] == []
    if kind != "tls" or hasattr(tls, "_NullAggregator"):
        # Twisted's TLS layer of old keeps itself.
        watched.append(ref(protocol.transport))
    if ending == "server closes":
        protocol.sendClose(1000)
        await client.closed(1000)
    elif ending == "client closes":
        await client.closes()
    else:
        client.transport.abortConnection()
    del protocol
    await patient(site.switched.when_empty())
    await turns()
    assert [weak() for weak in watched if weak()] == []
