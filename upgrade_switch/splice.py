"""
:func:`splice`: two transports joined.

Each transport gets one of two ends of a :class:`Splice` as its protocol. An end writes what it
receives to the other end's transport, and is registered there as what it is: the producer of those
bytes. So a full write buffer on one side pauses the reading on the other, and no more waits in
between than one buffer and one read.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from . import _twisted
from .connection import SwitchedConnection
from .errors import AlreadyInstalled
from .takeover import hand_over

__all__ = ["ConnectingEnd", "ServerEnd", "SingleUseFactory", "Splice", "SpliceEnd", "splice"]


def splice(a: Any, b: Any) -> Deferred[None]:
    """
    Join two transports: what arrives at one is written to the other, with backpressure both ways.

    A half-close (FIN) on one side is passed on to the other, the opposite direction goes on; where
    the other side has no half-close (TLS, any ``ProtocolWrapper``), the opposite direction goes on
    until it ends by itself. A side that ends closes the other, after what it has sent has been
    written; a side that ends with an error (a reset) aborts the other. TLS alone is closed
    cleanly either way, since many peers end it without the alert.

    :param a: a connected transport, or a client's :class:`SwitchedConnection` that has no target
        yet. Whatever protocol it has had does not hear of it any more; it must not have kept bytes
        back.
    :param b: the same for the other side.
    :return: fires (None) when both connections have ended; cancelling it aborts both. The splice
        owns both transports.
    :raises NotDetachable: for a transport that does not say whom it gives its bytes to.
    :raises AlreadyInstalled: for a ``SwitchedConnection`` that has a target.
    """
    joined = Splice()
    # Both are looked at before either is touched.
    for transport in (a, b):
        if isinstance(transport, SwitchedConnection) and not transport.is_waiting:
            raise AlreadyInstalled(f"{transport!r} has its target already")
    slots = [None if isinstance(t, SwitchedConnection) else _twisted.slot_of(t) for t in (a, b)]
    for transport, slot, end in zip((a, b), slots, joined.ends, strict=True):
        if slot is None:
            transport.install(end)
        else:
            transport.unregisterProducer()
            hand_over(transport, slot, end, b"")
    return joined.done


class Splice:
    """
    Two ends that are, or will be, connected.

    :ivar ends: the two protocols. An end that is connected first does not read until the other is.
    :ivar done: fires (None) when both connections have ended.
    """

    def __init__(self, near: SpliceEnd | None = None, far: SpliceEnd | None = None) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self.abort())
        self.ends = (near or SpliceEnd(), far or SpliceEnd())
        for end, other in (self.ends, self.ends[::-1]):
            end.splice, end.other = self, other

    def abort(self) -> None:
        """End both connections at once; an end that is not connected yet never will be."""
        for end in self.ends:
            end.abort()

    def end_lost(self) -> None:
        first, second = self.ends
        if first.lost and second.lost:
            # The ends know each other: let go, so that no collector is needed.
            del first.other, second.other
            self.ends = ()  # type: ignore[assignment]
            if not self.done.called:
                self.done.callback(None)


@implementer(IHalfCloseableProtocol)
class SpliceEnd(Protocol):
    """One end of a :class:`Splice`: the protocol of one transport."""

    splice: Splice
    other: SpliceEnd
    transport: Any

    def __init__(self) -> None:
        self.lost = False
        self._ended = False
        # What TLS has delivered while this end was paused, waiting for the other.
        self._early: list[bytes] = []

    def logPrefix(self) -> str:
        return "splice"

    @property
    def _open(self) -> bool:
        return bool(self.connected) and not self.lost

    def connectionMade(self) -> None:
        if self.lost:
            # Aborted while it was still connecting.
            _twisted.abort(self.transport)
            return
        other = self.other
        if other.lost:
            self._take_early(other)
            self.transport.loseConnection()
        elif not other.connected:
            self.transport.pauseProducing()
        else:
            self._join(other)

    def _join(self, other: SpliceEnd) -> None:
        self.transport.registerProducer(other.transport, True)
        other.transport.registerProducer(self.transport, True)
        self._take_early(other)
        other.transport.resumeProducing()

    def _take_early(self, other: SpliceEnd) -> None:
        early, other._early = other._early, []
        if early:
            self.transport.write(b"".join(early))

    def dataReceived(self, data: bytes) -> None:
        if self.lost:
            # Standard input goes on after standard output has gone.
            return
        if self.other._open:
            self.other.transport.write(data)
        elif not self.other.lost:
            self._early.append(data)

    def readConnectionLost(self) -> None:
        self._ended = True
        if self.lost:
            return
        other = self.other
        if other._open:
            # No more comes from here: who has no producer is not asked to produce any more, and
            # resuming a socket that has ended would end it again.
            other.transport.unregisterProducer()
            if other._ended:
                other.transport.loseConnection()
                self.transport.unregisterProducer()
                self.transport.loseConnection()
            elif _twisted.is_half_closeable(other.transport):
                other.transport.loseWriteConnection()
            else:
                self.half_close_unsupported()

    def half_close_unsupported(self) -> None:
        """
        No more comes from here, and the other side cannot be told without closing it: the opposite
        direction goes on. To be overridden where it is known that nothing is waited for any more.
        """

    def writeConnectionLost(self) -> None:
        """What this end has written is out, and it can write no more: it may still read."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.lost:
            return
        self.lost = True
        # A TLS layer keeps its producer beyond its end, and with it the other transport.
        self.transport.unregisterProducer()
        other = self.other
        if other._open:
            other.transport.unregisterProducer()
            clean = reason.check(ConnectionDone) or ISSLTransport.providedBy(self.transport)
            if clean:
                other.transport.loseConnection()
            else:
                _twisted.abort(other.transport)
        self.splice.end_lost()

    def abort(self) -> None:
        if self._open:
            _twisted.abort(self.transport)
        elif not self.connected:
            self.lost = True
            self.splice.end_lost()


