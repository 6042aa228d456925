"""
:class:`IdleTimers`: the idle time-outs of a site's connections; and :class:`TimedChannel`, an
``HTTPChannel`` that uses them.

Nearly every time-out is cancelled, by the next request or by the connection's end, and a delayed call
for each costs as much as reading a head. But time-outs of the same length are due in the order in which
they have begun, so a single call serves all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from twisted.logger import Logger

from .gathering import GatheringChannel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from ..interfaces import IUpgradeSite

__all__ = ["IdleQueue", "IdleTimers", "TimedChannel"]

_log = Logger()


class HasTimeout(TypingProtocol):
    """What has a time-out."""

    def timed_out(self) -> None:
        """The time is over: end it (``IdleQueue.end``), or begin it again."""


class IdleTimers(dict[float, "IdleQueue"]):
    """
    The time-outs of a site's connections, or of a proxy's requests, by their lengths in seconds: one or
    two.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """
        :param clock: what time is measured by.
        """
        super().__init__()
        self._clock = clock

    def __missing__(self, seconds: float) -> IdleQueue:
        queue = self[seconds] = IdleQueue(self._clock, seconds)
        return queue


class IdleQueue:
    """Time-outs of one length."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        """
        :param seconds: how long.
        """
        self._clock = clock
        self._seconds = seconds
        # When each is due, in that order.
        self._due: dict[HasTimeout, float] = {}
        self._call: IDelayedCall | None = None

    def begin(self, waiting: HasTimeout) -> None:
        """Begin a time-out, or begin it again."""
        self._due.pop(waiting, None)
        self._due[waiting] = self._clock.seconds() + self._seconds
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self._look)

    def end(self, waiting: HasTimeout) -> None:
        """End a time-out that has begun."""
        del self._due[waiting]
        if not self._due and self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        """Call those that are due, and come back when the next one is."""
        self._call = None
        now = self._clock.seconds()
        while self._due:
            waiting, due = next(iter(self._due.items()))
            if due > now:
                if self._call is not None:
                    # One that was called has begun again.
                    self._call.cancel()
                self._call = self._clock.callLater(due - now, self._look)
                break
            try:
                waiting.timed_out()
            except Exception:
                _log.failure("a time-out failed")


class TimedChannel(GatheringChannel):
    """
    Twisted's HTTP/1.1 server protocol, whose time-out (``TimeoutMixin``'s) is one among its site's.
    """

    # Set by twisted.web's factories.
    site: IUpgradeSite

    # Set while time passes.
    _queue: IdleQueue | None = None

    def setTimeout(self, period: float | None) -> float | None:
        before: float | None = self.timeOut
        self.timeOut = period  # type: ignore[assignment]  # Twisted says int, and takes both
        if self._queue is not None:
            self._queue.end(self)
            self._queue = None
        if period is not None:
            self._queue = self.site.idle_timers[period]
            self._queue.begin(self)
        return before

    def resetTimeout(self) -> None:
        if self._queue is not None:
            self._queue.begin(self)

    def timed_out(self) -> None:
        """The time is over."""
        if self._queue is not None:
            self._queue.end(self)
            self._queue = None
        self.timeoutConnection()
