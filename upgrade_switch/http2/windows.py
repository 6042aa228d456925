"""
Flow control (RFC 9113 §5.2, §6.9): how many bytes each side may still send, on a connection and on each
of its streams.

The h2 library counts as well, but takes several times as long for a DATA frame as everything else does
together. So data and windows are kept from it. It learns of the ends of streams, and gets what is for
no stream of ours, or is malformed: it says what is wrong, if anything is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from h2.errors import ErrorCodes
from h2.events import Event

from .frames import Flag, FrameType, data_of, increment_of, raw_frame, window_frame
from .machine import CONNECTION_WINDOW, MOST_WIDE, STREAM_WINDOW, WIDE_WINDOW, Machine
from .reader import BrokenRule, Frame

if TYPE_CHECKING:
    from .ending import Resets
    from .outgoing import Outgoing
    from .stream import HTTP2Stream

__all__ = ["WindowedConnection", "Windows", "read_data", "read_window_update"]

_DATA, _END_STREAM = int(FrameType.DATA), int(Flag.END_STREAM)

_LARGEST_WINDOW = 2**31 - 1

# Bytes that have been read, and are worth the frame that allows as many again. h2 may keep back as much
# as half of a connection's window, for streams that have ended.
_WORTH_A_FRAME = STREAM_WINDOW // 4
_WORTH_A_FRAME_OF_ALL = CONNECTION_WINDOW // 4

# Bytes of a DATA frame that nobody sends who has little to send.
_MUCH = 2**13

# A DATA frame that is smaller is not worth the reset that it gets on a stream that is over. Larger ones
# are on their way when a large content is not wanted.
_WORTH_A_RESET = 1024


class Windows:
    """
    The windows of a connection. Those of a stream are with it: ``window``, ``room`` and ``read``.

    :ivar left: how many bytes may be sent on all streams together.
    :ivar carried: how many bytes have been sent on all streams together.
    """

    def __init__(self) -> None:
        # As with each stream, for all of them together.
        self.left = STREAM_WINDOW
        self.carried = 0
        self._room = CONNECTION_WINDOW
        self._read = 0
        # Streams with a wide window that may be kept waiting.
        self._wide: set[HTTP2Stream] = set()

    # What this side sends.

    def of(self, stream: Outgoing) -> int:
        """How much may be sent on a stream."""
        return min(stream.window, self.left)

    def sent(self, stream: Outgoing, size: int) -> None:
        """Bytes have been sent on a stream."""
        stream.window -= size
        stream.carried += size
        self.left -= size
        self.carried += size

    def open(self, increment: int) -> None:
        """
        The other side takes more bytes, whatever their stream.

        :raises BrokenRule: if the window is too large now.
        """
        self.left += increment
        if self.left > _LARGEST_WINDOW:
            raise BrokenRule(ErrorCodes.FLOW_CONTROL_ERROR)

    @staticmethod
    def open_stream(stream: Outgoing, increment: int) -> bool:
        """The other side takes more bytes on a stream; False if its window is too large now."""
        stream.window += increment
        return stream.window <= _LARGEST_WINDOW

    def resize(self, streams: Iterable[Outgoing], difference: int) -> None:
        """
        The other side has changed what all streams begin with (RFC 9113 §6.9.2).

        :raises BrokenRule: if a window is too large now.
        """
        if not all(self.open_stream(stream, difference) for stream in streams):
            raise BrokenRule(ErrorCodes.FLOW_CONTROL_ERROR)

    # What comes.

    def received(self, stream: HTTP2Stream | None, size: int) -> None:
        """
        Bytes have come on a stream, or on one that is over.

        :raises BrokenRule: if they are too many.
        """
        self._room -= size
        if stream is not None:
            stream.room -= size
        if self._room < 0 or (stream is not None and stream.room < 0):
            raise BrokenRule(ErrorCodes.FLOW_CONTROL_ERROR)

    def widen(self, stream: HTTP2Stream) -> bytes:
        """
        Give a stream a wide window. Either whatever comes on it is consumed at once, so that it takes
        nothing of the connection's window from others, or there is a place for it.

        :return: the frame that allows more to be on its way.
        """
        stream.is_wide = True
        more = WIDE_WINDOW - STREAM_WINDOW
        stream.room += more
        return window_frame(stream.stream_id, more)

    def consumed(self, stream: HTTP2Stream | None, size: int, at_once: bool = False) -> bytes:
        """
        Bytes need no room any more.

        :param at_once: whether they have been read as soon as they came.
        :return: the frames that allow as many again, when they are worth it.
        """
        frames = b""
        if stream is not None:
            stream.read += size
            if size >= _MUCH and at_once and self._may_widen(stream):
                self._wide.add(stream)
                frames = self.widen(stream)
            if stream.read >= _WORTH_A_FRAME:
                if not (stream.end_came or stream.disconnected or stream.is_aborting):
                    frames += window_frame(stream.stream_id, stream.read)
                stream.room += stream.read
                stream.read = 0
        self._read += size
        if self._read >= _WORTH_A_FRAME_OF_ALL:
            frames += window_frame(0, self._read)
            self._room += self._read
            self._read = 0
        return frames

    def _may_widen(self, stream: HTTP2Stream) -> bool:
        """Whether there is a place for a stream that carries much."""
        if stream.is_wide or stream.end_came or stream.is_closing:
            return False
        return len(self._wide) < MOST_WIDE

    def forget(self, stream: HTTP2Stream) -> None:
        """A stream is over."""
        self._wide.discard(stream)


class WindowedConnection(TypingProtocol):
    """A connection, as data and windows need it."""

    machine: Machine
    windows: Windows
    streams: dict[int, HTTP2Stream]
    resets: Resets

    def handle(self, events: Iterable[Event]) -> None:
        """Do what follows from what h2 says."""

    def refuse(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream on which the other side has broken a rule."""

    def consumed(self, stream: HTTP2Stream | None, size: int) -> None:
        """So many bytes need no room any more."""

    def blame(self) -> None:
        """What has just been read was good for nothing but a reset."""

    def schedule(self, stream: HTTP2Stream) -> None:
        """A stream has something to send."""


