"""
:class:`UnreadAnswers`: answers over HTTP/2 that their client does not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from typing import Protocol as TypingProtocol

from h2.errors import ErrorCodes

from ..sending import remaining

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ..http2.stream import HTTP2Stream
    from ..http2.windows import Windows
    from ..interfaces import IStreamTransport

__all__ = ["AnsweringConnection", "UnreadAnswers"]

# How often the streams are looked at before one is given up.
_LOOKS = 4


class AnsweringConnection(TypingProtocol):
    """The connection of the streams."""

    clock: IReactorTime
    windows: Windows
    streams: dict[int, HTTP2Stream]
    transport: IStreamTransport

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream."""

    def is_alive(self) -> None:
        """The client goes on: it is not idle."""


class _Seen(NamedTuple):
    """What was seen of a stream, and how often in a row it was the same."""

    carried: int
    times: int


class UnreadAnswers:
    """
    Gives up answers of which a client has not taken a byte for some time. The connection's idle timer
    does not see to that: another stream may be in use for ever, while as many answers as there may be
    streams are kept for the client.

    If a stream's own window is open, and only the connection's, or the transport, is in its way, it has
    its turn when the others have had theirs: then it is enough that the client takes anything at all.
    """

    def __init__(self, seconds: float | None) -> None:
        """
        :param seconds: how long a client may take nothing; None: as long as it likes.
        """
        self._pause = (seconds or 0) / _LOOKS
        self._call: IDelayedCall | None = None
        self._stuck: dict[HTTP2Stream, _Seen] = {}
        # Bytes that the connection had sent, and what remained of them, at the last look.
        self._before: tuple[int, int] | None = None

    def watch(self, connection: AnsweringConnection) -> None:
        """There is a request to be answered."""
        if self._call is None and self._pause:
            self._before = None
            self._call = connection.clock.callLater(self._pause, self._look, connection)

    def stop(self) -> None:
        """The connection is over."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._stuck.clear()

    def _look(self, connection: AnsweringConnection) -> None:
        self._call = None
        is_moving = self._is_moving(connection)
        # A stream that lingers has switched: what it holds is its target's business.
        answers = [stream for stream in connection.streams.values() if not stream.linger]
        if answers:
            self._call = connection.clock.callLater(self._pause, self._look, connection)
        unread = [stream for stream in answers if stream.unsent]
        if unread and is_moving:
            connection.is_alive()
        before, self._stuck = self._stuck, {}
        for stream in unread:
            seen = before.get(stream)
            if seen is None or seen.carried != stream.carried or (is_moving and stream.window > 0):
                self._stuck[stream] = _Seen(stream.carried, 0)
            elif seen.times + 1 < _LOOKS:
                self._stuck[stream] = _Seen(stream.carried, seen.times + 1)
            else:
                connection.reset(stream.stream_id, ErrorCodes.CANCEL)

    def _is_moving(self, connection: AnsweringConnection) -> bool:
        """Whether the client has taken anything since the last look."""
        now = connection.windows.carried, remaining(connection.transport)
        before, self._before = self._before, now
        return before is not None and (now[0] != before[0] or now[1] < before[1])
