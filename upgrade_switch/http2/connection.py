"""
:class:`HTTP2Connection`: an HTTP/2 connection (RFC 9113), on either side.

The h2 library keeps the connection's state: streams, settings. It is given one frame at a time, so that
what it says and what it knows agree. Four things are kept from it:

- Header blocks. They are put together and decoded here (``reader.py``); h2 gets a stand-in for each: a
  message that breaks a rule for fields (RFC 9113 §8.2, §8.3) is to cost its stream, and h2 ends the
  connection.
- Data, and the windows for it (``incoming.py``, ``windows.py``).
- GOAWAY. To h2 a connection is over with the first one, sent or received; to RFC 9113 §6.8, streams go
  on.
- Priorities, which RFC 9113 §5.3.2 deprecates.

What is sent goes out in turns (``turns.py``), so one stalled stream stops no other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import _twisted
from .due import Due
from .ending import ConnectionState, Lingering, Resets, close_in_time
from .events import HANDLERS
from .frames import LAST_STREAM, Flag, FrameType, goaway_frame, raw_frame
from .incoming import read_data, read_window_update
from .machine import CONNECTION_WINDOW, STREAM_WINDOW, name_of, new_machine
from .outgoing import Direction
from .reader import BrokenRule, Frame, FrameReader, Message, is_priority, read_goaway
from .stream import HTTP2Stream
from .transports import TCPStream, TLSStream
from .turns import Turns
from .windows import Windows

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime

    from ..interfaces import IStreamTransport
    from ..sending import QuietTimeout

__all__ = ["HTTP2Connection"]

_CLOSED = ConnectionState.CLOSED
_END_STREAM, _END_HEADERS = int(Flag.END_STREAM), int(Flag.END_HEADERS)


@implementer(IPushProducer)
class HTTP2Connection(Protocol):
    """
    One side of a connection. A subclass says what becomes of streams that the other side opens.

    :ivar clock: what time is measured by.
    :ivar state: what the connection still takes.
    :ivar streams: those that have not ended, by their numbers.
    :ivar resets: those that this side has reset.
    :ivar machine: h2's state machine.
    :ivar last_opened: the number of the last stream that the other side has opened.
    """

    transport: IStreamTransport

    #: The block that h2 is given in place of a message's fields.
    stand_in: ClassVar[bytes] = b""

    #: How many bytes of the other side's preface have not come (RFC 9113 §3.4).
    preface_left = 0

    def __init__(
        self, clock: IReactorTime, *, is_client: bool, settings: dict[SettingCodes, int]
    ) -> None:
        """
        :param settings: what to tell the other side, besides limits that are the same for all.
        """
        self.clock = clock
        self.state = ConnectionState.OPEN
        self.streams: dict[int, HTTP2Stream] = {}
        self.resets = Resets()
        self.last_opened = 0
        self.machine = new_machine(is_client, settings)
        self.reader = FrameReader(clock)
        self._due = Due()
        self.windows = Windows()
        self.turns = Turns(self.machine, self.reader, self.windows)
        self._lingering = Lingering(clock)
        self._make_stream: Callable[..., HTTP2Stream] = HTTP2Stream
        self._closing: QuietTimeout | None = None

    # What the subclass decides.

    def opened(self, message: Message) -> None:
        """The head of the first message on a stream has come."""

    def continued(self, stream: HTTP2Stream, message: Message) -> None:
        """
        More fields have come on a stream: trailers, which are dropped. If they do not end it, or come
        before the content's end, the message is malformed (RFC 9113 §8.1).
        """
        if not message.ends or stream.rest:
            self.refuse(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def stand_in_for(self, message: Message) -> bytes:
        """The block that h2 is given in place of a message's fields."""
        return self.stand_in

    def stream_ended(self, stream: HTTP2Stream) -> None:
        """The other side has ended its direction of a stream."""
        self.when_read(stream, stream.peer_ended)

    def stream_reset(self, stream: HTTP2Stream, code: int) -> None:
        """The other side has reset a stream."""
        stream.was_reset(name_of(code), is_complete=code == ErrorCodes.NO_ERROR)

    def settings_came(self) -> None:
        """The other side has sent settings."""

    def emptied(self) -> None:
        """The last stream has ended."""

    # The connection.

    def logPrefix(self) -> str:
        return "HTTP/2"

    def connectionMade(self) -> None:
        if ISSLTransport.providedBy(self.transport):
            self._make_stream = TLSStream
        elif ITCPTransport.providedBy(self.transport):
            self._make_stream = TCPStream
        self.turns.transport = self.transport
        self.begin()
        self.machine.increment_flow_control_window(CONNECTION_WINDOW - STREAM_WINDOW)
        _twisted.register_producer(self.transport, self)
        self.flush()

    def begin(self) -> None:
        """Send the first frames."""
        self.machine.initiate_connection()

    # Asked with each request. A transport would make a new one each time.

    @cached_property
    def peer(self) -> IAddress:
        return self.transport.getPeer()

    @cached_property
    def host(self) -> IAddress:
        return self.transport.getHost()

    @property
    def is_secure(self) -> bool:
        return self._make_stream is TLSStream

    @property
    def is_closed(self) -> bool:
        return self.state is ConnectionState.CLOSED

    # Receiving.

    def dataReceived(self, data: bytes) -> None:
        if self.state is _CLOSED:
            return
        # What is sent waits until all has been read.
        self.turns.is_held = True
        try:
            if self.preface_left:
                data = self._read_preface(data)
            self.reader.read(data, self)
            if self._due.waiting:
                self._due.run(self.streams)
            if self.turns.is_full and self.turns.is_overfull:
                raise BrokenRule(ErrorCodes.ENHANCE_YOUR_CALM)
        except BrokenRule as broken:
            self.fail(broken.code)
        except H2Error:
            # h2 has a GOAWAY to send, which says why.
            self._close(Failure(ConnectionLost("the other end has broken a rule of HTTP/2's")))
        finally:
            self.turns.is_held = False
        self.turns.send()

    def _read_preface(self, data: bytes) -> bytes:
        preface, rest = data[: self.preface_left], data[self.preface_left :]
        self.preface_left -= len(preface)
        self.machine.receive_data(preface)
        return rest

    # What the reader has read (reader.FrameReceiver).

    data_came = read_data

    def frame_came(self, frame: Frame) -> None:
        kind, stream_id = frame.kind, frame.stream_id
        if kind == FrameType.WINDOW_UPDATE:
            read_window_update(self, frame)
        elif kind == FrameType.GOAWAY:
            self.told_goodbye(*read_goaway(frame))
        elif kind == FrameType.PRIORITY:
            if not is_priority(frame):
                self.refuse(stream_id, ErrorCodes.FRAME_SIZE_ERROR)
        elif kind == FrameType.RST_STREAM and self.machine.is_idle(stream_id):
            # RFC 9113 §6.4, which h2 does not see to.
            raise BrokenRule(ErrorCodes.PROTOCOL_ERROR)
        else:
            self.handle(self.machine.receive_data(frame.raw))

    def when_read(self, stream: HTTP2Stream, act: Callable[[], object]) -> None:
        """Have something done when all that has come has been read (``due.py``)."""
        self._due.add(stream, act)
        if not self.turns.is_held:
            self._due.run(self.streams)

    def handle(self, events: Iterable[Event]) -> None:
        """Do what follows from what h2 says."""
        for event in events:
            handle = HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)

    def message_came(self, message: Message) -> None:
        stream_id = message.stream_id
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.continued(stream, message)
            if stream_id not in self.streams:
                # It has been reset.
                return
        elif stream_id in self.resets:
            self.blame()
            return
        flags = _END_HEADERS | (_END_STREAM if message.ends else 0)
        stand_in = raw_frame(FrameType.HEADERS, flags, stream_id, self.stand_in_for(message))
        events = self.machine.receive_data(stand_in)
        if stream is None:
            if events and stream_id > self.last_opened:
                self.last_opened = stream_id
                self.opened(message)
            else:
                self.blame()
        self.handle(events)

    def told_goodbye(self, last_stream: int, code: int) -> None:
        """
        The other side opens no more streams, nor does it take any behind ``last_stream`` (RFC 9113
        §6.8). Those that are open go on.
        """
        self.state = ConnectionState.GOING_AWAY
        if not self.streams:
            self.emptied()

    # What streams want (stream.StreamOwner).

    def add_stream(self, stream_id: int) -> HTTP2Stream:
        """Make the transport of a stream that has been opened."""
        stream = self.streams[stream_id] = self._make_stream(self, stream_id)
        stream.window = self.machine.remote_settings.initial_window_size
        return stream

    def reopen(self, stream: HTTP2Stream, is_large: bool) -> None:
        if stream.stream_id in self.streams:
            self._put(self.windows.reopen(stream, is_large))

    def cancel(self, stream: HTTP2Stream) -> None:
        self.reset(stream.stream_id, ErrorCodes.CANCEL)

    def finished(self, stream: HTTP2Stream) -> None:
        if self.is_closed:
            return
        if stream.sending is not Direction.ENDED or stream.receiving is not Direction.OPEN:
            self.forget(stream)
        elif stream.linger:
            self._lingering.add(stream, self.reset)
        else:
            self.reset(stream.stream_id, ErrorCodes.NO_ERROR)

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream; what still comes on it is dropped."""
        if self.is_closed:
            return
        # It may be over.
        with suppress(H2Error):
            self.machine.reset_stream(stream_id, code)
            self.resets.add(stream_id)
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.receiving = Direction.ENDED
            self.forget(stream)
            if not stream.is_aborting:
                stream.finish(Failure(ConnectionLost(f"the stream was reset: {name_of(code)}")))
        self._flush_unless_reading()

    def refuse(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream on which the other side has broken a rule."""
        self.reset(stream_id, code)
        self.blame()

    def blame(self) -> None:
        """
        What has been read was good for nothing, or for nothing but a reset, which costs some of the
        budget (it is CVE-2025-8671 to have streams reset without an end).
        """
        if not self.reader.budget.spend():
            raise BrokenRule(ErrorCodes.ENHANCE_YOUR_CALM)

    def forget(self, stream: HTTP2Stream) -> None:
        """A stream is over: neither side sends on it any more."""
        self._lingering.discard(stream)
        self.turns.discard(stream)
        if self.streams.pop(stream.stream_id, None) is not None:
            self._put(self.windows.forget(stream))
            if not self.streams:
                self.emptied()

    # Sending.

    def pauseProducing(self) -> None:
        self.turns.is_full = True

    def resumeProducing(self) -> None:
        self.turns.go_on()

    def stopProducing(self) -> None:
        """The transport has ended, and says so to its protocol, too."""

    def flush(self) -> None:
        """Give the transport what h2 has to send."""
        self.turns.flush()

    def _put(self, frames: bytes) -> None:
        if frames and not self.is_closed:
            self.turns.put(frames)
            self._flush_unless_reading()

    def _flush_unless_reading(self) -> None:
        if not (self.turns.is_held or self.is_closed):
            self.flush()

    # The end.

    def say_goodbye(self, last_stream: int = LAST_STREAM, code: int = ErrorCodes.NO_ERROR) -> None:
        """Send GOAWAY (RFC 9113 §6.8); the default answers whatever is on its way."""
        self.flush()
        self.transport.write(goaway_frame(last_stream, code))

    def fail(self, code: ErrorCodes) -> None:
        """End the connection, since the other side breaks a rule or asks for too much."""
        if not self.is_closed:
            self.say_goodbye(self.last_opened, code)
            self._close(Failure(ConnectionLost(f"HTTP/2 was ended: {name_of(code)}")))

    def close(self) -> None:
        """Say the last goodbye, and close the connection when everything has been sent."""
        if not self.is_closed:
            self.say_goodbye(self.last_opened)
            self._close(Failure(ConnectionDone()))

    def _close(self, reason: Failure) -> None:
        self.state = ConnectionState.CLOSED
        self.flush()
        self._end_streams(reason)
        # A transport that has a producer waits for that before it closes.
        self.transport.unregisterProducer()
        self._closing = close_in_time(self.transport, self.clock)

    def _end_streams(self, reason: Failure) -> None:
        """The end of a connection is no clean end of any stream."""
        self._lingering.clear()
        if reason.check(ConnectionDone):
            reason = Failure(ConnectionLost("the connection has ended before the stream"))
        self.turns.close()
        self.reader.is_closed = True
        self._due.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.cut_off(reason)
        self.windows.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.state = ConnectionState.CLOSED
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.cancel()
        # A TLS layer would keep its producer, and hence itself.
        self.transport.unregisterProducer()
        self._end_streams(reason)
