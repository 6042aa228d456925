"""
:class:`IdleTimer`: notices that nothing has moved for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ...splicing import check_idle_timeout

__all__ = ["IDLE_TIMEOUT", "IdleTimer"]

IDLE_TIMEOUT: Final = 120
"""Seconds: the least that RFC 9298 §3.1 (and RFC 4787 §4.3) recommends."""


class IdleTimer:
    """
    One timer for all datagrams: they note the time, and when it fires it looks how long ago that was.
    """

    __slots__ = ("_call", "_clock", "_last", "_over", "_seconds")

    def __init__(self, clock: IReactorTime, seconds: float | None, over: Callable[[], object]) -> None:
        """
        :param seconds: after how many of them in which nothing has moved ``over`` is called, once;
            None: never.
        :raises InvalidArgument: if it is neither None nor above 0.
        """
        check_idle_timeout(seconds)
        self._clock = clock
        self._seconds = seconds
        self._over: Callable[[], object] | None = over
        self._last = clock.seconds()
        self._call: IDelayedCall | None = None
        if seconds is not None:
            self._call = clock.callLater(seconds, self._look)

    def moved(self) -> None:
        """Something has moved."""
        self._last = self._clock.seconds()

    def stop(self) -> None:
        """Look no more; harmless when it is over."""
        call, self._call, self._over = self._call, None, None
        if call is not None:
            call.cancel()

    def _look(self) -> None:
        self._call = None
        over, seconds = self._over, self._seconds
        if over is None or seconds is None:
            return
        left = self._last + seconds - self._clock.seconds()
        if left > 0:
            self._call = self._clock.callLater(left, self._look)
        else:
            self._over = None
            over()
