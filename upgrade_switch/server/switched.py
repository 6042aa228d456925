"""
:class:`SwitchedConnections`: the live collection of what a site has switched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from . import _twisted
from .events import tell
from .takeover import SwitchedConnection

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocol, IReactorTime
    from twisted.python.failure import Failure

    from .negotiation import UpgradeToken

__all__ = ["SwitchedConnections"]


class SwitchedConnections(Collection[SwitchedConnection]):
    """
    The connections of a site that are switched now. ``len()``, ``in`` and iteration, which goes
    over the connections that were there when it began.
    """

    def __init__(
        self, clock: IReactorTime, limit: int | None = None, observers: Sequence[Any] = ()
    ) -> None:
        """
        :param clock: what ``since`` is taken from.
        :param limit: how many there may be; None for no limit.
        :param observers: who is told of an end (``ISwitchObserver``).
        """
        self._clock = clock
        self._limit = limit
        self._observers = observers
        # A dict, for its order: the oldest comes first.
        self._members: dict[SwitchedConnection, None] = {}
        self._waiters: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SwitchedConnection]:
        return iter(tuple(self._members))

    def __contains__(self, connection: object) -> bool:
        return connection in self._members

    def has_room_for(self, transport: Any) -> bool:
        """Whether this connection may switch: one that has switched before takes no more room."""
        if self._limit is None or len(self._members) < self._limit:
            return True
        return isinstance(_twisted.watcher(transport), SwitchedConnection)

    def enter(
        self, transport: Any, token: UpgradeToken | None, path: bytes, target: IProtocol
    ) -> SwitchedConnection:
        """
        Note a switch, whose connection the caller then gives to the target. One connection is one
        entry from its first switch to its end, of which the transport tells: a later switch changes
        ``token``, ``path`` and ``target``.
        """
        connection = _twisted.watcher(transport)
        if isinstance(connection, SwitchedConnection):
            connection.token, connection.path, connection.target = token, path, None
            return connection
        connection = SwitchedConnection(transport, token, path, self._clock.seconds())
        connection._keeper = self
        self._members[connection] = None
        _twisted.watch_end(transport, target, connection)
        return connection

    def forget(self, connection: SwitchedConnection) -> None:
        """Take a connection out that has ended; harmless when it is not here."""
        self._members.pop(connection, None)

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """Tell the observers, and who waits for the last connection's end."""
        if self._observers:
            seconds = self._clock.seconds() - connection.since
            tell(self._observers, "ended", connection, seconds, reason)
        if not self._members:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def when_empty(self) -> Deferred[None]:
        """
        :return: fires (None) when there is no connection left; at once if there is none.
        """
        waiter: Deferred[None] = Deferred()
        if self._members:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter
