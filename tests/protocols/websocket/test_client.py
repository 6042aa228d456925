"""
``connect_websocket``: what it asks for, and what the protocol is told, in which order.
"""

from __future__ import annotations

import gc
from base64 import b64decode
from typing import Any
from weakref import ref
from zlib import compressobj

import pytest
import pytest_twisted
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponseAccept
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers

from tests.kit.asking import Broken
from tests.kit.harness import field, patient, reactor, turns
from tests.kit.scripted import CLIENT_KINDS
from tests.kit.wscodec import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.kit.wsstream import (
    Asked,
    answer,
    client_factory,
    close,
    frame,
    next_frame,
    playing_websocket,
)
from upgrade_switch.errors import UpgradeError

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)

# What is asked for.


@pytest_twisted.ensureDeferred
async def test_request() -> None:
    """The handshake is a GET with the fields of RFC 6455 §4.1, once each, and no optional ones."""
    async with playing_websocket() as websocket:
        opening, peer, head = await websocket.asked(client_factory(useragent=""))
        assert head.startswith(b"GET /u HTTP/1.1\r\n")
        lines = head.split(b"\r\n")[1:]
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        assert len(fields) == len(lines)
        key = fields.pop(b"sec-websocket-key")
        assert len(b64decode(key, validate=True)) == 16
        assert fields == {
            b"host": b"server.test",
            b"connection": b"Upgrade",
            b"upgrade": b"websocket",
            b"sec-websocket-version": b"13",
        }
        peer.send(answer(head))
        websocket.opened.append(await patient(opening))


@pytest_twisted.ensureDeferred
async def test_fresh_key() -> None:
    """Each handshake has a key of its own."""
    async with playing_websocket() as websocket:
        factory, keys = client_factory(), set()
        for _ in range(5):
            opening, peer, head = await websocket.asked(factory)
            keys.add(field(head, b"sec-websocket-key"))
            peer.send(answer(head))
            websocket.opened.append(await patient(opening))
        assert len(keys) == 5


