"""
Flow control (RFC 9113 §5.2, §6.9), which is counted without h2; and blocks of fields that come again.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any
from weakref import ref

import pytest
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from tests.kit.h2client import PREFACE, frame, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    block,
    data,
    headers,
    settings,
    window_update,
)
from tests.kit.harness import EchoTarget, HalfCloseRecorder, Recorder, factory_of, no_collector
from upgrade_switch import UpgradeResource
from upgrade_switch.http2.machine import CONNECTION_WINDOW, MOST_STREAMS, WIDE_WINDOW
from upgrade_switch.server.http2 import ServerConnection

WINDOW = 2**16 - 1
FLOW_CONTROL_ERROR = 3


class Reader(Recorder):
    """Reads no more than it is told to."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.pauseProducing()


def client_of(target: Any, *begun: bytes) -> tuple[RawClient, Any]:
    """A client with a stream that has switched, and the target."""
    site = h2c_site(http2_connect=True, reactor=Clock())
    factory, built = factory_of(target)
    site.resource.putChild(b"u", UpgradeResource({"echo": factory}))
    client = RawClient(site)
    client.send(*begun, headers(1, CONNECT, end=False))
    client.take()
    return client, built[0]


def increments(client: RawClient) -> list[tuple[int, int]]:
    """By how much which streams' windows have been opened."""
    return [
        (f.stream, int.from_bytes(f.payload, "big")) for f in client.take() if f.kind == WINDOW_UPDATE
    ]


def came(client: RawClient) -> int:
    """How many bytes have come on streams."""
    return sum(len(f.payload) for f in client.take() if f.kind == DATA)


def test_as_much_as_is_allowed() -> None:
    """What waits for a target that does not read is a window of it; a byte more ends the connection."""
    client, _ = client_of(Reader)
    client.send(*(data(1, bytes(2**14 - 1)) for _ in range(4)), data(1, bytes(3)))
    assert client.take() == []
    client.send(data(1, b"x"))
    assert [f.code for f in client.take() if f.kind == GOAWAY] == [FLOW_CONTROL_ERROR]


def test_what_is_read_may_come_again() -> None:
    """The window opens again when a quarter of it has been read, by all that has."""
    client, reader = client_of(Reader)
    client.send(*[data(1, bytes(2**12))] * 2, *[data(1, bytes(2**12))] * 2, data(1, b"x"))
    assert increments(client) == []
    reader.transport.resumeProducing()
    client.site.reactor.advance(0)
    client.wire.pump()
    assert increments(client) == [(1, 2**14 + 1)]
    client.send(*[data(1, bytes(2**12))] * 2)
    assert increments(client) == []


def test_padding_counts() -> None:
    """Padding uses the window, and opens it again, as data does; the target gets none of it."""
    client, reader = client_of(Recorder)
    padded = frame(DATA, 1, b"\xff" + b"x" + bytes(255), PADDED)
    client.send(*(padded for _ in range(64)))
    assert increments(client) == [(1, 64 * 257)]
    assert bytes(reader.data) == b"x" * 64


def test_no_window_of_a_stream_that_has_ended() -> None:
    """Nobody sends on it, so nothing is said of its window."""
    client, _ = client_of(Recorder)
    client.send(data(1, bytes(2**14), end=True))
    assert increments(client) == []


def test_all_streams_together() -> None:
    """The connection's window opens again as well, also by what came on streams that have ended."""
    client, _ = client_of(Recorder)
    total = 0
    for stream in range(3, 803, 2):
        client.send(
            headers(stream, CONNECT, end=False),
            *(data(stream, bytes(2**14 - 1)) for _ in range(4)),
            frame(RST_STREAM, stream, bytes(4)),
        )
        total += sum(size for number, size in increments(client) if not number)
    assert 400 * 2**16 * 3 / 4 < total <= 400 * 2**16


def test_streams_that_hold_all_they_may() -> None:
    """However many targets read nothing, the connection's window is not in the way of the others."""
    site = h2c_site(http2_connect=True, reactor=Clock())
    site.resource.putChild(b"u", UpgradeResource({"echo": factory_of(Reader)[0]}))
    site.resource.putChild(b"v", UpgradeResource({"echo": factory_of(Recorder)[0]}))
    client = RawClient(site)
    left = CONNECTION_WINDOW
    last, size = 2 * MOST_STREAMS - 1, 2**14
    for stream in range(1, last, 2):
        sent = [bytes(size)] * 3 + [bytes(WINDOW - 3 * size)]
        client.send(headers(stream, CONNECT, end=False))
        client.send(*(data(stream, piece) for piece in sent))
        left -= WINDOW
    assert increments(client) == []
    to_v = [(name, b"/v" if name == b":path" else value) for name, value in CONNECT]
    client.send(headers(last, to_v, end=False))
    for _ in range(1000):
        assert left >= size
        client.send(data(last, bytes(size)))
        left += sum(more for stream, more in increments(client) if not stream) - size
    client.leave()


def test_wide_streams_are_freed() -> None:
    """Of a connection that ends while a stream has a wide window, nothing is left."""
    client, target = client_of(Recorder)
    client.send(data(1, bytes(2**14)))
    assert (1, WIDE_WINDOW - WINDOW) in increments(client)
    weak = ref(target.transport)
    assert weak().width == WIDE_WINDOW
    with no_collector():
        client.leave()
        del target.transport
        assert target.reason is not None
        assert weak() is None


