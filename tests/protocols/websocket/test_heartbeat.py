"""
The heartbeat of byte streams in WebSockets, and their subprotocols: on real connections, with a clock
that the test turns.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from tests.kit.farside import Collector, has_unsent, send_buffers, settled
from tests.kit.harness import (
    EchoTarget,
    Recorder,
    factory_of,
    field,
    patient,
    reactor,
    site_of,
    status,
    turns,
)
from tests.kit.scripted import trusting_agent
from tests.kit.wscodec import BINARY, PING, PONG
from tests.kit.wsstream import WebSocketByHand, answer, close, frame, next_frame, playing_websocket
from upgrade_switch import _twisted
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream
from upgrade_switch.protocols._websocket.stream import _ClientFactory
from upgrade_switch.sending import remaining

kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])


class Beating:
    """A site with a byte stream, and a client of it that is played by hand."""

    def __init__(self, listen: Any) -> None:
        self.listen = listen
        self.clock = Clock()

    async def start(self, make: Any = Recorder, kind: str = "tcp", **kwargs: Any) -> Beating:
        factory, self.built = factory_of(make)
        stream = byte_stream(factory, **kwargs)
        self.listening = await self.listen(kind, site_of({"websocket": stream}, reactor=self.clock))
        self.client = await self.listening.connect(WebSocketByHand())
        self.client.ask()
        assert status(await self.client.head()) == 101
        (self.target,) = self.built
        return self

    def timers(self) -> list[Any]:
        """What is still to come of heartbeats."""
        return [call for call in self.clock.getDelayedCalls() if "Heartbeat" in str(call)]

    async def lost(self) -> str:
        """The end is an error, for both; gives what the target is told."""
        await self.target.is_lost()
        await self.client.is_lost()
        assert self.target.reason.check(ConnectionLost)
        assert self.timers() == []
        return str(self.target.reason.value)

    async def is_quiet(self) -> None:
        """No frame has come, and the connection has not ended."""
        await turns(10)
        assert (self.client.data, self.client.reason, self.target.reason) == (b"", None, None)


@pytest.fixture
def beating(listen: Any) -> Beating:
    return Beating(listen)


@kinds
@pytest_twisted.ensureDeferred
async def test_dead_peer(beating: Beating, kind: str) -> None:
    """A ping after 30 silent seconds; the end after 30 more, as an error."""
    await beating.start(kind=kind)
    beating.clock.advance(29.9)
    await beating.is_quiet()
    beating.clock.advance(0.1)
    assert await next_frame(beating.client) == (PING, b"", True)
    beating.clock.advance(29.9)
    await beating.is_quiet()
    beating.clock.advance(0.1)
    assert "time-out" in await beating.lost()


@pytest.mark.parametrize(
    "sign",
    [
        frame(PONG, masked=True),
        frame(BINARY, b"x", masked=True),
        frame(PING, masked=True),
        frame(BINARY, b"x" * 100, masked=True)[:9],
    ],
    ids=["pong", "data", "ping", "part of a frame"],
)
@pytest_twisted.ensureDeferred
async def test_signs_of_life(beating: Beating, sign: bytes) -> None:
    """Whatever is received begins the time anew, before a ping and after one."""
    await beating.start(heartbeat=10)
    for _ in range(2):
        beating.clock.advance(10)
        assert (await next_frame(beating.client)).opcode == PING
        beating.clock.advance(9)
        beating.client.send(sign)
        await settled(lambda: beating.target.data)
        # The pong, if the sign was a ping.
        beating.client.data = b""
        beating.clock.advance(9)
        await beating.is_quiet()
        beating.clock.advance(1)
        assert (await next_frame(beating.client)).opcode == PING
        beating.client.send(frame(PONG, masked=True))
        await turns(10)
        if len(sign) == 9:
            break


@pytest_twisted.ensureDeferred
async def test_never(beating: Beating) -> None:
    """With None there is no heartbeat, and no timer."""
    await beating.start(heartbeat=None)
    beating.clock.advance(100_000)
    await beating.is_quiet()


@pytest_twisted.ensureDeferred
async def test_paused_reading(beating: Beating) -> None:
    """While the target does not read, no time passes; then all of it is there again."""
    await beating.start(heartbeat=10)
    beating.target.transport.pauseProducing()
    beating.client.send_frame(BINARY, b"unread")
    for _ in range(20):
        beating.clock.advance(10)
    await beating.is_quiet()
    beating.target.transport.resumeProducing()
    await beating.target.receives(b"unread")
    beating.clock.advance(9)
    await beating.is_quiet()
    beating.clock.advance(1)
    assert (await next_frame(beating.client)).opcode == PING


@kinds
@pytest_twisted.ensureDeferred
async def test_slow_reader(beating: Beating, kind: str) -> None:
    """
    A peer that takes something between two looks is alive, though it has not got to the ping yet; one
    that takes nothing any more is dead.
    """
    await beating.start(heartbeat=10, kind=kind)
    client, target = beating.client, beating.target
    (entry,) = beating.listening.site.switched
    carrier = entry.target.transport
    send_buffers(4608, carrier)
    _twisted.bottom(client.transport).getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4608)
    client.transport.pauseProducing()
    # A producer is registered, as a splice has one: the stream reads on while this is not taken.
    target.transport.registerProducer(Still(), True)
    target.transport.write(b"x" * 4_000_000)
    for _ in range(5):
        beating.clock.advance(10)
        await settled(lambda: beating.target.reason)
        assert target.reason is None
        # Not what the program reads: the kernel opens its window again only after much more than that.
        before = remaining(carrier)
        client.transport.resumeProducing()
        await client.until(lambda before=before: remaining(carrier) < before - 25_000)
        client.transport.pauseProducing()
        await turns(5)
    assert has_unsent(carrier)
    # What was on its way when the client stopped reading may be acknowledged after that.
    await settled(lambda: remaining(carrier))
    for _ in range(3):
        beating.clock.advance(10)
        await turns(5)
    await target.is_lost()
    assert target.reason.check(ConnectionLost)


class Still:
    """A producer that has nothing more."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


