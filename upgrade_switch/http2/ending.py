"""
How connections and streams come to their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from .. import _twisted
from ..sending import QuietTimeout

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ..interfaces import IStreamTransport
    from .stream import HTTP2Stream

__all__ = ["ConnectionState", "Lingering", "Resets", "close_in_time"]

# Seconds that the other side may take to read what is left when the connection is closed.
_SECONDS_TO_CLOSE = 15

# How many streams are remembered that have been reset here: more than may be open at the same time.
_MOST_RESETS = 2**10


class ConnectionState(Enum):
    """What a connection still takes."""

    OPEN = auto()
    GOING_AWAY = auto()
    """The other side has said that it opens, or takes, no more streams."""
    CLOSED = auto()
    """Nothing that comes is read any more; what has been sent is still on its way."""


class Lingering:
    """
    Streams that are through on this side, and that the other side may take some seconds to end. Then
    they are reset.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: dict[HTTP2Stream, IDelayedCall] = {}

    def add(self, stream: HTTP2Stream, reset: Callable[[int, ErrorCodes], object]) -> None:
        """
        Give the other side of a stream its seconds (``linger``).

        :param reset: resets a stream.
        """
        self._calls[stream] = self._clock.callLater(stream.linger, self._reset, stream, reset)

    def _reset(self, stream: HTTP2Stream, reset: Callable[[int, ErrorCodes], object]) -> None:
        del self._calls[stream]
        reset(stream.stream_id, ErrorCodes.NO_ERROR)

    def discard(self, stream: HTTP2Stream) -> None:
        """A stream, which may be one of them, is over."""
        call = self._calls.pop(stream, None)
        if call is not None:
            call.cancel()

    def clear(self) -> None:
        """The connection is over."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()


class Resets:
    """
    The streams that this side has reset. What the other side has sent before it hears of that is
    ignored (RFC 9113 §5.1); the h2 library would answer each frame with another reset.
    """

    def __init__(self) -> None:
        # A dict, for its order.
        self._streams: dict[int, None] = {}

    def add(self, stream_id: int) -> None:
        """A stream has been reset."""
        self._streams[stream_id] = None
        if len(self._streams) > _MOST_RESETS:
            del self._streams[next(iter(self._streams))]

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._streams


def close_in_time(transport: IStreamTransport, clock: IReactorTime) -> QuietTimeout:
    """
    Close a transport when everything has been sent, or abort it if the other side reads nothing more.

    :return: the timer, to be cancelled when the transport has ended.
    """
    transport.loseConnection()
    return QuietTimeout(transport, clock, _SECONDS_TO_CLOSE, lambda: _twisted.abort(transport))
