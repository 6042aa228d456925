"""
:func:`splice`: two transports joined.

Each transport gets one of the two ends of a :class:`Splice` as its protocol. An end writes what it
receives to the other end's transport, where its own transport is registered as the producer of those
bytes. So a full write buffer on one side pauses the reading on the other, and at most one buffer and
one read wait in between.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from . import _twisted
from .connection import SwitchedConnection, abort_because
from .errors import AlreadyInstalled, InvalidArgument
from .half_closed import HalfClosed
from .idleness import Idleness
from .interfaces import ICountsBytes, IStreamTransport
from .sending import SendingWatch, is_clean_end, reset_when_sent
from .takeover import hand_over

__all__ = ["Splice", "SpliceEnd", "check_idle_timeout", "splice"]

# A read that brings so many bytes has left some, as a rule; and only those that follow so many go
# through a pipe.
_MUCH, _WORTH_A_PIPE = 64 * 1024, 256 * 1024


def splice(
    a: IStreamTransport | SwitchedConnection,
    b: IStreamTransport | SwitchedConnection,
    *,
    idle_timeout: float | None = None,
    forgive_truncation: bool = False,
    reactor: IReactorTime | None = None,
) -> Deferred[None]:
    """
    Join two transports: what arrives at one is written to the other, with backpressure both ways.

    A half-close (FIN) on one side is passed on to the other, and the opposite direction goes on. If the
    other side has no half-close (TLS, any ``ProtocolWrapper``), the opposite direction goes on until it
    ends by itself. If a side ends cleanly, the other is closed after everything has been written. If a
    side ends with an error (a reset; TLS without close_notify, RFC 8446 §6.1; a WebSocket without a
    Close frame), the other is reset, as soon as everything that was received has arrived there, or when
    nothing of it has been taken for 60 seconds.

    The splice owns both transports. The protocols that they had hear nothing any more; they must not
    have kept bytes back.

    :param a: a connected transport, or a client's :class:`SwitchedConnection` without a target.
    :param b: the same for the other side.
    :param idle_timeout: after how many seconds in which no byte has moved, in either direction, both
        are aborted: a stream that stops somewhere has not ended cleanly. None: never.
    :param forgive_truncation: whether TLS that ends without close_notify has ended cleanly. Many
        programs end it like that, but then a transfer that was cut off looks like a complete one.
    :param reactor: the clock; ``idle_timeout`` requires it. The running reactor if None.
    :return: fires (None) when both connections have ended; cancelling it aborts both.
    :raises InvalidArgument: if ``idle_timeout`` is not above 0, or comes without a reactor.
    :raises NotDetachable: if a transport does not say which protocol it gives its bytes to.
    :raises AlreadyInstalled: if a ``SwitchedConnection`` has a target already.
    """
    check_idle_timeout(idle_timeout)
    if idle_timeout is not None and reactor is None:
        raise InvalidArgument("idle_timeout needs a reactor, which is its clock")
    joined = Splice(forgive_truncation=forgive_truncation, reactor=reactor)
    # Both are checked before either is touched.
    for transport in (a, b):
        if isinstance(transport, SwitchedConnection) and not transport.is_waiting:
            raise AlreadyInstalled(f"{transport!r} has its target already")
    slots = [None if isinstance(t, SwitchedConnection) else _twisted.slot_of(t) for t in (a, b)]
    for transport, slot, end in zip((a, b), slots, joined.ends, strict=True):
        if isinstance(transport, SwitchedConnection):
            transport.install(end)
        elif slot is not None:
            transport.unregisterProducer()
            hand_over(transport, slot, end, b"")
    if reactor is not None:
        joined.limit_idleness(reactor, idle_timeout)
    return joined.done


def check_idle_timeout(seconds: float | None) -> None:
    """
    :raises InvalidArgument: if it is neither None nor a number above 0.
    """
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise InvalidArgument(f"idle_timeout is a number of seconds above 0, or None, not {seconds!r}")


class Splice:
    """
    Two ends that are, or will be, connected.

    :ivar ends: the two protocols, until both connections have ended. The end that is connected first
        does not read until the other is connected.
    :ivar done: fires (None) when both connections have ended; cancelling it aborts both.
    :ivar forgive_truncation: whether TLS that ends without close_notify has ended cleanly.
    """

    def __init__(
        self,
        near: SpliceEnd | None = None,
        far: SpliceEnd | None = None,
        *,
        forgive_truncation: bool = False,
        reactor: IReactorTime | None = None,
    ) -> None:
        self.forgive_truncation = forgive_truncation
        self._reactor = reactor
        self.done: Deferred[None] = Deferred(lambda _: self.abort())
        self.ends: tuple[SpliceEnd, ...] = (near or SpliceEnd(), far or SpliceEnd())
        for end, other in (self.ends, self.ends[::-1]):
            end.splice, end.other = self, other
        self._idleness: Idleness | None = None

    def limit_idleness(self, clock: IReactorTime, seconds: float | None) -> None:
        """
        Abort both connections when no byte has moved for so long, from now on.

        :param seconds: None: never.
        """
        if seconds is not None and self.ends:
            self._idleness = Idleness(clock, seconds, self._progress, self.abort)

    def moved(self) -> None:
        """Bytes have come from one of the two sides."""
        if self._idleness is not None:
            self._idleness.moved()

    def _progress(self) -> list[tuple[int, int]]:
        return [(end.waiting, end.bytes_out - end.waiting) for end in self.ends]

    @property
    def clock(self) -> IReactorTime:
        if self._reactor is None:
            # Which one it is, is settled when there are connections.
            from twisted.internet import reactor

            self._reactor = IReactorTime(reactor)
        return self._reactor

    def abort(self, why: Exception | None = None) -> None:
        """
        End both connections at once; an end that connects later is aborted then.

        :param why: what the observers of a site are told.
        """
        for end in self.ends:
            end.abort(why)

    def end_lost(self) -> None:
        """One of the ends has lost its connection."""
        if not all(end.lost for end in self.ends):
            return
        # The ends refer to each other: without this, only the garbage collector would free them.
        for end in self.ends:
            del end.other
        self.ends = ()
        if self._idleness is not None:
            self._idleness.stop()
            self._idleness = None
        if not self.done.called:
            self.done.callback(None)


@implementer(IPushProducer)
class _Reading:
    """
    The reading of one side, as the producer of what the other writes. Not the transport itself: when
    the other side ends, its ``stopProducing`` would close it cleanly, whatever the other's end was.
    """

    def __init__(self, transport: IStreamTransport) -> None:
        self.pauseProducing = transport.pauseProducing
        self.resumeProducing = transport.resumeProducing

    def stopProducing(self) -> None:
        """The other side has ended; its protocol hears of it next."""


@implementer(IHalfCloseableProtocol, ICountsBytes)
class SpliceEnd(Protocol):
    """
    One end of a :class:`Splice`: the protocol of one transport.

    :ivar other: the other end.
    :ivar lost: whether the connection has ended, or must not begin any more.
    :ivar bytes_in: how many bytes its connection has brought.
    :ivar bytes_out: how many bytes have been written to it.
    """

    # Whether TCP is to find out if the peer is there; where it is False, whoever has made the
    # connection has seen to that.
    keep_alive = True

    splice: Splice
    other: SpliceEnd
    transport: IStreamTransport
    _arrivals: _twisted.Arrivals

    def __init__(self) -> None:
        self.lost = False
        self.bytes_in = self.bytes_out = 0
        self._has_finished = False
        # Whether the other end was lost with an error before this one was connected.
        self._must_reset = False
        self._tls: TLSMemoryBIOProtocol | None = None
        self._resetting: SendingWatch | None = None
        # While the peer has finished, and the opposite direction goes on.
        self._half_closed: HalfClosed | None = None
        # What came before the other end was connected: TLS delivers what it has read, even if paused.
        self._received_early: list[bytes] = []

    def logPrefix(self) -> str:
        return "splice"

    @property
    def _open(self) -> bool:
        return bool(self.connected) and not self.lost

    def connectionMade(self) -> None:
        if self.lost:
            # It was aborted while it was still connecting.
            _twisted.abort(self.transport)
            return
        # Later, the transport no longer knows its TLS layer.
        self._tls = _twisted.tls_layer(self.transport)
        self._arrivals = _twisted.Arrivals(self.transport)
        if self.keep_alive:
            _twisted.keep_alive(self.transport)
        other = self.other
        if other.lost:
            self._write_early(other)
            if self._must_reset:
                self._reset_when_sent()
            else:
                self.transport.loseConnection()
        elif not other.connected:
            self.transport.pauseProducing()
        else:
            self._join(other)

    def _join(self, other: SpliceEnd) -> None:
        _twisted.register_producer(self.transport, _Reading(other.transport))
        _twisted.register_producer(other.transport, _Reading(self.transport))
        self._write_early(other)
        other.transport.resumeProducing()

    def _write_early(self, other: SpliceEnd) -> None:
        """Write what the other end received before this one was connected."""
        early, other._received_early = other._received_early, []
        if early:
            self._write(b"".join(early))

    def _write(self, data: bytes, at_once: bool = False) -> None:
        self.bytes_out += len(data)
        if at_once:
            _twisted.write_at_once(self.transport, data)
        else:
            self.transport.write(data)

    @property
    def waiting(self) -> int:
        """How many bytes have been written that the peer has not taken yet, as far as that is known."""
        return _twisted.unacknowledged(self.transport) if self._open else 0

    def dataReceived(self, data: bytes) -> None:
        if self.lost:
            # Standard input may go on after standard output has been lost.
            return
        self.received(len(data))
        # What comes behind it in the same turn goes out in one piece, in the next.
        is_first = self._arrivals.is_first(len(data))
        if self.other._open:
            # Where nothing has come from the other side yet, it may just have been connected: then
            # Twisted writes once more in this turn, and if that fails, what waits there is never read.
            self.other._write(data, is_first and self.other.bytes_in > 0)
            if len(data) >= _MUCH and self.bytes_in >= _WORTH_A_PIPE:
                _twisted.read_through_pipe(self.transport, self.other.transport, self)
        elif not self.other.lost:
            self._received_early.append(data)

    def piped(self, count: int) -> None:
        """Bytes have come, and have been written to the other end, without ``dataReceived``."""
        self.received(count)
        self.other.bytes_out += count

    def received(self, count: int) -> None:
        """So many bytes have come. To be overridden by an end that counts them for somebody."""
        self.bytes_in += count
        self.splice.moved()

    def readConnectionLost(self) -> None:
        self._has_finished = True
        if self.lost:
            return
        other = self.other
        if other._open:
            # Nothing more comes from here. A registered producer would be resumed some time, and a
            # socket that has ended would end again.
            other.transport.unregisterProducer()
            if other._has_finished:
                other.transport.loseConnection()
                self.transport.unregisterProducer()
                self.transport.loseConnection()
                return
            if self._half_closed is None and HalfClosed.can_look(self.transport):
                self._half_closed = HalfClosed(self.transport, self.splice.clock, self.abort)
            if _twisted.is_half_closeable(other.transport):
                other.transport.loseWriteConnection()
            else:
                self.half_close_unsupported()

    def half_close_unsupported(self) -> None:
        """
        Nothing more comes from here, and the other side cannot be told so without closing it. The
        opposite direction goes on; to be overridden by an end that knows that nothing is coming there.
        """

    def writeConnectionLost(self) -> None:
        """Everything has been written, and no more can be; this end still reads."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.lost:
            return
        self.lost = True
        if self._resetting is not None:
            self._resetting.cancel()
        if self._half_closed is not None:
            self._half_closed.cancel()
        # A TLS layer keeps its producer, which leads to the other transport, even after its end.
        self.transport.unregisterProducer()
        is_clean = self.is_clean_end(reason)
        self._tls = None
        other = self.other
        if other._open:
            other.transport.unregisterProducer()
            # It may have been paused on behalf of this end, and must notice how it ends itself: TLS is
            # over when the other end has answered.
            other.transport.resumeProducing()
            if not is_clean:
                other._reset_when_sent()
            elif other._open:
                other.transport.loseConnection()
        elif not other.lost:
            # It is still connecting.
            other._must_reset = not is_clean
        self.splice.end_lost()

    def is_clean_end(self, reason: Failure) -> bool:
        """
        Whether the connection, which ends with this reason, has ended without an error; to be asked
        within ``connectionLost``, before this class's own has run.
        """
        forgive = self.splice.forgive_truncation
        return is_clean_end(self.transport, self._tls, reason, forgive)

    def _reset_when_sent(self) -> None:
        if self._open:
            self._resetting = reset_when_sent(self.transport, self.splice.clock)

    def abort(self, why: Exception | None = None) -> None:
        """End the connection at once, or as soon as it is connected."""
        if self._open:
            abort_because(self.transport, why)
        elif not self.connected:
            self.lost = True
            self.splice.end_lost()
