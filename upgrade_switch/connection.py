"""
:class:`SwitchedConnection`: a connection that has left HTTP; and what holds a client's connection
until its target is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from . import _twisted
from ._twisted import report_end, tls_layer
from .errors import AlreadyInstalled
from .interfaces import ICarriedTransport, ICountsBytes, IStreamTransport, ISwitchedConnection
from .takeover import check_target, hand_over, replay_ended_connection

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IProtocol

    from .negotiation import UpgradeToken

__all__ = [
    "AbortUnlessInstalled",
    "EndListener",
    "HoldingProtocol",
    "SwitchedConnection",
    "abort_because",
]


class HoldingProtocol(Protocol):
    """
    Holds a client's connection between the 101 and ``install``. The transport is paused; what arrives
    nevertheless (TLS delivers the records that it has read already) is kept for the target.

    :ivar lost: how the connection has ended; None while it has not.
    """

    transport: IStreamTransport
    lost: Failure | None = None

    def __init__(self, transport: IStreamTransport, data: bytes) -> None:
        """
        :param transport: a connected transport, paused.
        :param data: what has arrived behind the head of the 101.
        """
        self.transport = transport
        self._chunks = [data] if data else []

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def hand_over_to(self, target: IProtocol) -> None:
        """Give everything to the target. A connection that has ended already is replayed to it."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        if self.lost is None:
            hand_over(self.transport, _twisted.slot_of(self.transport, self), target, data)
        else:
            replay_ended_connection(self.transport, target, data, self.lost)


class AbortUnlessInstalled:
    """
    What a client's :class:`SwitchedConnection` has until its target is installed. If it is dropped
    before that, it aborts the connection, which would otherwise stay open until the server closes it.
    """

    def __init__(self, holding: HoldingProtocol) -> None:
        self._holding: HoldingProtocol | None = holding

    def take(self) -> HoldingProtocol:
        """
        :return: what holds the connection, which is the caller's from now on.
        """
        holding, self._holding = self._holding, None
        assert holding is not None
        return holding

    def __del__(self) -> None:
        holding = self._holding
        if holding is not None and holding.lost is None:
            _twisted.abort(holding.transport)


class EndListener(TypingProtocol):
    """Hears of the end of switched connections."""

    def forget(self, connection: SwitchedConnection) -> None:
        """The connection has ended; its target has not been told yet."""

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """The connection has ended, and its target has been told."""


