"""
Flow control (RFC 9113 §5.2, §6.9): how many bytes each side may still send, on a connection and on each
of its streams.

The h2 library counts as well, but takes several times as long for a DATA frame as everything else does
together. So the bytes are kept from it; it learns of the ends of streams alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from .frames import window_frame
from .machine import CONNECTION_WINDOW, STREAM_WINDOW
from .reader import BrokenRule

if TYPE_CHECKING:
    from .outgoing import Outgoing
    from .stream import HTTP2Stream

__all__ = ["Room", "Windows"]

_LARGEST_WINDOW = 2**31 - 1


class Room:
    """How much the other side may send on one stream, or on all of them together."""

    __slots__ = ("_due", "_left", "_worth_a_frame")

    def __init__(self, size: int) -> None:
        self._left = size
        # What has been read, and is not announced yet: that costs a frame.
        self._due = 0
        self._worth_a_frame = size // 4

    def use(self, size: int) -> None:
        """
        Bytes have come.

        :raises BrokenRule: if they are too many.
        """
        self._left -= size
        if self._left < 0:
            raise BrokenRule(ErrorCodes.FLOW_CONTROL_ERROR)

    def give_back(self, size: int) -> int:
        """
        Bytes have been read.

        :return: how many to announce now.
        """
        due = self._due + size
        if due < self._worth_a_frame:
            self._due = due
            return 0
        self._due = 0
        self._left += due
        return due


class Windows:
    """The windows of a connection. Those of a stream are with it: ``window`` and ``room``."""

    def __init__(self) -> None:
        # What this side may send on all streams together.
        self._window = STREAM_WINDOW
        self._room = Room(CONNECTION_WINDOW)

    # What this side sends.

    def of(self, stream: Outgoing) -> int:
        """How much may be sent on a stream."""
        return min(stream.window, self._window)

    def sent(self, stream: Outgoing, size: int) -> None:
        """Bytes have been sent on a stream."""
        stream.window -= size
        self._window -= size

    def open(self, increment: int) -> None:
        """
        The other side takes more bytes, whatever their stream.

        :raises BrokenRule: if the window is too large now.
        """
        self._window += increment
        if self._window > _LARGEST_WINDOW:
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

    def received(self, stream: HTTP2Stream, size: int) -> None:
        """
        Bytes have come on a stream.

        :raises BrokenRule: if they are too many.
        """
        self._room.use(size)
        stream.room.use(size)

    def consumed(self, stream: HTTP2Stream, size: int, is_open: bool) -> bytes:
        """
        Bytes need no room any more.

        :param is_open: whether more may come on the stream.
        :return: the frames that say so.
        """
        increment = self._room.give_back(size)
        frames = window_frame(0, increment) if increment else b""
        if is_open:
            increment = stream.room.give_back(size)
            if increment:
                frames += window_frame(stream.stream_id, increment)
        return frames
