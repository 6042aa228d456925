"""
:class:`HalfClosed`: a connection whose other end has finished sending, while this one goes on.

Nothing is read from it any more, so the reactor does not watch it as long as there is nothing to write.
A client that is gone since, by a reset or because TCP's keep-alive has not found it, would be kept for
as long as the other side is silent, and with it everything that was done for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.error import ConnectionLost, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from . import _twisted

__all__ = ["HalfClosed"]

_PAUSE: Final = 15
"""Seconds between two looks."""


class HalfClosed:
    """Looks whether such a connection is still there, every few seconds until it is cancelled."""

    def __init__(
        self, transport: object, clock: IReactorTime, died: Callable[[Exception], object]
    ) -> None:
        """
        :param transport: the connection, of which :meth:`can_look` holds.
        :param clock: what time is measured by.
        :param died: called once, with the reason, if it is not.
        """
        self._transport = transport
        self._clock = clock
        self._died = died
        self._call: IDelayedCall | None = clock.callLater(_PAUSE, self._look)

    @staticmethod
    def can_look(transport: object) -> bool:
        """Whether a connection is one that the reactor watches: others are told of their ends."""
        return hasattr(_twisted.bottom(transport), "socket")

    def _look(self) -> None:
        self._call = None
        if _twisted.has_died(self._transport):
            died = self._died
            has_timed_out = _twisted.has_timed_out(self._transport)
            self.cancel()
            lost = ConnectionLost("a reset behind a half-close")
            silent = TimeoutError(string="the other end's TCP did not answer any more")
            died(silent if has_timed_out else lost)
        else:
            self._call = self._clock.callLater(_PAUSE, self._look)

    def cancel(self) -> None:
        """It has ended; harmless when it is over."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        # Whoever is called holds this, as a rule, and so does the transport: a cycle.
        self._transport, self._died = None, _nothing


def _nothing(why: Exception) -> None:
    """Takes the place of a callback that is no longer needed."""
