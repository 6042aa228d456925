"""
What the reactor waits for: its own readers and writers, and those connections that it polls together.
"""

from __future__ import annotations

import select
from typing import Any

from tests.kit.waiting import reactor
from upgrade_switch._twisted.polling import PollReader, poll_of

__all__ = ["readers", "writers"]


def readers() -> list[Any]:
    """Whose reading it waits for."""
    return [*_others(reactor.getReaders()), *_polled("EPOLLIN")]


def writers() -> list[Any]:
    """Whose writing it waits for."""
    return [*_others(reactor.getWriters()), *_polled("EPOLLOUT")]


def _others(selectables: list[Any]) -> list[Any]:
    return [each for each in selectables if not isinstance(each, PollReader)]


def _polled(event: str) -> list[Any]:
    poll = poll_of(reactor)
    if poll is None:
        return []
    return [each for each in poll.waiting if each.events & getattr(select, event)]