@pytest_twisted.ensureDeferred
async def test_optional_fields() -> None:
    """Subprotocols, extensions, origin, user agent and further fields are sent as they are set."""
    factory = client_factory(
        protocols=["chat", "binary"],
        origin="https://page.test",
        useragent="tester/1",
        headers={"X-Factory": "from the factory"},
    )
    factory.setProtocolOptions(perMessageCompressionOffers=[PerMessageDeflateOffer()])
    headers = Headers({b"X-Argument": [b"one", b"two"], b"Host": [b"elsewhere.test"]})
    before = headers.copy()
    async with playing_websocket() as websocket:
        opening, peer, head = await websocket.asked(factory, headers=headers)
        assert field(head, b"sec-websocket-protocol") == b"chat, binary"
        assert (field(head, b"sec-websocket-extensions") or b"").startswith(b"permessage-deflate")
        assert field(head, b"origin") == b"https://page.test"
        assert field(head, b"user-agent") == b"tester/1"
        assert field(head, b"x-factory") == b"from the factory"
        assert field(head, b"x-argument") == b"one, two"
        assert field(head, b"host") == b"elsewhere.test"
        assert headers == before
        peer.send(answer(head, b"Sec-WebSocket-Protocol: binary\r\n"))
        websocket.opened.append(await patient(opening))
        assert websocket.opened[0].websocket_protocol_in_use == "binary"
        assert websocket.opened[0].websocket_extensions_in_use == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Upgrade", b"echo"),
        (b"Sec-WebSocket-Key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
        (b"Sec-WebSocket-Version", b"8"),
        (b"Connection", b"close"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_fields_of_the_handshake_are_its_own(name: bytes, value: bytes) -> None:
    """What the handshake needs cannot be overridden by further fields."""
    async with playing_websocket() as websocket:
        _, peer, head = await websocket.asked(headers=Headers({name: [value]}))
        assert value.lower() not in (field(head, name) or b"").lower()
        peer.transport.abortConnection()
        with pytest.raises(ResponseNeverReceived):
            await patient(_)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://server.test/",
        "//server.test/",
        "server.test",
        "",
        "ws:",
        "ws://",
        "ws:///path",
        "ws://server.test/#fragment",
        "ws://server.test/#",
        "ws://server.test/\u00e4",
        b"ws://server.test/\xe4",
        "ws://[::1/",
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_url(url: Any) -> None:
    """What is no URL of a WebSocket is a ValueError, and connects nowhere."""
    async with playing_websocket() as websocket:
        with pytest.raises(ValueError, match=r"."):
            websocket.connect(url=url)
        assert websocket.server.count == 0


@pytest.mark.parametrize("scheme", ["ws", "http", "WS"])
@pytest_twisted.ensureDeferred
async def test_url(scheme: str) -> None:
    """``http`` is as good as ``ws``; path and query are asked for as they stand, text or bytes."""
    async with playing_websocket() as websocket:
        url = f"{scheme}://server.test/a%20b?c=d&e"
        for given in (url, url.encode()):
            opening, peer, head = await websocket.asked(url=given)
            assert head.startswith(b"GET /a%20b?c=d&e HTTP/1.1\r\n")
            peer.send(answer(head))
            websocket.opened.append(await patient(opening))


@pytest_twisted.ensureDeferred
async def test_no_factory() -> None:
    """What builds no WebSocket protocol of autobahn's is refused at once."""
    async with playing_websocket() as websocket:
        with pytest.raises(UpgradeError):
            websocket.connect(client_factory(lambda: Deferred()))
        assert websocket.server.count == 0


# What the protocol is told.


def compressed(payload: bytes) -> bytes:
    """A message of permessage-deflate's (RFC 7692 §7.2.1)."""
    deflate = compressobj(wbits=-15)
    data = deflate.compress(payload) + deflate.flush(2)
    message = bytearray(frame(BINARY, data.removesuffix(b"\x00\x00\xff\xff")))
    message[0] |= 0x40
    return bytes(message)


def compressing_factory(**kwargs: Any) -> Any:
    factory = client_factory(**kwargs)
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=PerMessageDeflateResponseAccept,
    )
    return factory


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_order(kind: str) -> None:
    """onConnect, onOpen, the messages and onClose come in this order, once each; both ends close."""
    async with playing_websocket(kind) as websocket:
        factory = client_factory(protocols=["chat"])
        behind = frame(TEXT, b"first") + frame(BINARY, b"second")
        protocol, peer = await websocket.open(factory, b"Sec-WebSocket-Protocol: chat\r\n", behind)
        assert protocol.is_open.called
        await protocol.until("message", b"second", True)
        protocol.sendMessage(b"third", True)
        assert await next_frame(peer) == (BINARY, b"third", True)
        protocol.sendClose(1000)
        assert (await next_frame(peer)).code == 1000
        assert not protocol.is_closed.called
        peer.send(close())
        peer.transport.loseConnection()
        await protocol.is_over()
        assert protocol.is_closed.called
        assert protocol.events == [
            ("connect", "chat"),
            ("open",),
            ("message", b"first", False),
            ("message", b"second", True),
            ("close", True, 1000),
        ]
        assert await websocket.server.client.is_closed() is None


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_every_split(kind: str) -> None:
    """Wherever the answer and the frames behind it are cut, each frame arrives once, in its order."""
    behind = (
        frame(TEXT, b"text")
        + frame(BINARY, b"bin", fin=False)
        + frame(PING, b"!")
        + frame(CONTINUATION, b"ary")
        + compressed(b"compressed " * 10)
        + frame(TEXT)
    )
    messages = [
        ("message", b"text", False),
        ("message", b"binary", True),
        ("message", b"compressed " * 10, True),
        ("message", b"", False),
    ]
    fields = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    async with playing_websocket(kind) as websocket:
        cut = -len(behind) - 4
        while cut < 0:
            opening, peer, head = await websocket.asked(compressing_factory())
            data = answer(head, fields) + behind
            length = len(data) + cut
            peer.send(data[:length])
            # The next segment, wherever the client is by then: waiting, or open.
            await turns(2)
            peer.send(data[length:])
            protocol = await patient(opening)
            websocket.opened.append(protocol)
            await protocol.until(*messages[-1])
            assert protocol.events == [("connect", None), ("open",), *messages], cut
            assert await next_frame(peer) == (PONG, b"!", True)
            protocol.sendClose(1000)
            assert (await next_frame(peer)).opcode == CLOSE
            peer.transport.abortConnection()
            await protocol.is_over()
            cut += 1


async def coroutine(response: Any) -> None:
    await turns(2)


@pytest.mark.parametrize("later", ["plain", "deferred", "coroutine"])
@pytest_twisted.ensureDeferred
async def test_on_connect(later: str) -> None:
    """The WebSocket is open when onConnect has said so, now or later; nothing is lost meanwhile."""
    waiting: Deferred[None] = Deferred()
    result = {"plain": None, "deferred": waiting, "coroutine": coroutine}[later]
    async with playing_websocket() as websocket:
        opening, peer, head = await websocket.asked(client_factory(lambda: Asked(result)))
        peer.send(answer(head) + frame(TEXT, b"early"))
        if later == "deferred":
            await websocket.server.client.has_received(len(answer(head)))
            await turns()
            assert not opening.called or opening.paused
            peer.send(frame(TEXT, b"late"))
            waiting.callback(None)
        protocol = await patient(opening)
        websocket.opened.append(protocol)
        await protocol.until("message", b"early", False)
        if later == "deferred":
            await protocol.until("message", b"late", False)
        assert protocol.events[:3] == [("connect", None), ("open",), ("message", b"early", False)]


async def raising(response: Any) -> None:
    raise Broken


def raise_at_once(response: Any) -> None:
    raise Broken


def fail_later(response: Any) -> Deferred[None]:
    failing: Deferred[None] = Deferred()
    reactor.callLater(0, failing.errback, Broken())
    return failing


@pytest.mark.parametrize("result", [raise_at_once, fail_later, raising])
@pytest_twisted.ensureDeferred
async def test_on_connect_raises(result: Any) -> None:
    """What onConnect raises is what opening fails with; the connection is closed, never opened."""
    built: list[Any] = []

    def build() -> Any:
        built.append(Asked(result))
        return built[-1]

    async with playing_websocket() as websocket:
        opening, peer, head = await websocket.asked(client_factory(build))
        peer.send(answer(head))
        with pytest.raises(Broken):
            await patient(opening)
        await peer.is_lost()
        assert built[0].events == [("connect", None)]


@pytest_twisted.ensureDeferred
async def test_what_on_connect_is_told() -> None:
    """onConnect is told the peer, the answer's fields, subprotocol and extensions."""
    told: list[Any] = []
    factory = compressing_factory(protocol=lambda: Asked(told.append), protocols=["a", "b"])
    fields = (
        b"Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        b"X-Twice: 1\r\nX-Twice: 2\r\n"
    )
    async with playing_websocket() as websocket:
        protocol, _peer = await websocket.open(factory, fields)
        (response,) = told
        assert response.protocol == "b"
        assert [e.EXTENSION_NAME for e in response.extensions] == ["permessage-deflate"]
        assert response.headers["x-twice"] == "1, 2"
        assert response.headers["upgrade"] == "websocket"
        assert protocol.websocket_extensions_in_use == response.extensions


@pytest_twisted.ensureDeferred
async def test_proxy_does_not_matter() -> None:
    """A factory's own proxy, which is for its own handshake, is not used."""
    factory = client_factory(proxy={"host": "proxy.test", "port": 3128})
    async with playing_websocket() as websocket:
        protocol, peer = await websocket.open(factory)
        protocol.sendMessage(b"hello")
        assert await next_frame(peer) == (TEXT, b"hello", True)


# Ends.


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_cancel_before_the_answer(kind: str) -> None:
    """Cancelled while the server has not answered, it closes the connection."""
    async with playing_websocket(kind) as websocket:
        opening, peer, _head = await websocket.asked()
        opening.cancel()
        with pytest.raises((CancelledError, ResponseFailed)):
            await patient(opening)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_cancel_while_connecting() -> None:
    """Cancelled while it is still connecting, it never asks."""
    async with playing_websocket() as websocket:
        opening = websocket.connect()
        opening.cancel()
        with pytest.raises(Exception, match=r"."):
            await patient(opening)
        await turns()
        assert all(b"GET" not in peer.data for peer in websocket.server.site.built)


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_cancel_in_on_connect(kind: str) -> None:
    """Cancelled while onConnect waits, its Deferred is cancelled and the connection closed."""
    cancelled: list[Any] = []
    waiting: Deferred[None] = Deferred(cancelled.append)
    asked = Asked(waiting)
    async with playing_websocket(kind) as websocket:
        opening, peer, head = await websocket.asked(client_factory(lambda: asked))
        peer.send(answer(head))
        await asked.until("connect", None)
        await turns(1)
        opening.cancel()
        with pytest.raises(CancelledError):
            await patient(opening)
        assert cancelled == [waiting]
        await peer.is_lost()
        assert asked.events == [("connect", None)]


@pytest.mark.parametrize("reset", [False, True])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_server_goes_before_the_answer(kind: str, reset: bool) -> None:
    """A server that leaves without an answer fails the opening as it fails any request."""
    async with playing_websocket(kind) as websocket:
        opening, peer, _head = await websocket.asked()
        (peer.transport.abortConnection if reset else peer.transport.loseConnection)()
        with pytest.raises(ResponseNeverReceived):
            await patient(opening)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_server_goes_after_the_answer(kind: str) -> None:
    """A server that leaves behind its answer: what it has sent arrives, then an unclean end."""
    waiting: Deferred[None] = Deferred()
    asked = Asked(waiting)
    async with playing_websocket(kind) as websocket:
        opening, peer, head = await websocket.asked(client_factory(lambda: asked))
        peer.send(answer(head) + frame(TEXT, b"last words"))
        peer.transport.loseConnection()
        await asked.until("connect", None)
        await turns()
        waiting.callback(None)
        protocol = await patient(opening)
        await protocol.is_over()
        assert protocol.events[1:] == [
            ("open",),
            ("message", b"last words", False),
            ("close", False, 1006),
        ]


@pytest_twisted.ensureDeferred
async def test_no_timer_is_left() -> None:
    """Neither an open WebSocket nor one that has been closed properly leaves a timer running."""
    async with playing_websocket() as websocket:
        before = set(reactor.getDelayedCalls())
        protocol, peer = await websocket.open()
        await turns()
        assert set(reactor.getDelayedCalls()) - before == set()
        protocol.sendClose(1000)
        await next_frame(peer)
        peer.send(close())
        peer.transport.loseConnection()
        await protocol.is_over()
        await turns()
        assert [call for call in reactor.getDelayedCalls() if call not in before] == []


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_nothing_is_kept(kind: str) -> None:
    """A WebSocket that has ended is not kept by anything."""
    async with playing_websocket(kind) as websocket:
        protocol, peer = await websocket.open()
        websocket.opened.clear()
        weak = ref(protocol)
        peer.transport.abortConnection()
        await protocol.is_over()
        del protocol
        websocket.server.client.transports.clear()
        await turns()
        gc.collect()
        assert weak() is None