def read_data(connection: WindowedConnection, frame: Frame) -> None:
    """
    A DATA frame has come.

    :raises BrokenRule: if it has more bytes than the windows allow.
    """
    stream, data = connection.streams.get(frame.stream_id), data_of(frame.raw)
    if data is not None and frame.stream_id in connection.resets:
        # It counts for the connection's window nevertheless (RFC 9113 §6.9).
        connection.windows.received(None, len(frame.raw) - 9)
        connection.consumed(None, len(frame.raw) - 9)
        if len(frame.raw) < _WORTH_A_RESET:
            connection.blame()
        return
    if stream is None or data is None or stream.end_came:
        events = connection.machine.receive_data(frame.raw)
        if len(frame.raw) < _WORTH_A_RESET:
            connection.blame()
        connection.handle(events)
        return
    size, ends = len(frame.raw) - 9, bool(frame.flags & _END_STREAM)
    connection.windows.received(stream, size)
    events = []
    if ends:
        stream.end_came = True
        end = raw_frame(_DATA, _END_STREAM, frame.stream_id, b"")
        events = connection.machine.receive_data(end)
    if not stream.takes(len(data), ends):
        connection.refuse(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
    if size:
        stream.received(data, size)
    if events:
        connection.handle(events)


def read_window_update(connection: WindowedConnection, frame: Frame) -> None:
    """
    A WINDOW_UPDATE frame has come.

    :raises BrokenRule: if the connection's window is too large now.
    """
    stream, increment = connection.streams.get(frame.stream_id), increment_of(frame.raw)
    if not increment or (stream is None and frame.stream_id):
        connection.handle(connection.machine.receive_data(frame.raw))
    elif stream is None:
        connection.windows.open(increment)
    elif not connection.windows.open_stream(stream, increment):
        connection.refuse(frame.stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
    elif stream.has_output:
        connection.schedule(stream)
