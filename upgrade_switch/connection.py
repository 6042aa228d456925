"""
:class:`SwitchedConnection`: a connection that has left HTTP; and, on a client, what becomes of it
until its target is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from . import _twisted
from .errors import AlreadyInstalled
from .interfaces import ISwitchedConnection
from .takeover import check_target, hand_over, replay_ended_connection

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IProtocol
    from twisted.python.failure import Failure

    from .negotiation import UpgradeToken

__all__ = ["AbortUnlessInstalled", "EndListener", "HoldingProtocol", "SwitchedConnection"]


class HoldingProtocol(Protocol):
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

    def hand_over_to(self, target: IProtocol) -> None:
        """Hand everything over; to a connection that has ended already, its whole short life."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        transport: Any = self.transport
        if self.lost is None:
            hand_over(transport, _twisted.slot_of(transport, self), target, data)
            return
        replay_ended_connection(transport, target, data, self.lost)


class AbortUnlessInstalled:
    """
    What a client's :class:`SwitchedConnection` holds until it is installed. Dropped without that, it
    aborts: a connection that is read by nobody would stay open for as long as the server likes.
    """

    def __init__(self, waiting: HoldingProtocol) -> None:
        self._waiting: HoldingProtocol | None = waiting

    def take(self) -> HoldingProtocol:
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        return waiting

    def __del__(self) -> None:
        waiting = self._waiting
        if waiting is not None and waiting.lost is None:
            _twisted.abort(waiting.transport)


class EndListener(TypingProtocol):
    """Who wants to know of a switched connection's end."""

    def forget(self, connection: SwitchedConnection) -> None:
        """The connection has ended; its target has not heard of it yet."""

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """Its target has."""


@implementer(ISwitchedConnection)
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
        "_listener",
        "_transport",
        "_uninstalled",
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
        uninstalled: AbortUnlessInstalled | None = None,
    ) -> None:
        self.token = token
        self.path = path
        self.since = since
        self.target: IProtocol | None = None
        self._transport = transport
        self._uninstalled = uninstalled
        self._listener: EndListener | None = None

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
        if self._uninstalled is None:
            raise AlreadyInstalled(f"this connection is {self.target!r}'s already")
        self.hand_over_to(check_target(target))

    @property
    def is_waiting(self) -> bool:
        """Whether :meth:`install` is still to come."""
        return self._uninstalled is not None

    def hand_over_to(self, target: IProtocol) -> None:
        """:meth:`install`, for a target that is known to be good."""
        uninstalled, self._uninstalled = self._uninstalled, None
        assert uninstalled is not None
        waiting = uninstalled.take()
        self.target = target
        lost = waiting.lost
        if lost is None:
            if self._listener is not None:
                _twisted.watch_end(self._transport, target, self)
            waiting.hand_over_to(target)
            return
        waiting.hand_over_to(target)
        if self._listener is not None:
            self._listener.ended(self, lost)

    def on_end(self, listener: EndListener) -> None:
        """Have the connection's end told to somebody; before it has a target."""
        self._listener = listener

    def __call__(self, reason: Failure) -> None:
        """
        The transport's end: called in place of its ``connectionLost`` (``_twisted.watch_end``). The
        record itself is the callable, since a closure would cost every connection three times as
        much memory.
        """
        listener = self._listener
        assert listener is not None
        # Not counted any more when the target hears of it; told to the others when it has.
        listener.forget(self)
        try:
            _twisted.report_end(self._transport, self.target, reason)
        finally:
            listener.ended(self, reason)
