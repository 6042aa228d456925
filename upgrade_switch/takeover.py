"""
The hand-over: a transport changes its owner, and no byte is lost.

Whoever calls :func:`hand_over` has taken its own things off the transport: timers, the registered
producer, and the bytes that it has read but not used. From then on the transport is the target's. These
steps follow, in this order:

1. The transport's pointer to the protocol that it gives its bytes to is set to the target, so that
   nothing stands between the two: ``startTLS``, half-close, descriptor passing and a later takeover
   all look there.
2. The transport reads again.
3. ``target.makeConnection(transport)``.
4. The trailing data, unless the target has closed the connection or paused it in ``connectionMade``.
   If it has paused, a :class:`_PausedTarget` collects what comes until it resumes: a TLS layer goes on
   delivering records that it has read, which must not overtake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

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
from ._twisted import bottom, is_bare, is_closing, let_send_at_once, rename_log_prefix
from .errors import InvalidTarget
from .interfaces import IStreamTransport

__all__ = ["check_target", "hand_over", "is_protocol", "replay_ended_connection"]

_log = Logger()


def check_target(target: object) -> IProtocol:
    """
    :raises InvalidTarget: if the target does not provide ``IProtocol``.
    """
    if not is_protocol(target):
        raise InvalidTarget(f"a target provides IProtocol, {target!r} does not")
    return target


def is_protocol(target: object) -> TypeGuard[IProtocol]:
    """Whether something is an ``IProtocol``. Most are Twisted's, which costs less to find out."""
    return isinstance(target, Protocol) or IProtocol.providedBy(target)


def hand_over(transport: IStreamTransport, slot: _twisted.Slot, target: IProtocol, data: bytes) -> None:
    """
    Give a connection to a target. What the target raises is logged and ends the connection, as it
    would if the reactor had called; it is never raised here.

    :param transport: a connected transport without a producer; the target owns it afterwards.
    :param slot: where the transport keeps the protocol that it gives its bytes to.
    :param data: the trailing data: bytes that were read before and belong to the target.
    """
    slot.set(target)
    let_send_at_once(transport)
    getattr(transport, "resumeProducing", _nothing)()
    beneath = bottom(transport)
    layer = getattr(beneath, "protocol", None)
    # With no bytes in hand there is nothing to hold back from a target that pauses,
    if not data and layer is target and is_bare(beneath):
        # nor, on a bare socket, from one that closes.
        _make_connection(transport, beneath, target)
        return
    watch = _twisted.PauseWatch(transport) if data or layer is not target else None
    _make_connection(transport, beneath, target)
    receiver = slot.get()
    if is_closing(transport):
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


def _make_connection(transport: IStreamTransport, beneath: object, target: IProtocol) -> None:
    try:
        target.makeConnection(transport)
        # Afterwards, since a target's log prefix may well describe the connection.
        rename_log_prefix(beneath, target)
    except BaseException:
        _failed(transport, target.makeConnection)


def _nothing() -> None:
    """What resuming means for a transport that cannot pause."""


def _call_target(
    transport: _twisted.Closable, method: Callable[..., object], *arguments: object
) -> bool:
    """
    Call the target as the reactor would: whatever it raises is logged and drops the connection, after
    which the transport calls the target's ``connectionLost``.

    :return: False if it has raised.
    """
    try:
        method(*arguments)
    except BaseException:
        _failed(transport, method)
        return False
    return True


def _failed(transport: _twisted.Closable, method: Callable[..., object]) -> None:
    _log.failure("{method} failed after a takeover", method=method)
    _twisted.abort(transport)


class _StandIn(Protocol):
    """
    Stands in the target's place while the target must not get any bytes, and passes everything else
    on to it.
    """

    transport: IStreamTransport

    def __init__(self, transport: IStreamTransport, target: IProtocol) -> None:
        self.transport = transport
        self._target = target
        # Twisted asks the protocol in this place whether it takes half-closes and the like.
        asked_for = (IFileDescriptorReceiver, IHalfCloseableProtocol, IHandshakeListener)
        directlyProvides(self, *(i for i in asked_for if i in providedBy(target)))

    def __getattr__(self, name: str) -> object:
        return getattr(self._target, name)

    def logPrefix(self) -> str:
        return type(self._target).__name__

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._target.connectionLost(reason)


class _ClosedTarget(_StandIn):
    """
    For a target that has closed the connection in ``connectionMade``: drops the bytes, which a TLS
    layer delivers until the other end has closed, too.
    """


class _PausedTarget(_StandIn):
    """
    For a target that has paused in ``connectionMade``: keeps the bytes, in their order, until the
    target resumes.
    """

    def __init__(
        self, transport: IStreamTransport, target: IProtocol, data: bytes, watch: _twisted.PauseWatch
    ) -> None:
        super().__init__(transport, target)
        self._chunks = [data]
        self._watch = watch
        watch.on_resume = self._resumed

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)

    def _resumed(self) -> None:
        self._watch.stop()
        if is_closing(self.transport):
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
    A transport that has ended, for a target that comes too late. It passes everything on to the
    transport, which would not remember, however, that it was told to close.

    :ivar was_closed: whether it was told to close.
    """

    def __init__(self, transport: object) -> None:
        self._transport = transport
        self.was_closed = False
        directlyProvides(self, providedBy(transport))

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def loseConnection(self, *args: object) -> None:
        self.was_closed = True

    abortConnection = loseConnection

    # Many protocols begin with these, which a closed socket refuses.

    def loseWriteConnection(self) -> None:
        """There is no direction left to end."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is sent any more."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There is nothing to keep alive."""


def replay_ended_connection(transport: object, target: IProtocol, data: bytes, reason: Failure) -> None:
    """
    Replay a connection that has ended to a target: ``makeConnection``, its bytes, ``connectionLost``.

    :param transport: the transport that has ended.
    :param data: all bytes that belong to the target.
    :param reason: why the connection ended.
    """
    dead = _DeadTransport(transport)
    if _call_target(dead, target.makeConnection, dead) and data and not dead.was_closed:
        _call_target(dead, target.dataReceived, data)
    _call_target(dead, target.connectionLost, reason)
