"""
The ends of many connections at a time. Where thousands of clients leave together, the reactor has all
of their ends in one turn, and whoever else has said something waits until the last of them is done.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.python.log import callWithLogger

__all__ = ["Leaving"]

# So long may ends take in a turn.
_SECONDS = 0.01


class _Ending(Protocol):
    """A connection whose end the kernel has told."""

    def end(self) -> None: ...


class Leaving:
    """The connections of a port that have ended, but in a turn of the reactor that had no more time."""

    def __init__(self, reactor: IReactorTime, seconds: Callable[[], float] = time.monotonic) -> None:
        """
        :param reactor: the port's.
        :param seconds: a clock that goes on within a turn, too.
        """
        self._reactor = reactor
        self._seconds = seconds
        # When the ends of this turn have begun, and when the last of them has.
        self._began = self._last = -_SECONDS
        self._waiting: OrderedDict[_Ending, None] = OrderedDict()
        self._is_called = False

    def has_time(self) -> bool:
        """Whether a connection may end now. If not, it is to be added."""
        now = self._seconds()
        if now - self._last > _SECONDS:
            # Nobody tells of new turns: there has been something else, or nothing.
            self._began = now
        self._last = now
        return not self._waiting and now - self._began <= _SECONDS

    def add(self, connection: _Ending) -> None:
        """Have a connection's ``end`` called in one of the next turns, unless it is removed before."""
        self._waiting[connection] = None
        if not self._is_called:
            self._is_called = True
            self._reactor.callLater(0, self._end_some)

    def remove(self, connection: _Ending) -> None:
        """Harmless if it is not there."""
        self._waiting.pop(connection, None)

    def _end_some(self) -> None:
        self._is_called = False
        now = self._began = self._seconds()
        while self._waiting and now - self._began <= _SECONDS:
            connection, _ = self._waiting.popitem(last=False)
            # As the reactor calls.
            callWithLogger(connection, connection.end)
            now = self._last = self._seconds()
        if self._waiting and not self._is_called:
            self._is_called = True
            self._reactor.callLater(0, self._end_some)
