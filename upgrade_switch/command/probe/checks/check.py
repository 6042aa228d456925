"""
What a check is: a function that asks a server something, and raises :class:`~..wire.Broken` if the
answer is not what it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ..subject import Subject

__all__ = ["Check", "Group", "Level", "Skipped"]


class Level(StrEnum):
    """Who asks for it."""

    MUST = "MUST"
    """An RFC's MUST, or what cannot be read in another way: a byte lost is always one."""
    SHOULD = "SHOULD"
    """An RFC's SHOULD."""
    PEERS = "PEERS"
    """What careful servers do."""


class Skipped(Exception):
    """This check says nothing about this server; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    level: Level
    section: str
    """Where the rule stands, as in ``RFC 9110 §7.8``."""
    sent: str
    """What is sent, in one sentence: it explains a failure."""
    run: Callable[[Subject], None]

    def passes(self, subject: Subject) -> None:
        """
        Try it.

        :raises Broken: if the server did not do what the check asks for.
        :raises Skipped: if the check says nothing about this server.
        """
        self.run(subject)


@dataclass
class Group:
    """Checks of one kind, in the order in which they are run."""

    title: str
    checks: list[Check] = field(default_factory=list)

    def check(
        self, name: str, level: Level, section: str
    ) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
        """
        Make a function a check of this group. The first paragraph of its docstring says what is sent.

        :param name: its name in reports, in lower case with hyphens.
        :param section: where the rule stands.
        """

        def add(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
            sent = " ".join((run.__doc__ or "").strip().split("\n\n")[0].split())
            self.checks.append(Check(name, level, section, sent, run))
            return run

        return add
