"""
How streams of bytes in WebSocket's messages end: slow readers, no Close frame, drains, half-closes.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.kit.farside import MEGABYTE, Collector, Servers, send_buffers, settled
from tests.kit.harness import (
    HalfCloseRecorder,
    Recorder,
    factory_of,
    field,
    patient,
    site_of,
    status,
    turns,
)
from tests.kit.wscodec import BINARY
from tests.kit.wsstream import WebSocketByHand, close, endpoint_to, frame, next_frame, take_frame
from upgrade_switch import IDrainable, _twisted
from upgrade_switch.protocols import byte_stream, tunnel

kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])

ASK = b"Half-Close: ?1\r\n"


@pytest_twisted.async_yield_fixture
async def servers(listen: Any) -> Any:
    found = Servers(listen)
    yield found
    await found.stop()


async def by_hand(listening: Any, fields: bytes = b"") -> Any:
    client = await listening.connect(WebSocketByHand())
    client.ask(fields)
    client.answer = await client.head()
    assert status(client.answer) == 101
    return client


async def serving(listen: Any, kind: str, make: Any) -> Any:
    """A site with a stream to such a target; its clock stands still."""
    factory, built = factory_of(make)
    listening = await listen(kind, site_of({"websocket": byte_stream(factory)}))
    listening.built = built
    listening.site.reactor = listening.clock = Clock()
    return listening


async def tunnelling(listen: Any, servers: Any, kind: str) -> Any:
    """A site with a tunnel in messages; its clock stands still."""
    far = await servers("tcp")
    acceptor = byte_stream(tunnel(far.endpoint))
    listening = await listen(kind, site_of({"websocket": acceptor}))
    listening.site.reactor = listening.clock = Clock()
    listening.far = far
    return listening


async def loses(end: Any, clock: Clock) -> None:
    """Wait for the end of a connection that is watched by a clock."""
    for _ in range(1000):
        if end.reason is not None:
            return
        await turns(1)
        clock.advance(0.01)
    raise AssertionError("it goes on")


@kinds
@pytest_twisted.ensureDeferred
async def test_slow_reader(listen: Any, kind: str) -> None:
    """A client that reads slowly gets all of what was sent, and the Close frame."""
    listening = await serving(listen, kind, Recorder)
    client = await by_hand(listening)
    (target,) = listening.built
    target.transport._websocket.factory.reactor = clock = Clock()
    # Less than what is read in one go: else the kernel has taken everything long before.
    kernel = _twisted.bottom(client.transport).getHandle()
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.transport.pauseProducing()
    target.send(4 * MEGABYTE)
    target.transport.loseConnection()
    data = bytearray()
    while len(data) < 4 * len(MEGABYTE):
        clock.pump([1] * 50)
        assert client.reason is None
        client.transport.resumeProducing()
        before = len(client.data)
        wanted = min(before + 300_000, 4 * len(MEGABYTE))
        await client.until(lambda wanted=wanted: client.amount >= wanted or client.reason)
        client.transport.pauseProducing()
        # So that what has been read is acknowledged.
        await settled(lambda: len(client.data))
        clock.advance(1)
        while found := take_frame(client.data):
            data += found[0].payload
            client.data = client.data[found[1] :]
    assert data[: 4 * len(MEGABYTE)] == 4 * MEGABYTE
    client.transport.resumeProducing()
    client.send(close(masked=True))
    await client.is_lost()
    assert client.reason.check(ConnectionDone)
    await target.is_lost()


@pytest_twisted.ensureDeferred
async def test_reader_that_is_stuck(listen: Any) -> None:
    """A client that takes nothing for 60 seconds is given up."""
    listening = await serving(listen, "tcp", Recorder)
    client = await by_hand(listening)
    (target,) = listening.built
    target.transport._websocket.factory.reactor = clock = Clock()
    client.transport.pauseProducing()
    target.send(4 * MEGABYTE)
    target.transport.loseConnection()
    await settled(lambda: _twisted.unsent(target.transport.carrier))
    clock.pump([1] * 58)
    assert target.reason is None
    clock.pump([1] * 5)
    await target.is_lost()
    assert clock.getDelayedCalls() == []
    client.transport.resumeProducing()
    await client.is_lost()
    assert not client.reason.check(ConnectionDone)


@kinds
@pytest_twisted.ensureDeferred
async def test_fin_without_close_frame(listen: Any, servers: Any, kind: str) -> None:
    """What a client has sent arrives, even if it ends without a Close frame; then comes an error."""
    listening = await tunnelling(listen, servers, kind)
    client = await by_hand(listening)
    target = await listening.far.site.next()
    target.transport.pauseProducing()
    client.send(frame(BINARY, MEGABYTE[:300_000], masked=True))
    client.transport.loseConnection()
    await client.is_lost()
    await turns(10)
    target.transport.resumeProducing()
    await target.has(300_000)
    await loses(target, listening.clock)
    assert target.data == MEGABYTE[:300_000]
    assert not target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_target_is_reset(listen: Any, servers: Any) -> None:
    """A far server that is reset is lost for the client, too, once it has read all."""
    listening = await tunnelling(listen, servers, "tcp")
    client = await patient(connectProtocol(endpoint_to(listening), Collector()))
    target = await listening.far.site.next()
    target.send(MEGABYTE)
    await client.has(len(MEGABYTE))
    target.transport.abortConnection()
    await target.is_lost()
    await loses(client, listening.clock)
    assert client.data == MEGABYTE
    assert client.reason.check(ConnectionLost)


# Drains.


@pytest_twisted.ensureDeferred
async def test_tunnel_has_the_time_of_the_drain(listen: Any, servers: Any) -> None:
    """
    A tunnel goes on while the site drains, until a second before the end: then comes 1001, which is
    ConnectionLost for the client and an error for the target.
    """
    listening = await tunnelling(listen, servers, "tcp")
    client = await patient(connectProtocol(endpoint_to(listening), Collector()))
    target = await listening.far.site.next()
    drained = listening.site.drain(30)
    listening.clock.advance(28.9)
    client.send(b"still")
    target.send(b"here")
    await target.has(5)
    await client.has(4)
    listening.clock.advance(0.2)
    await client.is_lost()
    assert client.reason.check(ConnectionLost)
    await loses(target, listening.clock)
    assert not target.reason.check(ConnectionDone)
    await patient(drained)
    assert listening.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_transfer_ends_within_the_drain(listen: Any, servers: Any) -> None:
    """A tunnel that ends by itself while the site drains has ended cleanly."""
    listening = await tunnelling(listen, servers, "tcp")
    client = await patient(connectProtocol(endpoint_to(listening), Collector()))
    target = await listening.far.site.next()
    drained = listening.site.drain(30)
    target.send(MEGABYTE)
    target.transport.loseConnection()
    await client.sees_end()
    assert client.data == MEGABYTE
    client.transport.loseConnection()
    await client.is_lost()
    assert client.reason.check(ConnectionDone)
    await patient(drained)
    assert listening.clock.getDelayedCalls() == []


@implementer(IDrainable)
class Polite(Recorder):
    """A target that says goodbye."""

    def drain(self) -> None:
        self.transport.write(b"bye")
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_drainable_inside(listen: Any) -> None:
    """A protocol inside a stream that is itself IDrainable is told at once."""
    listening = await serving(listen, "tcp", Polite)
    client = await by_hand(listening)
    drained = listening.site.drain(30)
    assert (await next_frame(client)).payload == b"bye"
    assert (await next_frame(client)).code == 1000
    client.send(close(masked=True))
    await patient(drained)


@pytest.mark.parametrize(("timeout", "at"), [(1, 0.5), (10, 9)])
@pytest_twisted.ensureDeferred
async def test_time_of_1001(listen: Any, timeout: float, at: float) -> None:
    """1001 comes ``min(1, timeout / 2)`` seconds before the abort."""
    listening = await serving(listen, "tcp", Recorder)
    client = await by_hand(listening)
    drained = listening.site.drain(timeout)
    listening.clock.advance(at - 0.01)
    await turns(5)
    assert client.data == b""
    listening.clock.advance(0.02)
    assert (await next_frame(client)).code == 1001
    client.send(close(1001, masked=True))
    await patient(drained)


# Half-closes.


@kinds
@pytest_twisted.ensureDeferred
async def test_half_close(listen: Any, kind: str) -> None:
    """Between two ends of this package, each direction ends by itself, behind its bytes."""
    listening = await serving(listen, kind, HalfCloseRecorder)
    client = await patient(connectProtocol(endpoint_to(listening), HalfCloseRecorder()))
    (target,) = listening.built
    client.send(b"all")
    client.transport.loseWriteConnection()
    client.send(b"dropped")
    await target.until(lambda: "read lost" in target.events)
    assert target.events == ["made", b"all", "read lost"]
    assert client.events == ["made", "write lost"]
    target.send(b"answer")
    await client.receives(b"answer")
    target.transport.loseWriteConnection()
    await client.until(lambda: "read lost" in client.events)
    client.transport.loseConnection()
    await client.is_lost()
    await target.is_lost()
    assert target.data == b"all"
    assert client.reason.check(ConnectionDone)
    assert target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_half_close_through_a_tunnel(listen: Any, servers: Any) -> None:
    """A tunnel passes half-closes on in both directions: TCP's to messages, and back."""
    listening = await tunnelling(listen, servers, "tcp")
    client = await patient(connectProtocol(endpoint_to(listening), Collector()))
    target = await listening.far.site.next()
    client.send(MEGABYTE)
    client.transport.loseWriteConnection()
    await target.sees_end()
    assert target.data == MEGABYTE
    target.send(MEGABYTE)
    target.transport.loseWriteConnection()
    await client.sees_end()
    assert client.data == MEGABYTE
    await client.is_lost()
    assert client.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_half_close_behind_held_bytes(listen: Any) -> None:
    """The end of a direction waits behind bytes for which the target is paused."""
    listening = await serving(listen, "tcp", HalfCloseRecorder)
    client = await by_hand(listening, ASK)
    assert field(client.answer, b"half-close") == b"?1"
    (target,) = listening.built
    pause = target.transport.pauseProducing
    target.dataReceived = lambda data: (pause(), HalfCloseRecorder.dataReceived(target, data))
    client.send(b"".join(frame(BINARY, data, masked=True) for data in (b"a", b"b", b"", b"late")))
    await target.until(lambda: target.data == b"a")
    await turns()
    target.transport.resumeProducing()
    assert target.events == ["made", b"a", b"b"]
    target.transport.resumeProducing()
    assert target.events == ["made", b"a", b"b", "read lost"]


