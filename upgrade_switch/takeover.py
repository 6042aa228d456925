"""
The hand-over: a transport changes its owner, and nobody loses a byte.

Who calls :func:`hand_over` has taken its own things off the transport: timers, producer, and the
bytes that it has read but not used. From then on the transport is the target's. What is done, in
this order:

1. the transport's pointer to whom it gives its bytes is set to the target, so that nothing stands
   between the two (``startTLS``, half-close, descriptor passing and a next takeover all ask that
   pointer who is there);
2. the transport reads again;
3. ``target.makeConnection(transport)``;
4. the trailing data, where the target has neither closed the connection nor paused it in
   ``connectionMade``. If it has paused, a :class:`_PausedTarget` collects what comes until it resumes:
   a TLS layer goes on delivering records that it has read, which must not overtake.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from . import _twisted
from .errors import InvalidTarget

__all__ = ["check_target", "hand_over", "replay_ended_connection"]

_log = Logger()


def check_target(target: object) -> IProtocol:
    """
    :raises InvalidTarget: where something other than an ``IProtocol`` was to be installed.
    """
    if not IProtocol.providedBy(target):
        raise InvalidTarget(f"a target provides IProtocol, {target!r} does not")
    return target


def hand_over(transport: Any, slot: _twisted.Slot, target: IProtocol, data: bytes) -> None:
    """
    Give a connection to a target. Never raises what the target raises: that is logged and ends the
    connection, as it would if the reactor had called.

    :param transport: a connected transport without producer; the target owns it afterwards.
    :param slot: where the transport keeps whom it gives its bytes to.
    :param data: the trailing data: bytes that were read before and belong to the target.
    """
    slot.set(target)
    getattr(transport, "resumeProducing", _nothing)()
    beneath = _twisted.bottom(transport)
    layer = getattr(beneath, "protocol", None)
    # A bare socket that is paused delivers nothing: with no bytes in hand there is nothing to hold.
    watch = _twisted.PauseWatch(transport) if data or layer is not target else None
    _call_target(transport, _make_connection, transport, target)
    receiver = slot.get()
    if _twisted.is_closing(transport):
        if watch is not None:
            watch.stop()
        if receiver is target:
            slot.set(_ClosedTarget(transport, target))
        return
    if getattr(beneath, "protocol", None) is not layer:
        # The target has put TLS beneath itself: what is on the wire by now is TLS's.
        receiver = beneath.protocol
    if watch is not None:
        if watch.paused and receiver is target:
            slot.set(_PausedTarget(transport, target, data, watch))
            return
        watch.stop()
    if data:
        _call_target(transport, receiver.dataReceived, data)


def _make_connection(transport: Any, target: IProtocol) -> None:
    target.makeConnection(transport)
    # Behind it: a log prefix may well tell of the connection.
    _twisted.rename_log_prefix(transport, target)


def _nothing() -> None:
    """What a transport does that cannot pause, when it is resumed."""


def _call_target(transport: Any, function: Any, *arguments: Any) -> bool:
    """
    Call the target as the reactor would: what it raises, of any kind, is logged and drops the
    connection, after which the transport tells the target ``connectionLost``.

    :return: whether it has not raised.
    """
    try:
        function(*arguments)
    except BaseException:
        _log.failure("{function} failed after a takeover", function=function)
        _twisted.abort(transport)
        return False
    return True


class _StandIn(Protocol):
    """
    Stands where the transport gives its bytes to, in place of a target that is to get none: passes
    everything else on.
    """

    def __init__(self, transport: Any, target: IProtocol) -> None:
        self.transport = transport
        self._target: Any = target
        # Twisted asks whoever is in this place whether it takes half-closes and the like.
        asked_for = (IFileDescriptorReceiver, IHalfCloseableProtocol, IHandshakeListener)
        directlyProvides(self, *(i for i in asked_for if i in providedBy(target)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def logPrefix(self) -> str:
        return type(self._target).__name__

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._target.connectionLost(reason)


class _ClosedTarget(_StandIn):
    """
    For a target that has closed the connection in ``connectionMade``: a TLS layer goes on
    delivering until the other end has closed, too. Drops the bytes.
    """


class _PausedTarget(_StandIn):
    """
    For a target that has paused in ``connectionMade``: keeps the bytes, in their order, until it
    resumes.
    """

    def __init__(
        self, transport: Any, target: IProtocol, data: bytes, watch: _twisted.PauseWatch
    ) -> None:
        super().__init__(transport, target)
        self._chunks = [data]
        self._watch = watch
        watch.on_resume = self._resumed

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)

    def _resumed(self) -> None:
        self._watch.stop()
        if _twisted.is_closing(self.transport):
            return
        slot = _twisted.slot_of(self.transport)
        if slot.get() is self:
            slot.set(self._target)
        data = b"".join(self._chunks)
        if data:
            _call_target(self.transport, self._target.dataReceived, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._watch.stop()
        super().connectionLost(reason)


class _DeadTransport:
    """
    A transport that has ended, for a target that comes too late: it is the transport, but that one
    would not remember that it was told to close.

    :ivar was_closed: whether it was.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.was_closed = False
        directlyProvides(self, providedBy(transport))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def loseConnection(self, *args: object) -> None:
        self.was_closed = True

    abortConnection = loseConnection

    # What a socket that is closed refuses, and what many protocols begin with.

    def loseWriteConnection(self) -> None:
        """There is no direction left to end."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is sent any more."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nobody is kept alive."""


def replay_ended_connection(transport: Any, target: IProtocol, data: bytes, reason: Failure) -> None:
    """Give a target the whole short life of a connection that has ended already."""
    ended = _DeadTransport(transport)
    if _call_target(ended, target.makeConnection, ended) and data and not ended.was_closed:
        _call_target(ended, target.dataReceived, data)
    _call_target(ended, target.connectionLost, reason)
