"""
:class:`Deadline`: a time-out that is often begun anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Deadline"]


class Deadline:
    """
    Calls when its time is over. Between :meth:`pause` and :meth:`resume` no time passes; a pause ends
    with the next :meth:`start`, too.
    """

    def __init__(self, clock: IReactorTime, passed: Callable[[], object]) -> None:
        """
        :param passed: called when the time is over.
        """
        self._clock = clock
        self._passed = passed
        self._seconds = 0.0
        self._call: IDelayedCall | None = None

    def start(self, seconds: float) -> None:
        """
        Have so much time from now on, whatever there was before.

        :param seconds: 0: any time.
        """
        self._seconds = seconds
        if self._call is not None and seconds:
            self._call.reset(seconds)
            return
        self.pause()
        self.resume()

    def restart(self) -> None:
        """Have the same time again from now on, if there is a time-out and it is not paused."""
        if self._call is not None:
            self._call.reset(self._seconds)

    def pause(self) -> None:
        """Have any time, until it is resumed or started."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def resume(self) -> None:
        """Have the whole time again, if there is a time-out."""
        if self._call is None and self._seconds:
            self._call = self._clock.callLater(self._seconds, self._over)

    def stop(self) -> None:
        """There is no time-out any more; harmless when there is none."""
        self._seconds = 0.0
        self.pause()

    def give_up(self) -> None:
        """There will be none any more, either, and whom to call is forgotten."""
        self.stop()
        self._passed = _nothing

    def _over(self) -> None:
        self._call = None
        self._passed()


def _nothing() -> None:
    """What is called when nobody is to be called."""
