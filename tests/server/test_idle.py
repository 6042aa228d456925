"""The idle time-outs of a site's connections, for all of which one call of the reactor's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from upgrade_switch.server.idle import IdleTimers, TimedChannel


class Timed(TimedChannel):
    """A channel that notes its time-out, and may do something then."""

    def __init__(self, site: Any, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.site = site
        self.then = then
        self.ended: list[float] = []

    def timeoutConnection(self) -> None:
        self.ended.append(self.site.clock.seconds())
        self.then()


class Timing:
    """What a channel needs of a site."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.idle_timers = IdleTimers(self.clock)

    def channels(self, *after: float) -> list[Timed]:
        """Channels for which time begins to pass, each so many seconds after the one before."""
        channels = []
        for seconds in after:
            self.clock.advance(seconds)
            channels.append(Timed(self))
            channels[-1].setTimeout(10)
        return channels

    def calls(self) -> int:
        """How many calls the reactor has to make."""
        return len(self.clock.getDelayedCalls())


def test_each_at_its_time() -> None:
    """Each connection is timed out at its own time, with one call for all of them."""
    site = Timing()
    first, second, third = site.channels(0, 1, 0)
    assert site.calls() == 1
    site.clock.pump([8.5, 0.5, 1])
    assert (first.ended, second.ended, third.ended) == ([10], [11], [11])
    assert site.calls() == 0


def test_anew() -> None:
    """What a connection sends sets its own time-out back, and none of the others."""
    site = Timing()
    first, second = site.channels(0, 1)
    site.clock.advance(8)
    first.resetTimeout()
    site.clock.pump([2, 8])
    assert (first.ended, second.ended) == ([19], [11])


def test_called_off() -> None:
    """Without a connection for which time passes, the reactor has no call to make."""
    site = Timing()
    first, second = site.channels(0, 1)
    assert first.setTimeout(None) == 10
    assert site.calls() == 1
    second.setTimeout(None)
    assert site.calls() == 0
    second.resetTimeout()
    assert site.calls() == 0
    site.clock.advance(20)
    assert first.ended == second.ended == []


def test_another_length() -> None:
    """A connection may wait for another time than the others."""
    site = Timing()
    first, second = site.channels(0, 0)
    assert first.setTimeout(3) == 10
    site.clock.pump([3, 7])
    assert (first.ended, second.ended) == ([3], [10])


@pytest.mark.parametrize("again", [10, 4])
def test_within(again: float) -> None:
    """One that is timed out may begin anew, which keeps none of the others waiting."""
    site = Timing()
    first, second = site.channels(0, 1)
    first.then = lambda: None if first.ended[1:] else first.setTimeout(again)
    site.clock.pump([9, 1, 3, 6])
    assert (first.ended, second.ended) == ([10, 10 + again], [11])


def test_one_calls_off_another() -> None:
    """One that is timed out may call off another's time-out, which was to come at the same time."""
    site = Timing()
    first, second = site.channels(0, 0)
    first.then = lambda: second.setTimeout(None)
    site.clock.advance(10)
    assert (first.ended, second.ended) == ([10], [])
    assert site.calls() == 0


def test_failing(errors: Any) -> None:
    """One whose time-out fails keeps none of the others waiting."""
    site = Timing()
    first, second = site.channels(0, 0)
    first.then = lambda: 1 // 0
    site.clock.advance(10)
    assert second.ended == [10]
    assert isinstance(errors.take(1)[0], ZeroDivisionError)
