"""
How large a message may be that a WebSocket receives, and what a message that never ends costs.
"""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from autobahn.websocket.compress import PerMessageDeflateOfferAccept
from twisted.internet.protocol import Protocol

from tests.kit.harness import factory_of, site_of, status, turns
from tests.kit.wscodec import BINARY, CONTINUATION, MASK
from tests.kit.wsframes import (
    Echo,
    RawClient,
    frame,
    handshake,
    raw_client,
    websocket_factory,
    websocket_site,
)
from tests.kit.wsstream import WebSocketByHand
from tests.kit.wsstream import frame as stream_frame
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.protocols import byte_stream, websocket

MEGABYTE = 2**20

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


def accept_first(offers: Any) -> Any:
    return PerMessageDeflateOfferAccept(offers[0])


def deflated(data: bytes) -> bytes:
    """A message's payload, compressed (RFC 7692 §7.2.1)."""
    compress = zlib.compressobj(wbits=-15)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH))[:-4]


Open = Callable[..., Any]


@pytest.fixture
def opened(listen: Any) -> Open:
    """``await opened(...)``: a client that has opened a WebSocket whose messages are limited."""

    async def start(options: Any = None, more: bytes = b"", **kwargs: Any) -> RawClient:
        factory = websocket_factory(options=options)
        site = site_of(UpgradeResource({"websocket": websocket(factory, **kwargs)}))
        client = await raw_client(await listen("tcp", site))
        await client.opens(handshake(*([more] if more else [])))
        (client.server,) = factory.built  # type: ignore[attr-defined]
        return client

    return start


class Peak:
    """The most memory that Python has had since ``with`` began, over what it had then."""

    def __enter__(self) -> Peak:
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


@pytest_twisted.ensureDeferred
async def test_default(opened: Open) -> None:
    """Without an option, a message may have 16 MiB; one byte more is 1009, before it has come."""
    client = await opened()
    client.send(head(16 * MEGABYTE))
    client.send(b"\0" * 1000)
    await turns(20)
    assert client.reason is None
    assert client.data == b""
    client = await opened()
    client.send(head(16 * MEGABYTE + 1))
    await client.closed(1009)


def head(length: int, opcode: int = BINARY, fin: bool = True) -> bytes:
    """The head of a client's frame of this length."""
    return bytes([opcode | 0x80 * fin, 0xFF]) + length.to_bytes(8, "big") + MASK


@pytest.mark.parametrize(
    ("options", "kwargs", "most"),
    [
        ({}, {"max_message_size": 1000}, 1000),
        ({"maxMessagePayloadSize": 500, "failByDrop": False}, {"max_message_size": 1000}, 500),
        ({"maxMessagePayloadSize": 2000, "failByDrop": False}, {"max_message_size": 1000}, 2000),
        ({"maxFramePayloadSize": 2000, "failByDrop": False}, {"max_message_size": 1000}, 2000),
        ({"failByDrop": True}, {"max_message_size": 1000}, 1000),
    ],
)
@pytest.mark.parametrize("kind", ["whole", "fragments", "compressed"])
@pytest_twisted.ensureDeferred
async def test_limit(opened: Open, options: Any, kwargs: Any, most: int, kind: str) -> None:
    """
    A message of the limit is taken, and of one more it is 1009: in one frame, in many, and compressed.
    The factory's own option goes first.
    """
    more = DEFLATE if kind == "compressed" else b""
    if more:
        options = {**options, "perMessageCompressionAccept": accept_first}
    client = await opened(options, more, **kwargs)

    def send(size: int) -> None:
        data = b"x" * size
        if kind == "whole":
            client.send(frame(data))
        elif kind == "compressed":
            client.send(frame(deflated(data), rsv=4))
        else:
            client.send(frame(data[:100], fin=False))
            for start in range(100, size - 100, 100):
                client.send(frame(data[start : start + 100], CONTINUATION, fin=False))
            rest = size - 100 - 100 * len(range(100, size - 100, 100))
            client.send(frame(data[:rest], CONTINUATION))

    send(most)
    await client.server.has("message")
    assert [len(message) for message in client.server.messages] == [most]
    await client.frame()
    send(most + 1)
    await client.closed(1009)
    await client.server.has("close")
    assert len(client.server.messages) == 1


@pytest_twisted.ensureDeferred
async def test_sent(opened: Open) -> None:
    """The limit is not one for what the server sends."""
    client = await opened(max_message_size=100)
    client.server.sendMessage(b"x" * 5000, True)
    assert len((await client.frame()).payload) == 5000


