"""
autobahn's protocols, with this package's heartbeat.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from .._heartbeat import Heartbeat
from ._autobahn import AutobahnProtocol

__all__ = ["BeatingProtocol"]


class BeatingProtocol(AutobahnProtocol):
    """A WebSocket's protocol with a heartbeat."""

    _heartbeat: Heartbeat | None = None

    def _start_beating(self, clock: IReactorTime, seconds: float | None) -> None:
        """
        The WebSocket is open.

        :param seconds: None: there is no heartbeat.
        """
        if seconds is not None:
            self._heartbeat = Heartbeat(clock, seconds, self)

    def _stop_beating(self) -> None:
        """The WebSocket has ended."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()

    def _reads_again(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.reads_again()

    @property
    def is_fully_open(self) -> bool:
        """Whether neither side has begun to close it."""
        return bool(self.state == self.STATE_OPEN)

    @property
    def is_reading_paused(self) -> bool:
        """Whether nothing can come, since this side does not read."""
        return self._is_paused() or self._backpressure is not None

    @property
    def octets_sent(self) -> int:
        """How many bytes have been written to the transport."""
        return int(self.trafficStats.outgoingOctetsWireLevel)

    def give_up(self, seconds: float) -> None:
        """Nothing has come for so long, not even the answer to a ping: abort the connection."""
        self.wasClean, self._has_timed_out = False, True
        self.wasNotCleanReason = f"time-out: nothing has come for {seconds:g} seconds, nor a pong"
        self.dropConnection(abort=True)

    def dataReceived(self, data: bytes) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard()
        super().dataReceived(data)
