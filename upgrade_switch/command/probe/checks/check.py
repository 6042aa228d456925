"""
What a check is: a function that asks a server something, and raises :class:`~..wire.Broken` if the
answer is not what it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ..subject import Subject

__all__ = ["Check", "Group", "Level", "Skipped"]


class Level(StrEnum):
    """Who asks for it."""

    MUST = "MUST"
    """An RFC's MUST, or what follows from one beyond doubt: a lost byte always counts."""
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
    websocket: Level | None = None
    """Its level if the token is ``websocket``, where that differs."""
    needs_upgrade: bool = False
    """Whether it applies only to servers with which the plainest upgrade works."""
    only_websocket: bool = False

    def on(self, subject: Subject) -> Check:
        """The same check, with its level for this subject."""
        if self.websocket is not None and subject.is_websocket:
            return replace(self, level=self.websocket)
        return self

    def passes(self, subject: Subject) -> None:
        """
        Try it.

        :raises Broken: if the server did not do what the check asks for.
        :raises Skipped: if the check says nothing about this server.
        """
        if self.only_websocket and not subject.is_websocket:
            raise Skipped("it is only for WebSocket")
        self.run(subject)


@dataclass
class Group:
    """Checks of one kind, in the order in which they are run."""

    title: str
    checks: list[Check] = field(default_factory=list)
    needs_upgrade: bool = False
    """Whether its checks need a server with which the plainest upgrade works, by default."""
    only_websocket: bool = False

    def check(
        self,
        name: str,
        level: Level,
        section: str,
        *,
        websocket: Level | None = None,
        needs_upgrade: bool | None = None,
    ) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
        """
        Make a function a check of this group. The first paragraph of its docstring says what is sent.

        :param name: its name in reports, in lower case with hyphens.
        :param section: where the rule stands.
        :param websocket: its level for WebSocket, if that is another one: RFC 6455 forbids clients some
            things that other tokens allow.
        :param needs_upgrade: whether it is skipped where the server does not switch at all, which is
            allowed (RFC 9110 §7.8); by default, what the group says.
        """

        def add(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
            sent = " ".join((run.__doc__ or "").strip().split("\n\n")[0].split())
            needs = self.needs_upgrade if needs_upgrade is None else needs_upgrade
            check = Check(name, level, section, sent, run, websocket, needs, self.only_websocket)
            self.checks.append(check)
            return run

        return add
