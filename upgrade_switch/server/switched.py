"""
:class:`SwitchedConnections`: which connections may switch, how they do it, and which have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime, ITCPTransport
from twisted.logger import Logger

from .. import _twisted
from ..connection import SwitchedConnection
from ..interfaces import (
    Declined,
    IDetachable,
    IDrainable,
    IStreamTransport,
    ISwitchObserver,
    SwitchHead,
)
from ..observe.events import notify
from ..takeover import hand_over

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ..negotiation import UpgradeToken

__all__ = ["SwitchedConnections", "say_goodbye"]

_log = Logger()


class SwitchedConnections(Collection[SwitchedConnection]):
    """
    The connections of a site that are switched now. ``len()``, ``in`` and iteration, which goes
    over the connections that were there when it began.

    :ivar draining: whether newcomers are declined because the site is going down.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limit: int | None = None,
        observers: Sequence[ISwitchObserver] = (),
        tcp_keepalive: bool = True,
    ) -> None:
        """
        :param clock: what ``since`` is taken from.
        :param limit: how many there may be; None for no limit.
        :param observers: who is told of switches and ends.
        :param tcp_keepalive: whether switched TCP connections get TCP's keep-alive.
        """
        self._clock = clock
        self._limit = limit
        self._observers = observers
        self._tcp_keepalive = tcp_keepalive
        self.draining = False
        # A dict, for its order: the oldest comes first.
        self._members: dict[SwitchedConnection, None] = {}
        self._waiters: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SwitchedConnection]:
        return iter(tuple(self._members))

    def __contains__(self, connection: object) -> bool:
        return connection in self._members

    # Admission.

    def why_no_room(self, transport: IStreamTransport) -> Declined | None:
        """
        Why one more connection may not switch now; None if it may. A connection that has switched
        before takes no more room.
        """
        if self.draining:
            return Declined.DRAINING
        if self._limit is None or len(self._members) < self._limit:
            return None
        switched_before = isinstance(_twisted.watcher(transport), SwitchedConnection)
        return None if switched_before else Declined.FULL

    def why_declined(self, transport: IStreamTransport) -> Declined | None:
        """Why this connection, which must still be open, may not switch now; None if it may."""
        return Declined.LEFT if _twisted.is_closing(transport) else self.why_no_room(transport)

    # The switch.

    def switch(
        self,
        leaving: IDetachable,
        slot: _twisted.Slot,
        head: SwitchHead | None,
        token: UpgradeToken | None,
        path: bytes,
        target: IProtocol,
    ) -> SwitchedConnection:
        """
        Take a connection out of HTTP and give it to its target, which owns it afterwards. The caller
        has seen to it that it may switch (:meth:`why_declined`).

        :param leaving: what leaves HTTP.
        :param slot: its :meth:`~upgrade_switch.interfaces.IDetachable.slot`.
        :param head: the head of the answer; None where no request asked.
        :param token: what is switched to; None for a preface or CONNECT.
        :param path: the request's path; empty for a preface.
        """
        transport = leaving.transport
        # Before any code of others runs: in notifyFinish, the site counts this connection already.
        connection = self._enter(transport, token, path, target)
        try:
            trailing = leaving.detach(head)
        except BaseException:
            # The access log's formatter, say. The answer is out: there is no way back into HTTP.
            _twisted.abort(transport)
            raise
        if self._tcp_keepalive and ITCPTransport.providedBy(transport):
            # HTTP's timer is gone: TCP looks after it.
            transport.setTcpKeepAlive(True)
        connection.target = target
        notify(self._observers, "switched", connection)
        hand_over(transport, slot, target, trailing)
        if self.draining:
            # Since the switch began: nobody else will tell it.
            say_goodbye(connection)
        return connection

    def _enter(
        self,
        transport: IStreamTransport,
        token: UpgradeToken | None,
        path: bytes,
        target: IProtocol,
    ) -> SwitchedConnection:
        """
        Note a switch. One connection is one entry from its first switch to its end, which the
        transport reports: a later switch changes ``token``, ``path`` and ``target``.
        """
        connection = _twisted.watcher(transport)
        if isinstance(connection, SwitchedConnection):
            connection.token, connection.path, connection.target = token, path, None
            return connection
        connection = SwitchedConnection(transport, token, path, self._clock.seconds())
        connection.on_end(self)
        self._members[connection] = None
        _twisted.watch_end(transport, target, connection)
        return connection

    # The end (connection.EndListener).

    def forget(self, connection: SwitchedConnection) -> None:
        """Take a connection out that has ended; harmless when it is not here."""
        self._members.pop(connection, None)

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """Tell the observers, and whoever waits for the last connection's end."""
        if self._observers:
            seconds = self._clock.seconds() - connection.since
            notify(self._observers, "ended", connection, seconds, reason)
        if not self._members:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def when_empty(self) -> Deferred[None]:
        """
        :return: fires (None) when no connection is left; at once if there is none.
        """
        waiter: Deferred[None] = Deferred()
        if self._members:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter


def say_goodbye(connection: SwitchedConnection) -> None:
    """Tell a connection's target that the server is going down, if it wants to know."""
    drainable = IDrainable(connection.target, None)
    if drainable is not None:
        try:
            drainable.drain()
        except Exception:
            # The others want to hear of it, too; this one is aborted with the rest.
            _log.failure("{target} failed to drain", target=connection.target)
