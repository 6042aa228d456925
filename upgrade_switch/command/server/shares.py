"""
How workers share ``--max-switched``: each may switch as many connections as it has been granted, and
the sum of the grants is never above the limit.

A worker that has none left gets what others do not use. Those have to give it back first: a worker
confirms each change of its grant, and until then it counts with the larger one. Somebody who asks in
the meantime is declined a moment too early.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

__all__ = ["Shares"]


class _Share:
    """What one worker has."""

    def __init__(self, change: Callable[[int], None]) -> None:
        self.change = change
        self.granted = 0
        """What it may use, as far as it is certain: the larger number while a change is under way."""
        self.wanted: int | None = None
        """What it has been told to come down or up to, and has not confirmed."""
        self.used = 0
        self.has_declined = False
        self.leaves = False


class Shares:
    """The grants of all workers."""

    def __init__(self, most: int) -> None:
        """
        :param most: the limit.
        """
        self._most = most
        self._shares: dict[Hashable, _Share] = {}

    def join(
        self, worker: Hashable, change: Callable[[int], None], used: int = 0, *, retires: bool = False
    ) -> None:
        """
        A worker comes, with so many connections.

        :param change: tells it what it may use from now on. It confirms that, by :meth:`report`, with
            what it uses now if that is more.
        """
        share = self._shares[worker] = _Share(change)
        share.used = share.granted = used
        share.leaves = retires
        self._balance()

    def retire(self, worker: Hashable) -> None:
        """A worker accepts no more clients: what it frees is for the others."""
        if worker in self._shares:
            self._shares[worker].leaves = True
            self._balance()

    def leave(self, worker: Hashable) -> None:
        """A worker has ended."""
        if self._shares.pop(worker, None) is not None:
            self._balance()

    def report(self, worker: Hashable, used: int, granted: int, has_declined: bool) -> None:
        """
        A worker says how it is.

        :param used: how many it has switched.
        :param granted: what it may use; it has had all changes that were sent to it.
        :param has_declined: whether it was full, and has declined a client, since its last report.
        """
        share = self._shares.get(worker)
        if share is not None:
            share.used, share.granted, share.wanted = used, granted, None
            share.has_declined |= has_declined
            self._balance()

    def granted(self) -> int:
        """What all workers may use together."""
        return sum(share.granted for share in self._shares.values())

    def _balance(self) -> None:
        for share in self._shares.values():
            if share.leaves and share.granted > share.used:
                self._announce(share, 0)
        staying = [share for share in self._shares.values() if not share.leaves]
        goals = self._goals(staying)
        for share, goal in goals.items():
            if goal < share.granted:
                self._announce(share, goal)
        for share, goal in goals.items():
            # What others have to give back first is handed out when they have.
            reachable = min(goal, share.granted + self._most - self.granted())
            if reachable > share.granted:
                share.has_declined = False
                self._announce(share, reachable)

    def _goals(self, staying: list[_Share]) -> dict[_Share, int]:
        """
        What each should have; empty if all may stay as it is. Everybody keeps what is in use, and gets
        the same of what is not. Where there is not one for each, it is for those who have declined
        somebody: otherwise it would go to and fro.
        """
        leaving = sum(share.granted for share in self._shares.values() if share.leaves)
        free = self._most - leaving - sum(share.used for share in staying)
        if not staying or free <= 0:
            return {share: share.used for share in staying}
        each, rest = divmod(free, len(staying))
        if each:
            is_due = any(share.used >= share.granted for share in staying)
            return {share: share.used + each for share in staying} if is_due else {}
        asking = [share for share in staying if share.has_declined and share.used >= share.granted]
        goals = dict.fromkeys(asking[:rest])
        if not goals:
            return {}
        return {share: share.used + (share in goals) for share in staying}

    @staticmethod
    def _announce(share: _Share, granted: int) -> None:
        if share.wanted is None:
            share.wanted = granted
            share.granted = max(share.granted, granted)
            share.change(granted)
