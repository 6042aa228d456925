"""
Flow control (RFC 9113 §5.2, §6.9): how many bytes each side may still send, on a connection and on each
of its streams.

The h2 library counts as well, but takes several times as long for a DATA frame as everything else does
together. So data and windows are kept from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from .frames import window_frame
from .machine import CONNECTION_WINDOW, MOST_WIDE, STREAM_WINDOW, WIDE_WINDOW, WORTH_A_FRAME
from .reader import BrokenRule

if TYPE_CHECKING:
    from .outgoing import Outgoing
    from .stream import HTTP2Stream

__all__ = ["Windows"]

_LARGEST_WINDOW = 2**31 - 1

# Bytes that have been read, of all streams together, and are worth the frame that allows as many again:
# less than the room of streams with a wide window that counts twice, so that the connection's window is
# never in the way of streams when others hold all of theirs.
_WORTH_A_FRAME_OF_ALL = 2**17


class Windows:
    """
    The windows of a connection. Those of a stream are with it: ``window``, ``room`` and ``read``. What
    has been read of one is taken into account for all of them together when it is for that one.

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
        more = WIDE_WINDOW - stream.width
        stream.width += more
        stream.room += more
        return window_frame(stream.stream_id, more)

    def reopen(self, stream: HTTP2Stream, is_large: bool) -> bytes:
        """
        Some bytes of a stream have been read, and need no room any more.

        :param is_large: whether what has come last was much, and has been read as soon as it came.
        :return: the frames that allow as many again, when they are worth it.
        """
        frames = b""
        if is_large and self._may_widen(stream):
            self._wide.add(stream)
            frames = self.widen(stream)
        if stream.read >= WORTH_A_FRAME:
            if not (stream.end_came or stream.disconnected or stream.is_aborting):
                frames += window_frame(stream.stream_id, stream.read)
            stream.room += stream.read
            frames += self.dropped(stream.read)
            stream.read = 0
        return frames

    def dropped(self, size: int) -> bytes:
        """
        Bytes need no room any more, whatever their stream.

        :return: the frame that allows as many again, when they are worth it.
        """
        self._read += size
        if self._read < _WORTH_A_FRAME_OF_ALL:
            return b""
        read, self._read = self._read, 0
        self._room += read
        return window_frame(0, read)

    def _may_widen(self, stream: HTTP2Stream) -> bool:
        """Whether there is a place for a stream that carries much."""
        if stream.width == WIDE_WINDOW or stream.end_came or stream.is_closing:
            return False
        return len(self._wide) < MOST_WIDE

    def forget(self, stream: HTTP2Stream) -> bytes:
        """
        A stream is over: what has come on it is not the connection's any more.

        :return: the frame that allows others to send as much, when it is worth it.
        """
        self._wide.discard(stream)
        return self.dropped(stream.width - stream.room)

    def close(self) -> None:
        """The connection is over, and all streams with it, which know the connection: a cycle."""
        self._wide.clear()
