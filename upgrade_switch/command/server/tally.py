"""
How many connections a worker has switched, of what it may: it tells its parent of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ...interfaces import Declined, ISwitchedConnection, ISwitchObserver, IUpgradeRequest
from ...negotiation import UpgradeToken
from ...server.switched import SwitchedConnections
from .talk import Message

__all__ = ["Tally"]

_SECONDS_BETWEEN_REPORTS = 0.2


@implementer(ISwitchObserver)
class Tally:
    """Counts for the parent, who hears of it a moment after something has changed."""

    def __init__(self, clock: IReactorTime, say: Callable[[Message], None]) -> None:
        """
        :param say: tells the parent something.
        """
        self._clock = clock
        self._say = say
        self._connections: SwitchedConnections
        self._due: IDelayedCall | None = None
        # None: as many as it likes. Of a limit, nothing is granted at first.
        self._granted: int | None = None
        self._number = 0
        self._has_declined = self._retires = False
        self._may_come: Callable[[], int] = int
        self._told: Mapping[str, int] = {}

    def watch(self, connections: SwitchedConnections) -> None:
        """
        :param connections: what is counted. Their limits are this worker's part from now on.
        """
        self._connections = connections
        if connections.limits.max_switched is not None:
            self._limit(0)

    def _limit(self, most: int) -> None:
        self._granted = max(most, self._used())
        self._connections.limits = self._connections.limits._replace(max_switched=self._granted)

    def _used(self) -> int:
        """
        How much of what it has been granted it does not give back: what is switched, and, while it
        retires, a place for each that may still want to.
        """
        return max(len(self._connections), min(self._may_come(), self._granted or 0))

    def grant(self, most: int, number: int) -> None:
        """
        Switch so many from now on, or as many as there are if these are more.

        :param number: of the parent's changes; reports say which was the last.
        """
        self._number = number
        self._limit(most)
        self.report()

    def retire(self, may_come: Callable[[], int] = int) -> None:
        """
        Grow no more: what ends is for other workers.

        :param may_come: how many are connected, some of whom may want to switch before they leave.
        """
        self._retires = True
        self._may_come = may_come

    def note_others(self, parties: Mapping[str, int], anew: bool = False) -> None:
        """
        So many connections of these addresses are switched by other workers.

        :param anew: and none of any other address.
        """
        if anew:
            self._connections.elsewhere.clear()
        for party, count in parties.items():
            if count:
                self._connections.elsewhere[party] = count
            else:
                self._connections.elsewhere.pop(party, None)

    def switched(self, connection: ISwitchedConnection) -> None:
        self._soon()

    def ended(self, connection: ISwitchedConnection, seconds: float, reason: Failure) -> None:
        self._soon()

    def declined(self, request: IUpgradeRequest, token: UpgradeToken | None, why: Declined) -> None:
        if why is Declined.FULL:
            self._has_declined = True
            self._soon()

    def _soon(self) -> None:
        if self._due is None:
            self._due = self._clock.callLater(_SECONDS_BETWEEN_REPORTS, self.report)

    def report(self) -> None:
        """Tell the parent how it is."""
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None
        if self._retires and self._granted is not None:
            self._limit(0)
        declined, self._has_declined = self._has_declined, False
        self._say(
            {
                "say": "used",
                "used": self._used(),
                "granted": self._granted,
                "number": self._number,
                "declined": declined,
                "parties": self._changed_parties(),
            }
        )

    def _changed_parties(self) -> dict[str, int]:
        """How many connections these addresses have, as far as the parent does not know."""
        told, self._told = self._told, self._connections.by_address()
        gone = dict.fromkeys(told.keys() - self._told.keys(), 0)
        return gone | {party: count for party, count in self._told.items() if told.get(party) != count}