class ServerEnd(SpliceEnd):
    """
    The end that leads to a server. A server that has finished sending has closed, as a rule: where the
    other connection has no half-close, it is closed, which is the only way to tell its client.
    """

    def half_close_unsupported(self) -> None:
        self.other.transport.loseConnection()


class ConnectingEnd(SpliceEnd):
    """
    An end that is connected first, and that has the other end connected then.

    It does not read until the other end is connected, so that everything that its client sends
    meanwhile is passed on, a half-close too. If it is lost meanwhile, the attempt is cancelled; if the
    attempt fails, it is aborted. Subclasses say how to connect.
    """

    _connecting: Deferred[object] | None = None

    def connect(self) -> Deferred[object]:
        """
        Connect the other end. To be overridden.

        :return: fires when ``self.other`` is connected, or fails; may be cancelled.
        """
        raise NotImplementedError

    def not_connected(self, reason: Failure) -> None:
        """
        The attempt has failed, and this end is still connected: it is aborted next. To be overridden
        by a subclass that has somebody to tell.
        """

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self.lost:
            self._connecting = self.connect()
            self._connecting.addCallbacks(self._succeeded, self._failed)

    def half_close_unsupported(self) -> None:
        # A client that has gone looks like one that has only finished sending. To wait for ever for
        # the former is worse than to cut off the latter.
        self.other.transport.loseConnection()

    def _succeeded(self, _: object) -> None:
        self._connecting = None

    def _failed(self, reason: Failure) -> None:
        self._connecting = None
        if not self.lost:
            self.not_connected(reason)
        self.splice.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._connecting is not None:
            self._connecting.cancel()


class SingleUseFactory(Factory):
    """Builds one end of a splice, for an endpoint to connect: an end belongs to one connection."""

    noisy = False

    def __init__(self, end: SpliceEnd) -> None:
        self._end: SpliceEnd | None = end

    def buildProtocol(self, addr: object) -> SpliceEnd | None:
        # Let go of it: the endpoint's connector, which the transport knows, keeps this factory.
        end, self._end = self._end, None
        return end
