"""
An open WebSocket: frames there and back over every kind of connection, its end, and what its protocol
does with the connection.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
import pytest_twisted
import txaio
from autobahn.twisted.wamp import ApplicationSession
from autobahn.twisted.websocket import WampWebSocketServerFactory, WampWebSocketServerProtocol
from autobahn.wamp.message import Welcome
from autobahn.wamp.role import RoleBrokerFeatures
from autobahn.wamp.serializer import JsonSerializer
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet.task import Clock

from tests.kit.asking import Broken
from tests.kit.harness import CUT_KINDS, KINDS, field, patient, status, turns
from tests.kit.wscodec import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame
from tests.kit.wsframes import Echo, frame, handshake, raw_client, websocket_factory, websocket_site


def deflate(offers: Any) -> Any:
    """An option perMessageCompressionAccept: takes permessage-deflate as it is offered."""
    return next(
        PerMessageDeflateOfferAccept(o) for o in offers if isinstance(o, PerMessageDeflateOffer)
    )


@pytest.fixture
def clock() -> Any:
    """autobahn's timers are on this clock."""
    clock = Clock()
    before, txaio.config.loop = txaio.config.loop, clock
    yield clock
    txaio.config.loop = before


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(make)``: a client that is connected, and knows the protocols' factory."""

    async def start(
        make: Any = Echo, kind: str = "tcp", options: Any = None, client: Any = None, **kwargs: Any
    ) -> Any:
        factory = websocket_factory(make, options)
        client = await raw_client(await listen(kind, websocket_site(factory, **kwargs)))
        client.factory = factory
        return client

    return start


async def opened(client: Any, **kwargs: Any) -> Any:
    """The handshake succeeds; gives the protocol."""
    await client.opens(**kwargs)
    return client.factory.built[-1]


# Frames.

STREAM = (
    frame("z\xfcr".encode(), TEXT)
    + frame(b"\x00\xff" * 100)
    + frame(b"ping", PING)
    + frame(b"fra", TEXT, fin=False)
    + frame(b"in between", PING)
    + frame(b"gmen", CONTINUATION, fin=False)
    + frame(b"ted", CONTINUATION)
    + frame(b"")
)
ANSWERS = [
    Frame(TEXT, "z\xfcr".encode()),
    Frame(BINARY, b"\x00\xff" * 100),
    Frame(PONG, b"ping"),
    Frame(PONG, b"in between"),
    Frame(TEXT, b"fragmented"),
    Frame(BINARY, b""),
]


