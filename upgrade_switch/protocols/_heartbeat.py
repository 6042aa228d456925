"""
The heartbeat of a WebSocket: pings (RFC 6455 §5.5.2), so that proxies on the way do not cut an
idle connection, and so that a peer that is gone is noticed.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .. import _twisted
from ..errors import InvalidArgument
from ..interfaces import IStreamTransport

__all__ = ["Beating", "Heartbeat", "check_heartbeat"]


# Bytes that may well have been sent, and not acknowledged, when the timer fires.
_ON_ITS_WAY = 4096


class Beating(Protocol):
    """A WebSocket that may have a heartbeat."""

    transport: IStreamTransport

    @property
    def is_fully_open(self) -> bool:
        """Whether neither side has begun to close it."""

    @property
    def is_reading_paused(self) -> bool:
        """Whether nothing can come, since this side does not read."""

    @property
    def octets_sent(self) -> int:
        """How many bytes have been written to the transport."""

    def sendPing(self) -> None:
        """Send a ping."""

    def give_up(self, seconds: float) -> None:
        """Nothing has come for so long: end the connection."""


def check_heartbeat(seconds: float | None) -> None:
    """
    :raises InvalidArgument: if it is neither None nor a number above 0.
    """
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise InvalidArgument(f"heartbeat is a number of seconds above 0, or None, not {seconds!r}")


class Heartbeat:
    """
    Pings when nothing has come from the peer for some seconds, and gives up when nothing comes for as
    many again. There is one timer: what comes notes the time, and when the timer fires it looks how
    long ago that was.

    A peer that reads slowly gets to the ping late. So while it takes what is sent to it, it is alive;
    what its kernel has acknowledged counts, pings do not. While this side does not read, no time
    passes.
    """

    def __init__(self, clock: IReactorTime, seconds: float, websocket: Beating) -> None:
        """
        :param clock: what counts the seconds, from now on.
        :param websocket: an open one.
        """
        self._clock = clock
        self._seconds = seconds
        self._websocket = websocket
        self._last = clock.seconds()
        self._has_pinged = False
        # How many bytes of pings have been sent. When the timer fired last: how many other bytes had
        # been, and how many the peer had still to take.
        self._pings = self._sent = self._waiting = 0
        self._call = clock.callLater(seconds, self._look)

    def heard(self) -> None:
        """Something has come from the peer."""
        self._last = self._clock.seconds()
        self._has_pinged = False

    def reads_again(self) -> None:
        """This side has not read for a while."""
        self._last = self._clock.seconds()

    def stop(self) -> None:
        """The WebSocket has ended."""
        if self._call.active():
            self._call.cancel()

    def _look(self) -> None:
        websocket = self._websocket
        if not websocket.is_fully_open:
            # How long closing may take is another timer's matter.
            return
        now = self._clock.seconds()
        if websocket.is_reading_paused:
            self._last = now
        if self._last + self._seconds <= now:
            takes = self._peer_takes()
            if not self._has_pinged:
                self._has_pinged = True
                before = websocket.octets_sent
                websocket.sendPing()
                self._pings += websocket.octets_sent - before
            elif not takes:
                websocket.give_up(2 * self._seconds)
                return
            self._last = now
        self._call = self._clock.callLater(self._last + self._seconds - now, self._look)

    def _peer_takes(self) -> bool:
        """Whether the peer has taken bytes since this was called last, other than those of pings."""
        sent = self._websocket.octets_sent - self._pings
        waiting = _twisted.unacknowledged(self._websocket.transport)
        written, waited = sent - self._sent, self._waiting
        self._sent, self._waiting = sent, waiting
        # A little that was on its way the last time has arrived since, whoever is there.
        return waited + written > waiting and (written > 0 or waited > _ON_ITS_WAY)
