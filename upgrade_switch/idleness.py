"""
:class:`Idleness`: the timer of two joined connections on which nothing may move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IReactorTime

__all__ = ["Idleness"]

# Bytes that may well have been sent, and not acknowledged, at any time.
_ON_ITS_WAY = 4096


class Idleness:
    """
    Ends what has been idle for too long. There is one timer for all bytes: they note the time, and when
    it fires it looks how long ago that was.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        progress: Callable[[], Sequence[tuple[int, int]]],
        timed_out: Callable[[Exception], object],
    ) -> None:
        """
        :param clock: what time is measured by.
        :param seconds: how long nothing may move.
        :param progress: for each of the two sides, how many bytes it has still to take, and how many it
            has taken.
        :param timed_out: called once, with the reason.
        """
        self._clock = clock
        self._seconds = seconds
        self._progress = progress
        self._timed_out = timed_out
        self._last = clock.seconds()
        # What it was when the timer fired last.
        self._before: Sequence[tuple[int, int]] = [(0, 0), (0, 0)]
        self._call = clock.callLater(seconds, self._look)

    def moved(self) -> None:
        """Bytes have come from one of the two sides."""
        self._last = self._clock.seconds()

    def stop(self) -> None:
        """The two have ended; harmless when it is over."""
        if self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        left = self._last + self._seconds - self._clock.seconds()
        if left <= 0:
            # What came long ago may still be on its way out: a slow reader is not an idle one.
            if not self._is_draining():
                why = TimeoutError(string=f"no byte has moved for {self._seconds:g} seconds")
                self._timed_out(why)
                return
            left = self._seconds
        self._call = self._clock.callLater(left, self._look)

    def _is_draining(self) -> bool:
        """Whether a side has still something to take, and has taken some since this was asked last."""
        now = self._progress()
        before, self._before = self._before, now
        return any(
            taken > had_taken if waited > _ON_ITS_WAY else waits > _ON_ITS_WAY
            for (waits, taken), (waited, had_taken) in zip(now, before, strict=True)
        )