@pytest.mark.parametrize("kind", CUT_KINDS)
@pytest_twisted.ensureDeferred
async def test_frames_in_the_same_segment(listen: Any, kind: str) -> None:
    """Wherever the bytes are cut, frames that follow the request arrive, once and in order."""
    factory = websocket_factory()
    listening = await listen(kind, websocket_site(factory))
    stream = handshake() + STREAM
    for cut in range(len(stream) + 1):
        client = await raw_client(listening)
        client.send(stream[:cut])
        if cut < len(handshake()):
            await listening.site.has_received(cut)
            client.send(stream[cut:])
            assert status(await client.head()) == 101
        else:
            assert status(await client.head()) == 101
            client.send(stream[cut:])
        for answer in ANSWERS:
            assert await client.frame() == answer, cut
        assert client.data == b""
        client.transport.abortConnection()
        await factory.built[-1].has("close")
        listening.site.received = 0
        listening.clients.clear()
    await turns(1)  # not from inside the last onClose
    assert (len(factory.built), factory.countConnections) == (len(stream) + 1, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_sizes(serve: Any, kind: str, size: int) -> None:
    """A message of any size, right behind the request, comes back whole."""
    client = await serve(kind=kind)
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await client.opens(behind=frame(payload))
    assert await client.frame() == Frame(BINARY, payload)
    await client.echoes()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_much_while_opening(serve: Any, kind: str) -> None:
    """What onOpen sends, more than the socket takes, does not hold up what the client sends."""

    class Greets(Echo):
        def onOpen(self) -> None:
            super().onOpen()
            self.sendMessage(b"x" * 5_000_000, True)

    client = await serve(Greets, kind)
    await client.opens(behind=frame(b"first") + frame(b"second"))
    assert len((await client.frame()).payload) == 5_000_000
    assert (await client.frame()).payload == b"first"
    assert (await client.frame()).payload == b"second"
    await client.echoes()


@pytest_twisted.ensureDeferred
async def test_compression(serve: Any) -> None:
    """permessage-deflate is negotiated, and used in both directions, also right behind the request."""
    client = await serve(options={"perMessageCompressionAccept": deflate})
    compress = zlib.compressobj(wbits=-15)
    text = b"compress me " * 100
    bodies = []
    for _ in range(2):
        body = compress.compress(text) + compress.flush(zlib.Z_SYNC_FLUSH)
        bodies.append(frame(body[:-4], TEXT, rsv=4))
    offer = b"Sec-WebSocket-Extensions: x-other, permessage-deflate; client_max_window_bits"
    head = await client.opens(handshake(offer), b"".join(bodies) + frame(b"plain"))
    assert field(head, b"sec-websocket-extensions") == b"permessage-deflate"
    decompress = zlib.decompressobj(wbits=-15)
    for opcode, expected in ((TEXT, text), (TEXT, text), (BINARY, b"plain")):
        answer = await client.frame()
        assert (answer.opcode, answer.rsv) == (opcode, 4)
        assert decompress.decompress(answer.payload + b"\x00\x00\xff\xff") == expected
    protocol = client.factory.built[0]
    assert [e.EXTENSION_NAME for e in protocol.websocket_extensions_in_use] == ["permessage-deflate"]


@pytest_twisted.ensureDeferred
async def test_compression_answers_an_offer(serve: Any) -> None:
    """Of several offers the option's choice counts, with its parameters in the answer."""

    def accept(offers: Any) -> Any:
        assert len(offers) == 2
        return PerMessageDeflateOfferAccept(
            offers[1], request_no_context_takeover=True, request_max_window_bits=12
        )

    client = await serve(options={"perMessageCompressionAccept": accept})
    offer = b"permessage-deflate; server_max_window_bits=10, permessage-deflate; client_max_window_bits"
    head = await client.opens(handshake(b"Sec-WebSocket-Extensions: " + offer))
    answer = field(head, b"sec-websocket-extensions") or b""
    assert {part.strip() for part in answer.split(b";")} == {
        b"permessage-deflate",
        b"client_no_context_takeover",
        b"client_max_window_bits=12",
    }


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (frame(b"x", 3), 1002),  # no opcode
        (frame(b"x", rsv=4), 1002),  # compressed, which was not agreed on
        (frame(b"\xff", TEXT), 1007),
        (frame(b"x" * 126, PING), 1002),
        (frame(b"x", CONTINUATION), 1002),
    ],
)
@pytest_twisted.ensureDeferred
async def test_violations(serve: Any, data: bytes, code: int) -> None:
    """Frames that break the protocol, right behind the request, are answered with its close code."""
    client = await serve(options={"failByDrop": False})
    await client.opens(behind=data)
    await client.closed(code)


# Pings, and autobahn's timers.


@pytest_twisted.ensureDeferred
async def test_ping(serve: Any) -> None:
    """A protocol can ping, and hears of the pong."""
    client = await serve()
    protocol = await opened(client)
    protocol.sendPing(b"are you there")
    assert await client.frame() == Frame(PING, b"are you there")
    client.send(frame(b"are you there", PONG))
    assert await protocol.has("pong") == ("pong", b"are you there")


@pytest.mark.parametrize("answers", [True, False])
@pytest_twisted.ensureDeferred
async def test_automatic_pings(serve: Any, clock: Clock, answers: bool) -> None:
    """autoPingInterval pings by itself, and a client that does not answer in time is dropped."""
    client = await serve(options={"autoPingInterval": 10, "autoPingTimeout": 5, "autoPingSize": 20})
    protocol = await opened(client)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(11)
    ping = await client.frame()
    assert (ping.opcode, len(ping.payload)) == (PING, 20)
    if answers:
        client.send(frame(ping.payload, PONG))
        await protocol.has("pong")
        clock.advance(6)
        await client.echoes()
        clock.advance(6)
        assert (await client.frame()).opcode == PING
        client.transport.loseConnection()
        await protocol.has("close")
    else:
        clock.advance(6)
        await client.is_lost()
        assert (await protocol.has("close"))[1] is False
    assert_no_timers(clock)


def assert_no_timers(clock: Clock) -> None:
    """autobahn leaves its buckets on the clock, though nothing in them happens any more."""
    clock.advance(3600)
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_no_timers(serve: Any, clock: Clock) -> None:
    """An open connection has no timer: neither the handshake's nor HTTP's."""
    client = await serve(options={"openHandshakeTimeout": 5}, reactor=Clock(), timeout=60)
    await opened(client)
    assert clock.getDelayedCalls() == []
    client.site.reactor.advance(3600)
    clock.advance(3600)
    await client.echoes()


