"""
What workers share, so that a limit is one for all: ``--max-switched`` and ``--max-per-address``.
"""

from __future__ import annotations

from collections.abc import Iterable

from .addresses import Addresses
from .child import Child, Generation
from .shares import Shares
from .talk import Message

__all__ = ["Sharing"]


class Sharing:
    """Tells workers what they may switch, and what others have switched."""

    def __init__(self, most: int | None) -> None:
        """
        :param most: how many connections all may have together; None: any number.
        """
        self._addresses = Addresses()
        self._joined: dict[Child, None] = {}
        self._most = most
        self._shares = None if most is None else Shares(most)

    def set_most(self, most: int | None, generation: Generation) -> None:
        """
        Change how many all may have.

        :param generation: the workers that accept clients; all others retire.
        """
        if most == self._most:
            return
        self._most = most
        self._shares = None if most is None else Shares(most)
        if self._shares is not None:
            for child in self._joined:
                retires = child.generation is not generation
                self._shares.join(child, child.grant, child.used, retires=retires)

    def join(self, child: Child) -> None:
        """A worker comes."""
        self._joined[child] = None
        self._addresses.join(child)
        self.tell_all(child)
        if self._shares is not None:
            self._shares.join(child, child.grant)

    def retire(self, child: Child) -> None:
        """What a worker frees is for the others."""
        if self._shares is not None:
            self._shares.retire(child)

    def leave(self, child: Child) -> None:
        """A worker has ended."""
        self._joined.pop(child, None)
        if self._shares is not None:
            self._shares.leave(child)
        self._tell_others(child, self._addresses.leave(child))

    def report(self, child: Child, message: Message) -> None:
        """A worker says what it has switched."""
        child.used = message["used"]
        if self._shares is not None and message["number"] == child.number:
            self._shares.report(child, child.used, message["granted"], message["declined"])
        if message["parties"]:
            self._addresses.report(child, message["parties"])
            self._tell_others(child, message["parties"])

    def tell_all(self, child: Child) -> None:
        """Tell a worker what the others have, whatever it knew before."""
        if child in self._joined:
            child.say("elsewhere", parties=self._addresses.of_others(child), anew=True)

    def _tell_others(self, child: Child, addresses: Iterable[str]) -> None:
        changed = list(addresses)
        for other in self._joined if changed else ():
            # Who is behind is told all of it when it has caught up.
            if other is not child and not other.is_behind:
                parties = self._addresses.elsewhere(other, changed)
                other.say("elsewhere", parties=parties, anew=False)