@implementer(ISwitchedConnection)
class SwitchedConnection:
    """
    A connection that has left HTTP, on either side.

    :ivar token: the upgrade token that it has switched to; None for a preface, CONNECT
        or ``take_over``.
    :ivar path: the path of the request that switched it.
    :ivar since: when, in seconds on the reactor's clock.
    :ivar target: the protocol that owns it; None until it does (on a client, until :meth:`install`).
    :ivar user: on a server, the client's name, if its identity has been checked; otherwise None.
    :ivar why_aborted: on a server, the reason for its end that observers are told in place of the
        transport's; usually None.
    """

    __slots__ = (
        "__weakref__",
        "_transport",
        "_uninstalled",
        "listener",
        "path",
        "since",
        "target",
        "token",
        "user",
        "why_aborted",
    )

    def __init__(
        self,
        transport: IStreamTransport,
        token: UpgradeToken | None,
        path: bytes,
        since: float,
        uninstalled: AbortUnlessInstalled | None = None,
    ) -> None:
        self.token = token
        self.path = path
        self.since = since
        self.target: IProtocol | None = None
        self.user: str | None = None
        self._transport = transport
        self._uninstalled = uninstalled
        # Told of the end; set before there is a target.
        self.listener: EndListener | None = None
        self.why_aborted: Exception | None = None

    def __repr__(self) -> str:
        return f"<SwitchedConnection {self.token} {self.path!r} to {self.target!r}>"

    @property
    def peer(self) -> IAddress:
        """The address of the other end, as the transport has it."""
        address: IAddress = self._transport.getPeer()
        return address

    @property
    def bytes_in(self) -> int | None:
        """How many bytes the target has been given; None if it does not count them."""
        return self.target.bytes_in if ICountsBytes.providedBy(self.target) else None

    @property
    def bytes_out(self) -> int | None:
        """How many bytes the target has sent; None if it does not count them."""
        return self.target.bytes_out if ICountsBytes.providedBy(self.target) else None

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent: Twisted's, and the TLS layer's, not the kernel's."""
        return _twisted.unsent(self._transport)

    def abort(self, why: Exception | None = None) -> None:
        """
        End the connection at once; what waits to be sent is lost. Harmless when it is over.

        :param why: on a server, the reason that observers are told of; its target gets Twisted's.
        """
        self.why_aborted = why
        _twisted.abort(self._transport)

    def install(self, target: IProtocol) -> None:
        """
        On a client: give the connection to its protocol, once. The target gets ``connectionMade``,
        then what has arrived since the server's 101, then the rest; it owns the connection, and the
        transport reads again. A connection that has ended meanwhile gives ``connectionMade``, its
        data and ``connectionLost``.

        :param target: any ``IProtocol``; what it raises is logged and ends the connection.
        :raises AlreadyInstalled: the second time, and on a server.
        :raises InvalidTarget: if the target is not an ``IProtocol``; the connection still waits.
        """
        if self._uninstalled is None:
            raise AlreadyInstalled(f"this connection belongs to {self.target!r} already")
        self.hand_over_to(check_target(target))

    @property
    def is_waiting(self) -> bool:
        """Whether :meth:`install` is still to come."""
        return self._uninstalled is not None

    def hand_over_to(self, target: IProtocol) -> None:
        """:meth:`install`, for a target that has been checked."""
        uninstalled, self._uninstalled = self._uninstalled, None
        assert uninstalled is not None
        holding = uninstalled.take()
        self.target = target
        listener, lost = self.listener, holding.lost
        if listener is not None and lost is None:
            _twisted.watch_end(self._transport, target, self)
        holding.hand_over_to(target)
        if listener is not None and lost is not None:
            listener.ended(self, lost)

    def __call__(self, reason: Failure) -> None:
        """
        The transport's end: called in place of its ``connectionLost`` (``_twisted.watch_end``). The
        record itself is the callable, since a closure would cost every connection three times as
        much memory.
        """
        listener = self.listener
        assert listener is not None
        # The target finds the connection gone from the collection; observers hear after the target.
        listener.forget(self)
        layer = tls_layer(self._transport)
        tls = None if layer is None else layer.getHandle()
        why = reason
        if self.why_aborted is not None or isinstance(reason.value, ConnectionLost):
            why = self._why(reason)
        try:
            report_end(self._transport, self.target, reason)
        finally:
            listener.ended(self, why if tls is None else _end_of_tls(tls, why))

    def _why(self, reason: Failure) -> Failure:
        """The transport's reason, or what is known better. To be asked while the socket is open."""
        if self.why_aborted is not None:
            return Failure(self.why_aborted)
        if _twisted.has_timed_out(self._transport):
            return Failure(TimeoutError(string="the other end's TCP did not answer any more"))
        return reason


def abort_because(transport: IStreamTransport, why: Exception | None) -> None:
    """
    End a connection at once, and have the observers of its site, if it is one that has switched there,
    told of this reason rather than of an abort. Harmless when it is over.

    :param transport: the connection's transport, or one that it carries.
    """
    carrier = transport
    while ICarriedTransport.providedBy(carrier):
        carrier = carrier.carrier
    connection = _twisted.watcher(carrier)
    if isinstance(connection, SwitchedConnection):
        connection.why_aborted = why
    _twisted.abort(transport)


def _end_of_tls(tls: SSL.Connection, reason: Failure) -> Failure:
    """
    Why a connection with TLS has ended, which only the socket's end does not tell: an end without
    close_notify from either side is no clean end (RFC 8446 §6.1).
    """
    has_said_goodbye = tls.get_shutdown() & (SSL.RECEIVED_SHUTDOWN | SSL.SENT_SHUTDOWN)
    if has_said_goodbye or not reason.check(ConnectionDone):
        return reason
    return Failure(SSL.Error("the connection ended without close_notify"))
