"""
:class:`HTTP2Connection`: the frames of an HTTP/2 connection (RFC 9113), for either side.

The h2 library keeps the connection's state: streams, windows, settings. It is given one frame at a
time, so that what it says and what it knows agree. Three things are kept from it:

- Header blocks. They are put together and decoded here, and h2 gets a stand-in for each: a message that
  breaks a rule for fields (RFC 9113 §8.2, §8.3) is to cost its stream, and h2 ends the connection.
- GOAWAY. To h2 a connection is over with the first one, sent or received; to RFC 9113 §6.8, streams go
  on.
- Priorities, which RFC 9113 §5.3.2 deprecates.

What is sent goes out in turns. Each stream that has something to send, and a window for it, sends one
frame at most before the next one's turn; none does while the transport is full. So one stalled
stream stops no other one, and what waits is the streams' to keep, which bound it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import _twisted
from ..sending import QuietTimeout
from .budget import Budget
from .frames import Flag, FrameType, header_block_of, padding_of, raw_frame
from .stream import Direction, HTTP2Stream, TCPStream, TLSStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["MOST_STREAMS", "ConnectionState", "HTTP2Connection", "new_machine"]

#: How many streams the other side may have open at the same time. Browsers want 255 WebSockets, and
#: pages beside them.
MOST_STREAMS = 320

# What may wait for each of them: the window that every stream begins with (RFC 9113 §6.9.2). The
# connection's own is as wide as theirs together, so that some that are not read stop no others.
_STREAM_WINDOW = 2**16 - 1
_CONNECTION_WINDOW = MOST_STREAMS * _STREAM_WINDOW

# Bytes of a list of fields, as RFC 9113 §6.5.2 counts them. What is longer costs its stream; what is
# much longer the connection, whose decoder has to read all of it.
LONGEST_FIELDS = 2**16
_LONGEST_DECODED = 2**18

# Bytes of a header block.
_LONGEST_BLOCK = 2**16

# The longest frame that is taken (RFC 9113 §4.2): what all must take.
_LONGEST_FRAME = 2**14

_LONGEST_TABLE = 2**12

# Bytes that are given to the transport in one piece.
_AT_ONCE = 2**16

# Seconds that the other side may take to read what is left when the connection is closed.
_SECONDS_TO_CLOSE = 15

_LAST_STREAM = 2**31 - 1


class ConnectionState(Enum):
    """What a connection still takes."""

    OPEN = auto()
    GOING_AWAY = auto()
    """One side has said that it opens, or takes, no more streams."""
    CLOSED = auto()
    """Nothing that comes is read any more; what has been sent is still on its way."""


def new_machine(is_client: bool) -> H2Connection:
    """A state machine of h2's, which takes bytes and gives bytes, and leaves fields to us."""
    return H2Connection(
        H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
    )