@pytest_twisted.ensureDeferred
async def test_reads_but_never_answers(beating: Beating) -> None:
    """A peer whose kernel has taken the ping, and whose program never answers it, is dead."""
    await beating.start(EchoTarget, heartbeat=10)
    beating.client.send_frame(BINARY, b"hello")
    assert await next_frame(beating.client) == (BINARY, b"hello", True)
    beating.clock.advance(10)
    assert (await next_frame(beating.client)).opcode == PING
    await settled(lambda: beating.client.data)
    beating.clock.advance(10)
    await beating.lost()


@pytest_twisted.ensureDeferred
async def test_closing(beating: Beating) -> None:
    """The heartbeat ends with the connection, and leaves no timer behind."""
    await beating.start(heartbeat=10)
    beating.client.send(close(masked=True))
    await beating.client.is_lost()
    await beating.target.is_lost()
    assert beating.target.reason.check(ConnectionDone)
    assert beating.timers() == []


@pytest_twisted.ensureDeferred
async def test_client() -> None:
    """The client pings, too, and finds a dead server; its socket asks by itself, too."""
    async with playing_websocket() as websocket:
        clock = Clock()
        factory, built = factory_of(Collector)
        opening, peer, head = await websocket.asked(_ClientFactory(clock, factory, ["mqtt"], 10))
        assert field(head, b"sec-websocket-protocol") == b"mqtt"
        peer.send(answer(head, b"Sec-WebSocket-Protocol: mqtt\r\n"))
        protocol = await patient(opening)
        (target,) = built
        handle = protocol.transport.getHandle()
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        peer.data = b""
        clock.advance(10)
        await peer.until(lambda: peer.amount == 6)
        assert peer.data[:2] == bytes([0x80 | PING, 0x80])
        clock.advance(10)
        await target.is_lost()
        assert target.reason.check(ConnectionLost)
        assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_both_ends(listen: Any) -> None:
    """Client and server of this package answer each other's pings: an idle connection stays."""
    clock = Clock()
    factory, _ = factory_of(EchoTarget)
    stream = byte_stream(factory, heartbeat=10, subprotocols=("mqtt", "binary"))
    listening = await listen("tcp", site_of({"websocket": stream}, reactor=clock))
    endpoint = WebSocketEndpoint(
        reactor,
        listening.url.replace("http", "ws", 1) + "/u",
        agent=trusting_agent(),
        subprotocols=("x", "binary", "mqtt"),
        heartbeat=10,
    )
    ours, _ = factory_of(Collector)
    client = await patient(endpoint.connect(ours))
    (server,) = listening.site.switched
    assert server.target.websocket_protocol_in_use == "binary"
    for _ in range(10):
        clock.advance(10)
        stats = server.target.trafficStats.incomingOctetsWireLevel
        await settled(lambda stats=stats: server.target.trafficStats.incomingOctetsWireLevel)
    client.send(b"still here")
    await client.has(10)
    assert (server.bytes_in, server.bytes_out) == (10, 10)
    client.transport.loseConnection()
    await client.is_lost()


@pytest.mark.parametrize(
    ("known", "offered", "chosen"),
    [
        (("mqtt",), b"mqtt", b"mqtt"),
        (("binary", "mqtt"), b"mqttv3.1, mqtt, binary", b"mqtt"),
        (("binary",), b"mqtt", None),
        ((), b"binary", None),
        (("binary",), b"", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_subprotocols(listen: Any, known: Any, offered: bytes, chosen: bytes | None) -> None:
    """The first of the client's list that the server has is answered; with none, none is."""
    factory, _ = factory_of(EchoTarget)
    listening = await listen("tcp", site_of({"websocket": byte_stream(factory, subprotocols=known)}))
    client = await listening.connect(WebSocketByHand())
    client.ask(b"Sec-WebSocket-Protocol: " + offered + b"\r\n" if offered else b"")
    head = await client.head()
    assert (status(head), field(head, b"sec-websocket-protocol")) == (101, chosen)


@pytest.mark.parametrize(
    "arguments",
    [
        {"heartbeat": 0},
        {"heartbeat": -1},
        {"heartbeat": "30"},
        {"subprotocols": "binary"},
        {"subprotocols": ["a b"]},
        {"subprotocols": [b"binary"]},
        {"subprotocols": ["a", "a"]},
    ],
)
def test_mistakes(arguments: Any) -> None:
    """A heartbeat that is no time, and a subprotocol that is no token, are refused at once."""
    with pytest.raises(InvalidArgument):
        byte_stream(lambda request, token: None, **arguments)
    with pytest.raises(InvalidArgument):
        WebSocketEndpoint(reactor, "ws://localhost/", **arguments)
