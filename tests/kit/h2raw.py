"""A client of raw HTTP/2 frames, in memory: what a server does at each of them, right or wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hpack import Decoder, Encoder
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.kit.h2client import PREFACE, frame, h2c_site
from upgrade_switch.server.http2 import ServerConnection
from upgrade_switch.testing import Recording
from upgrade_switch.testing.wire import Cut, Wire

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20

Fields = Iterable[tuple[bytes, bytes]]

#: The fields of a request for ``/page``.
GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/page"), (b":authority", b"a"))
POST = ((b":method", b"POST"), *GET[1:])
CONNECT = (
    (b":method", b"CONNECT"),
    (b":protocol", b"echo"),
    (b":scheme", b"http"),
    (b":path", b"/u"),
    (b":authority", b"a"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of an RST_STREAM or a GOAWAY, why."""
        place = 0 if self.kind == RST_STREAM else 4
        return int.from_bytes(self.payload[place : place + 4], "big")


def frames_of(data: bytes) -> list[Frame]:
    """The frames that some bytes are."""
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:end]))
        data = data[end:]
    return found


def block(fields: Fields) -> bytes:
    """A header block that changes no table."""
    encoder = Encoder()
    return b"".join(
        encoder._encode_literal(name, value, b"\0", False)  # as a field that is not indexed
        for name, value in fields
    )


def headers(stream: int, fields: Fields = GET, end: bool = True, flags: int = 0) -> bytes:
    """A HEADERS frame with a whole block."""
    flags |= END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, stream, block(fields), flags)


def data(stream: int, content: bytes = b"", end: bool = False) -> bytes:
    return frame(DATA, stream, content, END_STREAM if end else 0)


def rst(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, stream, increment.to_bytes(4, "big"))


def settings(**values: int) -> bytes:
    """SETTINGS such as ``_4=0``, by number."""
    pairs = ((int(name[1:]), value) for name, value in values.items())
    payload = b"".join(n.to_bytes(2, "big") + value.to_bytes(4, "big") for n, value in pairs)
    return frame(SETTINGS, 0, payload)


class RawClient(Recording):
    """
    A connected client, which has sent the preface and its settings, and has read those of the server.

    :ivar connection: the server's side.
    """

    def __init__(
        self, site: Any = None, cut: Cut = None, seed: int | None = None, begins: bool = True
    ) -> None:
        super().__init__()
        self.site = h2c_site(http2_connect=True, reactor=Clock()) if site is None else site
        self.wire = Wire(cut, seed, self.site.reactor)
        others = set(self.site.http2_connections)
        self.wire.join(self, self.site.buildProtocol(self.wire.client.getHost()))
        self._decoder = Decoder()
        self._read = 0
        if begins:
            self.send(PREFACE + settings(), frame(SETTINGS, 0, b"", ACK))
            (self.connection,) = self.site.http2_connections - others
            assert [f.kind for f in self.take()] == [SETTINGS, WINDOW_UPDATE, SETTINGS]

    def send(self, *frames: bytes) -> RawClient:
        self.wire.client.write(b"".join(frames))
        self.wire.pump()
        return self

    def take(self) -> list[Frame]:
        """The frames that have come since the last time."""
        found = frames_of(self.received[self._read :])
        self._read = len(self.received)
        return found

    def fields(self, taken: Frame) -> dict[bytes, bytes]:
        """Those of a HEADERS frame; each has to be asked for once, in their order."""
        return dict(self._decoder.decode(taken.payload, raw=True))

    def leave(self) -> None:
        """End the connection."""
        self.wire.client.abortConnection()
        self.wire.pump()

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the connection."""
        return self.wire.server.disconnected


class _Filling(StringTransport):
    """A transport that is full as soon as one of TCP would be."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.producer is not None and len(self.value()) > 2**16:
            self.producer.pauseProducing()


class Unread:
    """
    A client that never reads, of a server whose transport says when it is full.

    :ivar connection: the server's side.
    :ivar transport: what it has written is in ``value()``.
    """

    def __init__(self, site: Any = None, reads: bool = False) -> None:
        self.site = h2c_site(http2_connect=True, reactor=Clock()) if site is None else site
        self.connection = ServerConnection(self.site)
        self.transport: Any = _Filling()
        self.transport.abortConnection = self.transport.loseConnection
        self.connection.makeConnection(self.transport)
        self._reads = reads
        self.sent = 0
        self.send(PREFACE + settings())
        self.transport.clear()

    def send(self, *frames: bytes) -> Unread:
        """Give the server frames in one piece."""
        piece = b"".join(frames)
        self.sent += len(piece)
        self.connection.dataReceived(piece)
        if self._reads:
            self.last = self.transport.value()
            self.transport.clear()
            self.connection.resumeProducing()
        self.site.reactor.advance(0)
        return self

    @property
    def unread(self) -> int:
        """How many bytes wait for the client."""
        return len(self.transport.value())

    @property
    def is_over(self) -> bool:
        return self.connection.is_closed

    @property
    def code(self) -> int | None:
        """Why the server ends the connection; None if it does not."""
        written = self.last if self._reads else self.transport.value()
        found = [f.code for f in frames_of(written) if f.kind == GOAWAY]
        return found[-1] if found else None
