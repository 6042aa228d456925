"""
How many connections of an address all workers have switched together, for ``--max-per-address``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

__all__ = ["Addresses"]


class Addresses:
    """What each worker has, of each address."""

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[str, int]] = {}
        self._in_all: Counter[str] = Counter()

    def join(self, worker: Hashable) -> None:
        """A worker comes."""
        self._of[worker] = {}

    def report(self, worker: Hashable, changed: Mapping[str, int]) -> None:
        """A worker has so many now, of these addresses."""
        of_it = self._of[worker]
        for address, count in changed.items():
            self._in_all[address] += count - of_it.get(address, 0)
            of_it[address] = count
            if not count:
                del of_it[address]
            if not self._in_all[address]:
                del self._in_all[address]

    def leave(self, worker: Hashable) -> list[str]:
        """
        A worker has ended.

        :return: the addresses that it had.
        """
        addresses = list(self._of.get(worker, ()))
        if addresses:
            self.report(worker, dict.fromkeys(addresses, 0))
        self._of.pop(worker, None)
        return addresses

    def elsewhere(self, worker: Hashable, addresses: Iterable[str]) -> dict[str, int]:
        """What the others have of these addresses, as a worker sees it, that may not have come yet."""
        of_it = self._of[worker]
        return {address: self._in_all[address] - of_it.get(address, 0) for address in addresses}

    def of_others(self, worker: Hashable) -> dict[str, int]:
        """What the others have, of each address that they have."""
        counts = self.elsewhere(worker, self._in_all)
        return {address: count for address, count in counts.items() if count}