# The end.


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_client_closes(serve: Any, kind: str) -> None:
    """A client's close is answered, the server ends the connection, the protocol hears of it once."""
    client = await serve(kind=kind)
    protocol = await opened(client)
    assert [entry.target for entry in client.site.switched] == [protocol]
    await client.closes()
    assert await protocol.has("close") == ("close", True, 1000)
    assert protocol.kinds == ["connect", "open", "close"]
    assert len(client.site.switched) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["onOpen", "onMessage"])
@pytest_twisted.ensureDeferred
async def test_server_closes(serve: Any, kind: str, where: str) -> None:
    """A protocol may close in onOpen and in onMessage, also with frames behind it."""

    class Closes(Echo):
        def onOpen(self) -> None:
            super().onOpen()
            if where == "onOpen":
                self.sendClose(3001, "enough")

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.note("message", payload, isBinary)
            self.sendClose(3001, "enough")

    client = await serve(Closes, kind)
    await client.opens(behind=frame(b"first"))
    said = await client.closed(3001)
    assert said.payload[2:] == b"enough"
    protocol = client.factory.built[0]
    await protocol.has("close")
    assert protocol.kinds.count("close") == 1
    assert len(client.site.switched) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["dropConnection", "sendCloseFrame"])
@pytest_twisted.ensureDeferred
async def test_close_timeout(serve: Any, clock: Clock, kind: str, method: str) -> None:
    """A server that drops the connection, or waits in vain for the client's close, is rid of it."""
    client = await serve(kind=kind, options={"closeHandshakeTimeout": 2})
    protocol = await opened(client)
    getattr(protocol, method)()
    if method == "sendCloseFrame":
        assert (await client.frame()).opcode == CLOSE
        clock.advance(3)
    await client.is_lost()
    await protocol.has("close")
    assert len(client.site.switched) == 0
    assert_no_timers(clock)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["onOpen", "onMessage"])
@pytest_twisted.ensureDeferred
async def test_raises(serve: Any, errors: Any, kind: str, where: str) -> None:
    """A protocol that raises is logged once, and its connection dropped; nothing is written into it."""

    class Raises(Echo):
        def onOpen(self) -> None:
            self.note("open")
            if where == "onOpen":
                raise Broken

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            raise Broken

    client = await serve(Raises, kind)
    client.send(handshake() + frame(b"first"))
    await client.is_lost()
    assert b"500" not in client.data
    await client.factory.built[0].has("close")
    # autobahn logs a TLS layer that is aborted while it delivers as an error of its own.
    errors[:] = [error for error in errors if not error["log_namespace"].startswith("autobahn")]
    assert [type(error) for error in errors.take(1)] == [Broken]
    assert len(client.site.switched) == 0
    assert client.factory.countConnections == 0


# WAMP.


class Answering(ApplicationSession):
    """A session that welcomes who says hello."""

    def onOpen(self, transport: Any) -> None:
        self._transport = transport
        self.closed: list[bool] = []

    def onMessage(self, said: Any) -> None:
        roles = {"broker": RoleBrokerFeatures()}
        self._transport.send(Welcome(7, roles, realm=said.realm))

    def onClose(self, wasClean: bool) -> None:
        self.closed.append(wasClean)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_wamp(listen: Any, kind: str) -> None:
    """WAMP's factory is one like any other: its sessions are open, in the offered serialisation."""
    session = Answering()
    factory = WampWebSocketServerFactory(lambda: session, serializers=[JsonSerializer()])
    factory.protocol = WampWebSocketServerProtocol
    site = websocket_site(factory)
    client = await raw_client(await listen(kind, site))
    client.send(handshake(b"Sec-WebSocket-Protocol: x"))
    assert status((await client.response())[0]) == 400
    hello = json.dumps([1, "realm1", {"roles": {"subscriber": {}}}]).encode()
    head = await client.opens(
        handshake(b"Sec-WebSocket-Protocol: wamp.2.msgpack, wamp.2.json"), frame(hello, TEXT)
    )
    assert field(head, b"sec-websocket-protocol") == b"wamp.2.json"
    answer = await client.frame()
    kind_of_message, number, details = json.loads(answer.payload)
    assert (kind_of_message, number, "broker" in details["roles"]) == (2, 7, True)
    await client.closes()
    await patient(site.switched.when_empty())
    assert session.closed == [True]
