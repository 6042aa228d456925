"""
What a connection still has to send: :class:`SendingWatch` waits for it, and :func:`reset_when_sent`
ends a connection with an error, though not before everything has arrived.

A reset (``abortConnection``) throws away what waits in Twisted's buffers *and* what the kernel has
taken but not delivered yet, which may be megabytes. So "sent" means here that the other end's TCP has
acknowledged it. Linux tells (``TIOCOUTQ``); elsewhere only Twisted's buffers are looked at.
"""

from __future__ import annotations

import socket
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from . import _twisted
from .interfaces import ICarriedTransport, IMultiplexedTransport, IStreamTransport

__all__ = [
    "STUCK_AFTER",
    "QuietTimeout",
    "SendingWatch",
    "is_clean_end",
    "remaining",
    "reset_when_sent",
]

STUCK_AFTER: Final = 60
"""Seconds after which a connection is given up if it does not take any of what it is sent."""

# Seconds between two looks: the first comes soon, since most have sent everything by then.
_FIRST_LOOK: Final = 0.01
_LONGEST_PAUSE: Final = 1


# Linux's number of a connection's last state.
_TCP_CLOSE: Final = 7


def remaining(transport: object) -> int:
    """
    How many bytes the other end has not acknowledged yet: those in Twisted's buffers, and on Linux, for
    TCP, those in the kernel's. What a UNIX socket has taken cannot be lost any more.
    """
    while ICarriedTransport.providedBy(transport):
        transport = transport.carrier
    if IMultiplexedTransport.providedBy(transport):
        # In the kernel it shares a queue with other streams; but a reset cannot overtake it there.
        return _twisted.unsent(transport)
    return _twisted.unsent(transport) + _in_kernel(transport)


def _in_kernel(transport: object) -> int:
    handle = getattr(_twisted.bottom(transport), "socket", None)
    if sys.platform != "linux" or not isinstance(handle, socket.socket):
        return 0
    if handle.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    # Not everywhere, and so not at the top.
    from fcntl import ioctl
    from termios import TIOCOUTQ

    count = array("i", [0])
    # A socket may have been closed.
    with suppress(OSError):
        ioctl(handle.fileno(), TIOCOUTQ, count)
        # What a connection that was reset had still to send stays in its queue. (The first byte of
        # tcp_info is the state.)
        if count[0] and handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            return 0
    return count[0]


class SendingWatch:
    """
    Watches a transport until it has sent everything, or has sent nothing for :data:`STUCK_AFTER`
    seconds. Something that is written meanwhile counts, too. It holds the transport until then.

    :ivar active: whether it still watches.
    """

    def __init__(
        self,
        transport: object,
        clock: IReactorTime,
        sent: Callable[[], object],
        stuck: Callable[[], object],
        stuck_after: float = STUCK_AFTER,
        measure: Callable[[object], int] | None = None,
    ) -> None:
        """
        :param transport: the transport, which may have been told to close already.
        :param clock: what time is measured by.
        :param sent: called once when nothing remains; at once, within this call, if nothing does.
        :param stuck: called once, in place of ``sent``, if what remains has not shrunk for so long.
        :param stuck_after: how long, in seconds.
        :param measure: says how much remains; None: :func:`remaining` does.
        """
        self._transport = transport
        self._clock = clock
        self._measure = measure or remaining
        self._sent = sent
        self._stuck = stuck
        self._stuck_after = stuck_after
        self._remaining = self._measure(transport)
        self._since = clock.seconds()
        self._pause = _FIRST_LOOK
        self._call: IDelayedCall | None = None
        self.active = True
        self._decide()

    def _look(self) -> None:
        self._call = None
        now = self._measure(self._transport)
        if now < self._remaining:
            self._since = self._clock.seconds()
        self._remaining = now
        self._decide()

    def _decide(self) -> None:
        if not self._remaining:
            self._end(self._sent)
        elif self._clock.seconds() - self._since >= self._stuck_after:
            self._end(self._stuck)
        else:
            self._call = self._clock.callLater(min(self._pause, self._stuck_after), self._look)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _end(self, call: Callable[[], object]) -> None:
        self.active = False
        # Whoever is called holds this watch, as a rule, and the transport: a cycle.
        self._sent = self._stuck = _nothing
        self._transport = None
        call()

    def cancel(self) -> None:
        """Watch no longer, for instance because the connection has ended; harmless when it is over."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._end(_nothing)


def _nothing() -> None:
    """Takes the place of a callback that is no longer needed."""


class QuietTimeout:
    """
    A time-out that begins when a transport has sent everything, and that comes earlier only if the
    other end takes nothing for as long. (A time-out of fixed length cuts off a slow reader.)
    """

    def __init__(
        self,
        transport: object,
        clock: IReactorTime,
        seconds: float,
        timed_out: Callable[[], object],
    ) -> None:
        """
        :param transport: the transport; the time-out holds it until it is over or cancelled.
        :param clock: what time is measured by.
        :param seconds: how long.
        :param timed_out: called once.
        """
        self._clock = clock
        self._seconds = seconds
        self._timed_out = timed_out
        self._call: IDelayedCall | None = None
        self._watch = SendingWatch(transport, clock, self._begin, timed_out, seconds)

    def _begin(self) -> None:
        self._call = self._clock.callLater(self._seconds, self._timed_out)

    def cancel(self) -> None:
        """The time-out is not to come; harmless when it has."""
        self._watch.cancel()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._timed_out = _nothing


def reset_when_sent(transport: IStreamTransport, clock: IReactorTime) -> SendingWatch:
    """
    End a connection with an error that its other end sees, a reset, as soon as everything has been
    sent, or when it has taken nothing for :data:`STUCK_AFTER` seconds.

    The caller still owns the connection: it has taken its producer off, writes nothing more, drops what
    still comes, and cancels the watch when the connection ends by itself. The transport must go on
    reading, since the end of a connection that is not read goes unnoticed.

    :param transport: a connected transport.
    :param clock: what time is measured by.
    :return: what waits.
    """

    def reset() -> None:
        _twisted.abort(transport)

    return SendingWatch(transport, clock, reset, reset)


def is_clean_end(
    transport: object,
    layer: TLSMemoryBIOProtocol | None,
    reason: Failure,
    forgive_truncation: bool = False,
) -> bool:
    """
    Whether a connection has ended as its other end wanted, with nothing cut off. To be asked within
    ``connectionLost``, since a TLS layer forgets everything after it.

    With TLS, what counts is the alert ``close_notify`` (RFC 8446 §6.1), not how TCP ended: anything on
    the way can end TCP. An end without it is clean, however, if we have sent ours first: other ends
    often answer that by closing without a word, and have nothing left to say.

    :param transport: the transport.
    :param layer: its TLS layer (``_twisted.tls_layer``), found while it was connected.
    :param reason: the reason that ``connectionLost`` was called with.
    :param forgive_truncation: whether an end of TLS without the alert is clean in any case.
    """
    if reason.check(ConnectionDone):
        return True
    if not ISSLTransport.providedBy(transport) or IMultiplexedTransport.providedBy(transport):
        # A stream says by itself whether it has ended, whatever TLS beneath it says.
        return False
    if forgive_truncation and reason.check(ConnectionLost):
        return True
    if layer is None:
        return False
    return _twisted.has_closed_tls(layer, reason) or _twisted.was_closed_first(layer, reason)