@pytest_twisted.ensureDeferred
async def test_target_without_half_close(listen: Any) -> None:
    """As with TCP, the end of its client's direction closes a target that knows no half-close."""
    listening = await serving(listen, "tcp", Recorder)
    client = await by_hand(listening, ASK)
    client.send(frame(BINARY, b"all", masked=True) + frame(BINARY, masked=True))
    assert (await next_frame(client)).code == 1000
    client.send(close(masked=True))
    (target,) = listening.built
    await target.is_lost()
    assert target.events == ["made", b"all", "lost"]


@pytest.mark.parametrize("fields", [b"", b"Half-Close: ?0\r\n", ASK + ASK])
@pytest_twisted.ensureDeferred
async def test_client_that_does_not_ask(listen: Any, fields: bytes) -> None:
    """Without the field, the 101 has none, and an empty message says nothing."""
    listening = await serving(listen, "tcp", HalfCloseRecorder)
    client = await by_hand(listening, fields)
    assert field(client.answer, b"half-close") is None
    client.send(frame(BINARY, masked=True) + frame(BINARY, b"more", masked=True))
    (target,) = listening.built
    await target.receives(b"more")
    assert target.events == ["made", b"more"]
    assert not _twisted.is_half_closeable(target.transport)


@pytest_twisted.ensureDeferred
async def test_half_close_waits_for_its_producer(listen: Any) -> None:
    """A direction ends behind what its producer still writes."""
    listening = await serving(listen, "tcp", HalfCloseRecorder)
    client = await by_hand(listening, ASK)
    (target,) = listening.built
    send_buffers(100_000, target.transport.carrier)
    target.transport.registerProducer(target.transport, True)
    target.transport.loseWriteConnection()
    target.transport.write(b"last")
    target.transport.unregisterProducer()
    assert (await next_frame(client)).payload == b"last"
    assert await next_frame(client) == (BINARY, b"", True)
