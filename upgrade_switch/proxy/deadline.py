"""
:class:`Deadline`: a time-out that is often begun anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..server.idle import IdleQueue, IdleTimers

__all__ = ["Deadline"]


class Deadline:
    """
    Calls when its time is over. Between :meth:`pause` and :meth:`resume` no time passes; a pause ends
    with the next :meth:`start`, too.
    """

    def __init__(self, timers: IdleTimers, passed: Callable[[], object]) -> None:
        """
        :param timers: those of the proxy, since nearly every deadline is called off.
        :param passed: called when the time is over.
        """
        self._timers = timers
        self._passed = passed
        self._seconds = 0.0
        # Set while time passes.
        self._queue: IdleQueue | None = None

    def start(self, seconds: float) -> None:
        """
        Have so much time from now on, whatever there was before.

        :param seconds: 0: any time.
        """
        if self._queue is not None:
            self.pause()
        self._seconds = seconds
        if seconds:
            self._queue = self._timers[seconds]
            self._queue.begin(self)

    def restart(self) -> None:
        """Have the same time again from now on, if there is a time-out and it is not paused."""
        if self._queue is not None:
            self._queue.begin(self)

    def pause(self) -> None:
        """Have any time, until it is resumed or started."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.end(self)

    def resume(self) -> None:
        """Have the whole time again, if there is a time-out."""
        if self._queue is None and self._seconds:
            self._queue = self._timers[self._seconds]
            self._queue.begin(self)

    def stop(self) -> None:
        """End the time-out; harmless if there is none."""
        self._seconds = 0.0
        self.pause()

    def give_up(self) -> None:
        """There will be none any more, either, and whom to call is forgotten."""
        self._seconds = 0.0
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.end(self)
        self._passed = _nothing

    def timed_out(self) -> None:
        """The time is over."""
        self.pause()
        self._passed()


def _nothing() -> None:
    """Takes the place of a callback that is no longer needed."""
