"""
The connections to back ends that rest between two exchanges: :class:`IdleConnections`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from twisted.internet.defer import Deferred, gatherResults

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from .exchange_client import ExchangeClient

__all__ = ["IdleConnections"]


class Limits(TypingProtocol):
    """Public attributes of Twisted's ``HTTPConnectionPool``."""

    persistent: bool
    """Whether connections rest at all."""
    maxPersistentPerHost: int
    """How many of a key do; the one that has rested for longest makes room."""

    @property
    def cachedConnectionTimeout(self) -> float:
        """For how many seconds."""


class IdleConnections:
    """
    Has the connections that rest, by their keys, and closes those that have rested for too long. The
    one that rested last is taken first: the others, if nobody needs them, come to their end.
    """

    def __init__(self, limits: Limits, clock: IReactorTime) -> None:
        """
        :param limits: is asked whenever a connection begins to rest.
        :param clock: what time is measured by.
        """
        self._limits = limits
        self._clock = clock
        # Of each key, in the order in which they began to rest, with the time when each did.
        self._resting: dict[Hashable, dict[ExchangeClient, float]] = {}
        # One for all: to set one for each would take longer than to find the connection.
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._resting.values()))

    def put(self, client: ExchangeClient) -> None:
        """Have a connection, unless the limits say that it is to be closed."""
        limits = self._limits
        if not limits.persistent or limits.maxPersistentPerHost < 1:
            client.close()
            return
        resting = self._resting.setdefault(client.key, {})
        # The limit may have become less.
        while len(resting) >= limits.maxPersistentPerHost:
            next(iter(resting)).close()
        # Which may have been the last of that key.
        resting = self._resting.setdefault(client.key, resting)
        resting[client] = self._clock.seconds()
        if self._call is None:
            self._call = self._clock.callLater(limits.cachedConnectionTimeout, self._look)

    def _look(self) -> None:
        """Close those that have rested for too long, and come back when the next may have."""
        self._call = None
        seconds = self._limits.cachedConnectionTimeout
        now = self._clock.seconds()
        for resting in list(self._resting.values()):
            for client, since in list(resting.items()):
                if since + seconds > now:
                    break
                client.close()
        if self._resting and self._call is None:
            first = min(next(iter(resting.values())) for resting in self._resting.values())
            self._call = self._clock.callLater(max(first + seconds - now, 0), self._look)

    def take(self, key: Hashable) -> ExchangeClient | None:
        """
        :return: the connection that rested last, the caller's from now on; None if there is none.
        """
        resting = self._resting.get(key)
        if not resting:
            return None
        client, _ = resting.popitem()
        if not resting:
            del self._resting[key]
        return client

    def remove(self, client: ExchangeClient) -> None:
        """A connection has ended: forget it; harmless if it does not rest here."""
        resting = self._resting.get(client.key)
        if resting is not None and client in resting:
            del resting[client]
            if not resting:
                del self._resting[client.key]
        if not self._resting and self._call is not None:
            # Also if others are at work: when they rest, it is begun anew.
            self._call.cancel()
            self._call = None

    def close(self) -> Deferred[None]:
        """
        End all connections that rest.

        :return: fires when they have ended.
        """
        clients = [client for resting in self._resting.values() for client in resting]
        ended = gatherResults([client.abort() for client in clients])
        return ended.addCallback(lambda _: None)
