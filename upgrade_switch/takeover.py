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
   ``connectionMade``. If it has paused, a :class:`_Held` collects what comes until it resumes: a
   TLS layer goes on delivering records that it has read, which must not overtake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

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
from .errors import AlreadyInstalled, InvalidTarget

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from .negotiation import UpgradeToken

__all__ = ["Claim", "SwitchedConnection", "Waiting", "check_target", "hand_over", "live_and_die"]

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
    _called(transport, _make_connection, transport, target)
    receiver = slot.get()
    if _twisted.is_closing(transport):
        if watch is not None:
            watch.stop()
        if receiver is target:
            slot.set(_Closed(transport, target))
        return
    if getattr(beneath, "protocol", None) is not layer:
        # The target has put TLS beneath itself: what is on the wire by now is TLS's.
        receiver = beneath.protocol
    if watch is not None:
        if watch.paused and receiver is target:
            slot.set(_Held(transport, target, data, watch))
            return
        watch.stop()
    if data:
        _called(transport, receiver.dataReceived, data)


def _make_connection(transport: Any, target: IProtocol) -> None:
    target.makeConnection(transport)
    # Behind it: a log prefix may well tell of the connection.
    _twisted.rename_log_prefix(transport, target)


def _nothing() -> None:
    """What a transport does that cannot pause, when it is resumed."""


def _called(transport: Any, function: Any, *arguments: Any) -> bool:
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


class _InPlaceOf(Protocol):
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


class _Closed(_InPlaceOf):
    """
    For a target that has closed the connection in ``connectionMade``: a TLS layer goes on
    delivering until the other end has closed, too. Drops the bytes.
    """


class _Held(_InPlaceOf):
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
            _called(self.transport, self._target.dataReceived, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._watch.stop()
        super().connectionLost(reason)


class Waiting(Protocol):
    """
    Keeps a client's connection between the 101 and ``install``: paused, and with what arrives
    nevertheless (TLS delivers the records that it has read already) put by for the target.
    """

    lost: Failure | None = None
    """How the connection has ended, where it has."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self.transport = transport
        self._chunks = [data] if data else []

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def give_to(self, target: IProtocol) -> None:
        """Hand everything over; to a connection that has ended already, its whole short life."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        transport: Any = self.transport
        if self.lost is None:
            hand_over(transport, _twisted.slot_of(transport, self), target, data)
            return
        live_and_die(transport, target, data, self.lost)


class _Ended:
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


def live_and_die(transport: Any, target: IProtocol, data: bytes, reason: Failure) -> None:
    """Give a target the whole short life of a connection that has ended already."""
    ended = _Ended(transport)
    if _called(ended, target.makeConnection, ended) and data and not ended.was_closed:
        _called(ended, target.dataReceived, data)
    _called(ended, target.connectionLost, reason)


class Claim:
    """
    What a client's :class:`SwitchedConnection` holds until it is installed. Dropped without that, it
    aborts: a connection that is read by nobody would stay open for as long as the server likes.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting: Waiting | None = waiting

    def take(self) -> Waiting:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        return waiting

    def __del__(self) -> None:
        waiting = self._waiting
        if waiting is not None and waiting.lost is None:
            _twisted.abort(waiting.transport)


class Keeper(TypingProtocol):
    """Who wants to know of a switched connection's end."""

    def forget(self, connection: SwitchedConnection) -> None:
        """The connection has ended; its target has not heard of it yet."""

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """Its target has."""


class SwitchedConnection:
    """
    A connection that has left HTTP, on either side.

    :ivar token: the upgrade token that it has switched to; None for a preface or CONNECT.
    :ivar path: the path of the request that switched it.
    :ivar since: when, in seconds on the reactor's clock.
    :ivar target: the protocol that owns it; None until it does (on a client, until :meth:`install`).
    """

    __slots__ = (
        "__weakref__",
        "_claim",
        "_keeper",
        "_transport",
        "path",
        "since",
        "target",
        "token",
    )

    def __init__(
        self,
        transport: Any,
        token: UpgradeToken | None,
        path: bytes,
        since: float,
        claim: Claim | None = None,
    ) -> None:
        self.token = token
        self.path = path
        self.since = since
        self.target: IProtocol | None = None
        self._transport = transport
        self._claim = claim
        self._keeper: Keeper | None = None

    def __repr__(self) -> str:
        return f"<SwitchedConnection {self.token} {self.path!r} to {self.target!r}>"

    @property
    def peer(self) -> IAddress:
        """The address of the other end, as the transport has it."""
        address: IAddress = self._transport.getPeer()
        return address

    def abort(self) -> None:
        """End the connection at once; what waits to be sent is lost. Harmless when it is over."""
        _twisted.abort(self._transport)

    def install(self, target: IProtocol) -> None:
        """
        On a client: give the connection to its protocol, once. The target gets ``connectionMade``,
        then what has arrived since the server's 101, then the rest; it owns the connection, and the
        transport reads again. A connection that has ended meanwhile gives ``connectionMade``, its
        data and ``connectionLost``.

        :param target: any ``IProtocol``; what it raises is logged and ends the connection.
        :raises AlreadyInstalled: the second time, and on a server.
        :raises InvalidTarget: for what is no ``IProtocol``; the connection still waits.
        """
        if self._claim is None:
            raise AlreadyInstalled(f"this connection is {self.target!r}'s already")
        self.give_to(check_target(target))

    @property
    def is_waiting(self) -> bool:
        """Whether :meth:`install` is still to come."""
        return self._claim is not None

    def give_to(self, target: IProtocol) -> None:
        """:meth:`install`, for a target that is known to be good."""
        claim, self._claim = self._claim, None
        assert claim is not None
        waiting = claim.take()
        self.target = target
        lost = waiting.lost
        if lost is None:
            if self._keeper is not None:
                _twisted.watch_end(self._transport, target, self)
            waiting.give_to(target)
            return
        waiting.give_to(target)
        if self._keeper is not None:
            self._keeper.ended(self, lost)

    def keep(self, keeper: Keeper) -> None:
        """Have the connection's end told to somebody; before it has a target."""
        self._keeper = keeper

    def __call__(self, reason: Failure) -> None:
        """
        The transport's end: called in place of its ``connectionLost`` (``_twisted.watch_end``). The
        record itself is the callable, since a closure would cost every connection three times as
        much memory.
        """
        keeper = self._keeper
        assert keeper is not None
        # Not counted any more when the target hears of it; told to the others when it has.
        keeper.forget(self)
        try:
            _twisted.report_end(self._transport, self.target, reason)
        finally:
            keeper.ended(self, reason)