@pytest_twisted.ensureDeferred
async def test_none(opened: Open) -> None:
    """None: there is no limit."""
    client = await opened(max_message_size=None)
    client.send(head(2**40))
    client.send(b"\0" * 1000)
    await turns(20)
    assert client.reason is None


@pytest.mark.parametrize("value", [0, -1, "16M", 1.5, True])
def test_mistakes(value: Any) -> None:
    """What is no size in bytes is refused at once."""
    with pytest.raises(InvalidArgument, match="max_message_size"):
        websocket(websocket_factory(), max_message_size=value)


@pytest_twisted.ensureDeferred
async def test_unfinished(opened: Open) -> None:
    """300 MB in one message that does not end do not get into memory: it ends at the limit."""
    client = await opened(max_message_size=MEGABYTE)
    piece = frame(b"x" * 65536, CONTINUATION, fin=False)
    with Peak() as peak:
        client.send(frame(b"", fin=False))
        for _ in range(300 * 16):
            if client.reason is not None or client.data:
                break
            client.send(piece)
            await turns(1)
        await client.until(lambda: bool(client.data))
    assert (await client.frame()).payload[:2] == (1009).to_bytes(2, "big")
    assert peak.bytes < 10 * MEGABYTE


@pytest_twisted.ensureDeferred
async def test_bomb(opened: Open) -> None:
    """200 KB that would become 200 MB are stopped while they are decompressed."""
    client = await opened({"perMessageCompressionAccept": accept_first}, DEFLATE)
    bomb = frame(deflated(b"\0" * 200 * MEGABYTE), rsv=4)
    assert len(bomb) < 250_000
    with Peak() as peak:
        client.send(bomb)
        await client.closed(1009)
    assert peak.bytes < 60 * MEGABYTE
    assert client.server.messages == []  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_corrupt(opened: Open) -> None:
    """What cannot be decompressed is 1007; an empty fragment of a compressed message is nothing."""
    options = {"perMessageCompressionAccept": accept_first, "failByDrop": False}
    client = await opened(options, DEFLATE)
    data = deflated(b"hello")
    client.send(frame(data[:3], rsv=4, fin=False) + frame(b"", CONTINUATION, fin=False))
    client.send(frame(data[3:], CONTINUATION))
    assert await client.server.has("message") == ("message", b"hello", True)
    await client.frame()
    client.send(frame(b"\xff\xff\xff", rsv=4))
    await client.closed(1007)


@pytest.mark.parametrize("size", [0, 2])
@pytest_twisted.ensureDeferred
async def test_small_pieces(opened: Open, size: int) -> None:
    """Fragments of no byte, or of two, cost no more than their bytes do."""
    client = await opened()
    fragments = frame(b"ab"[:size], CONTINUATION, fin=False) * 20_000
    client.send(frame(b"", fin=False))
    with Peak() as peak:
        client.send(fragments + frame(b"end", CONTINUATION))
        event = await client.server.has("message")
    assert len(event[1]) == size * 20_000 + 3
    # Less than 13 bytes for a fragment, over them.
    assert peak.bytes < len(fragments) * 2 + MEGABYTE / 4


class Counter(Protocol):
    """Counts bytes, and keeps none."""

    count = 0

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)


@pytest_twisted.ensureDeferred
async def test_stream(listen: Any) -> None:
    """A byte stream in one message that does not end passes on, and keeps nothing."""
    factory, built = factory_of(Counter)
    listening = await listen("tcp", site_of({"websocket": byte_stream(factory)}))
    client = await listening.connect(WebSocketByHand())
    client.ask()
    assert status(await client.head()) == 101
    (target,) = built
    piece = MASK * 16384
    with Peak() as peak:
        client.send(stream_frame(BINARY, masked=True, announced=2**50))
        for count in range(1, 301):
            client.send(piece)
            while target.count < count * len(piece):
                await turns(1)
    (connection,) = listening.site.switched
    assert connection.bytes_in == target.count == 300 * len(piece)
    assert peak.bytes < 3 * MEGABYTE
    client.transport.abortConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_streaming_protocol(listen: Any) -> None:
    """The limit holds for protocols, too, that take messages piece by piece."""

    class Streaming(Echo):
        def onMessageFrameData(self, payload: bytes) -> None: ...

        def onMessageFrameBegin(self, length: int) -> None: ...

        def onMessageFrameEnd(self) -> None: ...

    factory = websocket_factory(Streaming)
    client = await raw_client(await listen("tcp", websocket_site(factory)))
    await client.opens()
    client.send(head(10 * MEGABYTE, fin=False))
    client.send(b"\0" * 10 * MEGABYTE)
    client.send(head(10 * MEGABYTE, CONTINUATION))
    await client.closed(1009)