@pytest.mark.parametrize("size", [1, 1000])
def test_window_of_a_stream(size: int) -> None:
    """No more is sent on a stream than its window allows; the rest is when it opens."""
    client, _ = client_of(EchoTarget, settings(_4=size))
    client.send(data(1, bytes(3000)))
    assert came(client) == size
    client.send(window_update(1, 500))
    assert came(client) == 500
    client.send(window_update(1, 3000))
    assert came(client) == 2500 - size


def test_window_below_zero() -> None:
    """A window that settings make negative has to be opened by what is missing, too (§6.9.2)."""
    client, _ = client_of(EchoTarget)
    client.send(data(1, bytes(1000)))
    assert came(client) == 1000
    client.send(settings(_4=0))
    client.send(data(1, bytes(1000)), window_update(1, 1000))
    assert came(client) == 0
    client.send(window_update(1, 1))
    assert came(client) == 1
    client.send(settings(_4=2000))
    assert came(client) == 999


@implementer(IPullProducer)
class Parts:
    """Writes three parts, one each time that it is asked."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.left = 3
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.left -= 1
        self.transport.write(bytes(100))
        if not self.left:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        raise AssertionError("nobody has left")


@pytest.mark.parametrize("end", ["loseWriteConnection", "loseConnection"])
def test_end_behind_a_pull_producer(end: str) -> None:
    """A pull producer that waits for a window is not cut off by the end, which comes behind it."""
    client, target = client_of(HalfCloseRecorder, settings(_4=50))
    target.transport.write(bytes(60))
    parts = Parts(target.transport)
    getattr(target.transport, end)()
    client.send()
    assert [(len(f.payload), f.flags) for f in client.take()] == [(50, 0)]
    client.send(window_update(1, 1000))
    assert parts.left == 0
    frames = [f for f in client.take() if f.kind == DATA]
    assert sum(len(f.payload) for f in frames) == 310
    assert [f.flags for f in frames] == [*[0] * (len(frames) - 1), END_STREAM]


def test_window_of_the_connection() -> None:
    """No more is sent on all streams together than the connection's window allows."""
    client, _ = client_of(EchoTarget, settings(_4=2**20))
    client.send(headers(3, CONNECT, end=False))
    client.take()
    for stream in (1, 3):
        client.send(*(data(stream, bytes(10_000)) for _ in range(4)))
    assert came(client) == WINDOW
    client.send(window_update(0, 2**20))
    assert came(client) == 80_000 - WINDOW


def test_window_of_a_stream_too_large() -> None:
    """It costs the stream (§6.9.1); the others go on."""
    client, _ = client_of(EchoTarget)
    client.send(window_update(1, 2**31 - 1))
    assert [(f.stream, f.code) for f in client.take() if f.kind == RST_STREAM] == [
        (1, FLOW_CONTROL_ERROR)
    ]
    client.send(headers(3))
    assert {f.stream for f in client.take()} == {3}


def test_window_of_a_stream_that_is_over() -> None:
    """It is ignored."""
    client, target = client_of(EchoTarget)
    target.transport.abortConnection()
    client.wire.pump()
    client.take()
    client.send(window_update(1, 2**31 - 1), window_update(1, 2**31 - 1))
    assert client.take() == []


def test_empty_end() -> None:
    """The end may come with data, or in a frame of its own."""
    for pieces in ([data(1, b"hello", end=True)], [data(1, b"hello"), data(1, end=True)]):
        client, _ = client_of(EchoTarget)
        client.send(*pieces)
        sent = [f for f in client.take() if f.kind == DATA]
        assert b"".join(f.payload for f in sent) == b"hello"
        assert [bool(f.flags & END_STREAM) for f in sent][-1:] == [True]


def test_same_block_of_another_table() -> None:
    """The same bytes mean something else as soon as the decoder's table has changed."""
    client = RawClient()
    seen: list[bytes] = []
    client.site.log = lambda request: seen.append(request.getHeader(b"x") or b"")

    def send(stream: int, field: bytes) -> None:
        fields = b"\x82\x86\x84" + field
        client.send(frame(HEADERS, stream, fields, END_HEADERS | END_STREAM))

    indexed = b"\xbf\xbe"
    for number, value in enumerate((b"1", b"2")):
        # :authority and x, both into the table.
        send(8 * number + 1, b"\x41\x01a" + b"\x40\x01x\x01" + value)
        send(8 * number + 3, indexed)
        send(8 * number + 5, indexed)
    assert seen == [b"1"] * 3 + [b"2"] * 3


def test_blocks_that_are_remembered_are_few() -> None:
    """Whatever a client sends, no more than some blocks are remembered."""
    client = RawClient()
    for number in range(40):
        repeated = b"\x82" * number
        client.send(frame(HEADERS, 1 + 2 * number, repeated, END_HEADERS | END_STREAM))
    client.send(frame(HEADERS, 201, b"\x82" * 1000, END_HEADERS | END_STREAM))
    known = client.connection.reader._known
    assert 0 < len(known) <= 16
    assert max(map(len, known)) <= 64
    client.send(frame(HEADERS, 203, block(GET), END_HEADERS | END_STREAM))
    assert known == {}


@pytest.mark.parametrize("by", ["HTTP2-Settings", "SETTINGS"])
def test_table_of_the_encoder(by: str) -> None:
    """However large a table of fields a client keeps, what is kept for it here is small."""
    wanted = b"\0\1" + (2**30).to_bytes(4, "big")
    upgraded = urlsafe_b64encode(wanted) if by == "HTTP2-Settings" else None
    connection = ServerConnection(h2c_site(reactor=Clock()), upgraded)
    connection.makeConnection(StringTransport())
    connection.dataReceived(PREFACE + settings(**{} if upgraded else {"_1": 2**30}))
    assert connection.machine.encoder.header_table_size == 2**12
    connection.connectionLost()