@implementer(IPushProducer)
class HTTP2Connection(Protocol):
    """
    One side of a connection. A subclass says what becomes of streams that the other side opens.

    :ivar clock: what time is measured by.
    :ivar state: what the connection still takes.
    :ivar streams: those that have not ended, by their numbers.
    :ivar machine: h2's state machine.
    :ivar last_opened: the number of the last stream that the other side has opened.
    """

    transport: Any

    # The block that h2 is given in place of a message's fields.
    stand_in: ClassVar[bytes]

    def __init__(self, clock: IReactorTime, *, is_client: bool, settings: dict[SettingCodes, int]) -> None:
        """
        :param settings: what to tell the other side, besides limits that are the same for all.
        """
        self.clock = clock
        self.state = ConnectionState.OPEN
        self.streams: dict[int, HTTP2Stream] = {}
        self.last_opened = 0
        self.machine = new_machine(is_client)
        ours = {SettingCodes.MAX_HEADER_LIST_SIZE: LONGEST_FIELDS, **settings}
        self.machine.local_settings = Settings(client=is_client, initial_values=ours)
        self._decoder = Decoder()
        self._decoder.max_header_list_size = _LONGEST_DECODED
        self._budget = Budget(clock)
        self._buffer = b""
        # The stream, the flags and the block of a message whose fields have not all come.
        self._block: tuple[int, int, bytes] | None = None
        self._has_settings = False
        self._ready: deque[HTTP2Stream] = deque()
        self._is_full = False
        # While frames are being read, or streams have their turns: what is sent waits for the end.
        self._is_reading = self._is_sending = False
        self._lingering: dict[HTTP2Stream, IDelayedCall] = {}
        self._make_stream: Callable[..., HTTP2Stream] = HTTP2Stream
        self._closing: QuietTimeout | None = None

    # What the subclass decides.

    def opened(self, stream_id: int, fields: list[tuple[bytes, bytes]], ends: bool) -> None:
        """
        The head of the first message on a stream has come.

        :param ends: whether it is the whole message.
        """

    def emptied(self) -> None:
        """The last stream has ended."""

    def is_reading_head(self, is_reading: bool) -> None:
        """
        Called when all that has come has been read.

        :param is_reading: whether it has ended in the middle of something that is to come soon.
        """

    # The connection.

    def logPrefix(self) -> str:
        return "HTTP/2"

    def connectionMade(self) -> None:
        if ISSLTransport.providedBy(self.transport):
            self._make_stream = TLSStream
        elif ITCPTransport.providedBy(self.transport):
            self._make_stream = TCPStream
        self.begin()
        self.machine.increment_flow_control_window(_CONNECTION_WINDOW - _STREAM_WINDOW)
        self.transport.registerProducer(self, True)
        self.flush()

    def begin(self) -> None:
        """Send the first frames."""
        self.machine.initiate_connection()

    @property
    def is_secure(self) -> bool:
        """Whether there is TLS beneath."""
        return self._make_stream is TLSStream

    def dataReceived(self, data: bytes) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        self._is_reading = True
        try:
            self._buffer = self._read(self._buffer + data if self._buffer else data)
        except H2Error:
            # h2 has a GOAWAY to send, which says why.
            self._close(Failure(ConnectionLost("the other end has broken a rule of HTTP/2's")))
            return
        finally:
            self._is_reading = False
        if self.state is not ConnectionState.CLOSED:
            self._send()
            kind = self._buffer[3] if len(self._buffer) > 3 else None
            self.is_reading_head(self._block is not None or (bool(self._buffer) and kind != FrameType.DATA))

    def _read(self, data: bytes) -> bytes:
        """Read whole frames; gives what is left."""
        position = 0
        while len(data) - position >= 9 and self.state is not ConnectionState.CLOSED:
            length = int.from_bytes(data[position : position + 3], "big")
            if length > _LONGEST_FRAME:
                self.fail(ErrorCodes.FRAME_SIZE_ERROR)
                break
            end = position + 9 + length
            if len(data) < end:
                break
            self._read_frame(data[position:end])
            position = end
        return data[position:]

    def _read_frame(self, frame: bytes) -> None:
        kind, flags = frame[3], frame[4]
        stream_id = int.from_bytes(frame[5:9], "big") & _LAST_STREAM
        if not self._has_settings:
            # RFC 9113 §3.4.
            self._has_settings = True
            if kind != FrameType.SETTINGS or flags & Flag.ACK:
                self.fail(ErrorCodes.PROTOCOL_ERROR)
                return
        if self._block is not None and (kind != FrameType.CONTINUATION or stream_id != self._block[0]):
            # RFC 9113 §6.10.
            self.fail(ErrorCodes.PROTOCOL_ERROR)
            return
        if not self._budget.allows(frame):
            self.fail(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        read = _READERS.get(kind)
        if read is None:
            self._handle(self.machine.receive_data(frame))
        else:
            read(self, stream_id, flags, frame)

    def _handle(self, events: Iterable[Event]) -> None:
        for event in events:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)

    # Frames that do not reach h2, or not as they are.

    def _read_headers(self, stream_id: int, flags: int, frame: bytes) -> None:
        block = header_block_of(frame)
        if block is None or not stream_id:
            self.fail(ErrorCodes.PROTOCOL_ERROR)
        elif flags & Flag.END_HEADERS:
            self._read_message(stream_id, flags, block)
        else:
            self._block = stream_id, flags, block

    def _read_continuation(self, stream_id: int, flags: int, frame: bytes) -> None:
        if self._block is None:
            self.fail(ErrorCodes.PROTOCOL_ERROR)
            return
        _, first_flags, block = self._block
        block += frame[9:]
        if len(block) > _LONGEST_BLOCK:
            self.fail(ErrorCodes.ENHANCE_YOUR_CALM)
        elif flags & Flag.END_HEADERS:
            self._block = None
            self._read_message(stream_id, first_flags, block)
        else:
            self._block = stream_id, first_flags, block

    def _read_message(self, stream_id: int, flags: int, block: bytes) -> None:
        """Read the fields of a message: its head, or its trailers."""
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            self.fail(ErrorCodes.ENHANCE_YOUR_CALM)
            return
        except (HPACKError, ValueError):
            self.fail(ErrorCodes.COMPRESSION_ERROR)
            return
        ends = bool(flags & Flag.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.continued(stream, fields, ends)
        frame = raw_frame(
            FrameType.HEADERS, Flag.END_HEADERS | (flags & Flag.END_STREAM), stream_id, self.stand_in
        )
        events = self.machine.receive_data(frame)
        if stream is None and events and stream_id > self.last_opened:
            self.last_opened = stream_id
            self.opened(stream_id, fields, ends)
        self._handle(events)

    def continued(
        self, stream: HTTP2Stream, fields: list[tuple[bytes, bytes]], ends: bool
    ) -> None:
        """
        More fields have come on a stream, which ordinarily are trailers: they are dropped. Ones that do
        not end the stream, or come before its end, make the message malformed (RFC 9113 §8.1).
        """
        if not ends or stream.rest:
            self.reset(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _read_data(self, stream_id: int, flags: int, frame: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and stream.rest is not None:
            size = len(frame) - 9 - padding_of(frame)
            if size > stream.rest or (flags & Flag.END_STREAM and size != stream.rest):
                # RFC 9113 §8.1.1. h2 then knows that nobody wants what it is given.
                self.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            stream.rest -= size
        self._handle(self.machine.receive_data(frame))

    def _read_goaway(self, stream_id: int, flags: int, frame: bytes) -> None:
        if stream_id:
            self.fail(ErrorCodes.PROTOCOL_ERROR)
        elif len(frame) < 17:
            self.fail(ErrorCodes.FRAME_SIZE_ERROR)
        else:
            self.told_goodbye(
                int.from_bytes(frame[9:13], "big") & _LAST_STREAM, int.from_bytes(frame[13:17], "big")
            )

    def told_goodbye(self, last_stream: int, code: int) -> None:
        """
        The other side opens no more streams, nor does it take any behind ``last_stream`` (RFC 9113
        §6.8). Those that are open go on.
        """
        self.state = ConnectionState.GOING_AWAY
        if not self.streams:
            self.emptied()

    def _ignore(self, stream_id: int, flags: int, frame: bytes) -> None:
        """A frame that means nothing here."""

    # What h2 says.

    def _data_received(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is not None:
            stream.received(event.data, size)
        elif size:
            self._acknowledge(event.stream_id, size)

    def _stream_ended(self, event: StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.peer_ended()
            if stream.disconnected:
                self._forget(stream)

    def _stream_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.was_reset(_name_of(event.error_code))
            self._forget(stream)

    def _window_updated(self, event: WindowUpdated) -> None:
        if event.stream_id:
            stream = self.streams.get(event.stream_id)
            if stream is not None and stream.has_output:
                self.schedule(stream)
        else:
            self._schedule_all()

    def _settings_changed(self, event: RemoteSettingsChanged) -> None:
        if SettingCodes.HEADER_TABLE_SIZE in event.changed_settings:
            # What the other side allows may be gigabytes.
            encoder = self.machine.encoder
            encoder.header_table_size = min(encoder.header_table_size, _LONGEST_TABLE)
        self._schedule_all()

    def _schedule_all(self) -> None:
        for stream in tuple(self.streams.values()):
            if stream.has_output:
                self.schedule(stream)

    # What streams want (stream.StreamOwner).

    def add_stream(self, stream_id: int) -> HTTP2Stream:
        """Make the transport of a stream that has been opened."""
        stream = self.streams[stream_id] = self._make_stream(self, stream_id)
        return stream

    def schedule(self, stream: HTTP2Stream) -> None:
        if not stream.is_scheduled:
            stream.is_scheduled = True
            self._ready.append(stream)
        self._send()

    def consumed(self, stream: HTTP2Stream, size: int) -> None:
        self._acknowledge(stream.stream_id, size)

    def _acknowledge(self, stream_id: int, size: int) -> None:
        if self.state is not ConnectionState.CLOSED and size:
            with suppress(H2Error):
                self.machine.acknowledge_received_data(size, stream_id)
            if not self._is_reading:
                self.flush()

    def cancel(self, stream: HTTP2Stream) -> None:
        self.reset(stream.stream_id, ErrorCodes.CANCEL)

    def finished(self, stream: HTTP2Stream) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        if stream.sending is not Direction.ENDED or stream.receiving is not Direction.OPEN:
            self._forget(stream)
        elif stream.linger:
            self._lingering[stream] = self.clock.callLater(
                stream.linger, self._reset_lingering, stream
            )
        else:
            self.reset(stream.stream_id, ErrorCodes.NO_ERROR)

    def _reset_lingering(self, stream: HTTP2Stream) -> None:
        del self._lingering[stream]
        self.reset(stream.stream_id, ErrorCodes.NO_ERROR)

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream; what still comes on it is dropped."""
        if self.state is ConnectionState.CLOSED:
            return
        # It may be over.
        with suppress(H2Error):
            self.machine.reset_stream(stream_id, code)
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.receiving = Direction.ENDED
            self._forget(stream)
            if not stream.is_closing:
                stream.finish(Failure(ConnectionLost(f"the stream was reset: {_name_of(code)}")))
        if not self._is_reading:
            self.flush()

    def _forget(self, stream: HTTP2Stream) -> None:
        lingering = self._lingering.pop(stream, None)
        if lingering is not None:
            lingering.cancel()
        if self.streams.pop(stream.stream_id, None) is not None and not self.streams:
            self.emptied()

    # Sending.

    def pauseProducing(self) -> None:
        self._is_full = True

    def resumeProducing(self) -> None:
        self._is_full = False
        self._send()

    def stopProducing(self) -> None:
        """The transport has ended, and says so to its protocol, too."""

    def flush(self) -> None:
        """Give the transport what h2 has to send."""
        data = self.machine.data_to_send()
        if data:
            self.transport.write(data)

    def _send(self) -> None:
        """Let streams have their turns, until the transport is full or nothing can be sent."""
        if self._is_reading or self._is_sending or self.state is ConnectionState.CLOSED:
            return
        self._is_sending = True
        try:
            waiting = 0
            while self._ready and not self._is_full:
                stream = self._ready.popleft()
                stream.is_scheduled = False
                if not stream.disconnected:
                    waiting += self._send_from(stream)
                if waiting > _AT_ONCE:
                    waiting = 0
                    self.flush()
        finally:
            self._is_sending = False
        if self.state is not ConnectionState.CLOSED:
            self.flush()

    def _send_from(self, stream: HTTP2Stream) -> int:
        """Send one frame of a stream, and the heads in front of it; gives how many bytes."""
        machine, stream_id = self.machine, stream.stream_id
        heads = stream.take_heads()
        for fields in heads:
            ends = stream.is_at_end and fields is heads[-1]
            machine.send_headers(stream_id, fields, end_stream=ends)
            if ends:
                stream.end_sent()
                return len(fields)
        if stream.is_at_end:
            machine.end_stream(stream_id)
            stream.end_sent()
            return 0
        window = machine.local_flow_control_window(stream_id)
        if not stream.unsent or window <= 0:
            return len(heads)
        data = stream.take(min(window, machine.max_outbound_frame_size))
        ends = stream.is_at_end
        machine.send_data(stream_id, data, end_stream=ends)
        self._budget.sent(len(data), stream.unsent)
        if ends:
            stream.end_sent()
            return len(data)
        stream.sent()
        if stream.has_output and not stream.is_scheduled and len(data) < window:
            stream.is_scheduled = True
            self._ready.append(stream)
        return len(data)

    # The end.

    def say_goodbye(self, last_stream: int = _LAST_STREAM, code: int = ErrorCodes.NO_ERROR) -> None:
        """
        Send GOAWAY (RFC 9113 §6.8).

        :param last_stream: streams with a higher number are not answered. The default is for a first
            announcement, behind which those still come that are on their way.
        """
        payload = last_stream.to_bytes(4, "big") + int(code).to_bytes(4, "big")
        self.flush()
        self.transport.write(raw_frame(FrameType.GOAWAY, 0, 0, payload))

    def fail(self, code: ErrorCodes) -> None:
        """End the connection, since the other side breaks a rule or asks for too much."""
        if self.state is not ConnectionState.CLOSED:
            self.say_goodbye(self.last_opened, code)
            self._close(Failure(ConnectionLost(f"HTTP/2 was ended: {_name_of(code)}")))

    def close(self) -> None:
        """Say the last goodbye, and close the connection when everything has been sent."""
        if self.state is not ConnectionState.CLOSED:
            self.say_goodbye(self.last_opened)
            self._close(Failure(ConnectionDone()))

    def _close(self, reason: Failure) -> None:
        self.state = ConnectionState.CLOSED
        self._buffer, self._block = b"", None
        self.flush()
        self._end_streams(reason)
        # A transport that has a producer waits for that before it closes.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        transport = self.transport
        self._closing = QuietTimeout(
            transport, self.clock, _SECONDS_TO_CLOSE, lambda: _twisted.abort(transport)
        )

    def _end_streams(self, reason: Failure) -> None:
        """An end of the connection is a clean end of no stream (RFC 9113 §5.4.1)."""
        for call in self._lingering.values():
            call.cancel()
        self._lingering.clear()
        if reason.check(ConnectionDone):
            reason = Failure(ConnectionLost("the connection has ended before the stream"))
        streams, self.streams = self.streams, {}
        self._ready.clear()
        for stream in streams.values():
            stream.finish(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.state = ConnectionState.CLOSED
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.cancel()
        self._end_streams(reason)


def _name_of(code: int) -> str:
    """The name of a reason for a reset, or for the end of a connection (RFC 9113 §7)."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"0x{code:x}"


_READERS: dict[int, Callable[[HTTP2Connection, int, int, bytes], None]] = {
    FrameType.DATA: HTTP2Connection._read_data,
    FrameType.HEADERS: HTTP2Connection._read_headers,
    FrameType.PRIORITY: HTTP2Connection._ignore,
    FrameType.GOAWAY: HTTP2Connection._read_goaway,
    FrameType.CONTINUATION: HTTP2Connection._read_continuation,
}

_HANDLERS: dict[type[Event], Callable[[HTTP2Connection, Any], None]] = {
    DataReceived: HTTP2Connection._data_received,
    StreamEnded: HTTP2Connection._stream_ended,
    StreamReset: HTTP2Connection._stream_reset,
    WindowUpdated: HTTP2Connection._window_updated,
    RemoteSettingsChanged: HTTP2Connection._settings_changed,
}
