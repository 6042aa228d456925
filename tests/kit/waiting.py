"""
Waiting for what happens on the reactor, and saying what has not happened.

A test that waits in vain fails as soon as nothing moves any more, and says what it wanted and what it
got. As long as something moves, it goes on waiting, so that a slow machine fails no test.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

reactor: Any = _reactor

T = TypeVar("T")

#: How long a test waits at most, however much moves meanwhile, in seconds.
PATIENCE = 60

#: The CPU time that a second takes in which nothing happens, in seconds: less than this.
_IDLE = 0.02


class Stillness:
    """
    How long nothing has to happen before a test is given up.

    :ivar seconds: as long as this; tests of other processes, whose work is not seen here, need more.
    :ivar moves: how often something has happened that the kit knows of.
    """

    seconds = 5
    moves = 0


def turns(count: int = 3) -> Deferred[None]:
    """Fires when the reactor has gone round a few times: what the kernel has by now has been read."""
    d: Deferred[None] = deferLater(reactor, 0)
    if count > 1:
        d.addCallback(lambda _: turns(count - 1))
    return d


def shown(data: bytes | bytearray) -> str:
    """Bytes for a person: how many they are, and the first and the last of them."""
    data = bytes(data)
    if len(data) <= 100:
        return f"{len(data)} bytes {data!r}"
    return f"{len(data)} bytes {data[:40]!r}...{data[-40:]!r}"


def source_of(condition: Callable[[], object]) -> str:
    """A condition as its test says it, and the values of the names in it."""
    try:
        lines = inspect.getsource(condition).strip().splitlines()
        names = inspect.getclosurevars(condition).nonlocals
    except (OSError, TypeError, ValueError):  # not of a file, or not a function
        return repr(condition)
    said = " ".join(line.strip() for line in lines[:3])
    values = [
        f"{name}: {shown(value) if isinstance(value, bytes | bytearray) else repr(value)}"
        for name, value in names.items()
        if isinstance(value, bytes | bytearray | int | str)
    ]
    return f"`{said}`" + (f" ({', '.join(values)})" if values else "")


def patient(
    d: Deferred[T], wanted: Callable[[], str] | None = None, seconds: int | None = None
) -> Deferred[T]:
    """
    A Deferred that fails the test rather than hang it.

    :param wanted: says what has been waited for and what has come instead.
    :param seconds: how long nothing has to happen before the test is given up, if not the usual time.
    """
    if d.called and not d.paused:
        return d
    seconds = seconds or Stillness.seconds
    start = reactor.seconds()
    seen = Stillness.moves, 0.0
    still = 0

    def look() -> None:
        nonlocal seen, still, ticking
        # Seconds that are counted one by one: of a process that gets no time to run, none passes. The
        # CPU time is asked for only when the first is over, which most do not see: it takes long.
        moves, spent = Stillness.moves, time.process_time()
        still = 0 if moves != seen[0] or spent > seen[1] + _IDLE else still + 1
        seen = moves, spent
        if still < seconds and reactor.seconds() < start + PATIENCE:
            ticking = reactor.callLater(1, look)
            return
        end = f"nothing has happened for {still} s" if still else f"{PATIENCE} s are over"
        failed.append(f"{end}; {wanted()}" if wanted else f"{end}, and {d} has not fired")
        d.cancel()

    def stop(result: Any) -> Any:
        if ticking.active():
            ticking.cancel()
        if failed:
            # Its traceback would show the reactor and hide the test.
            raise AssertionError(failed[0]) from None
        return result

    failed: list[str] = []
    ticking = reactor.callLater(1, look)
    return d.addBoth(stop)


class Waiters:
    """
    Deferreds that fire when a condition has come true.

    :param got: says what has happened so far, for when a condition does not come true.
    """

    def __init__(self, got: Callable[[], str] | None = None) -> None:
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []
        self._got = got

    def until(
        self,
        condition: Callable[[], bool],
        wanted: str | None = None,
        got: Callable[[], str] | None = None,
    ) -> Deferred[None]:
        """
        :param wanted: the condition in words; else its source says it.
        :param got: in place of what all of these waiters say.
        """
        got = got or self._got

        def said() -> str:
            text = f"wanted {wanted or source_of(condition)}"
            return f"{text}, got {got()}" if got else text

        d: Deferred[None] = Deferred()
        self._waiting.append((condition, d))
        self.look()
        return patient(d, said)

    def look(self) -> None:
        """Something has happened."""
        Stillness.moves += 1
        for entry in list(self._waiting):
            if entry in self._waiting and entry[0]():
                self._waiting.remove(entry)
                if not entry[1].called:
                    entry[1].callback(None)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no protocol is told of."""
    seen, since, turned = Stillness.moves, reactor.seconds(), 0
    while not condition():
        if Stillness.moves != seen:
            seen, since, turned = Stillness.moves, reactor.seconds(), 0
        # Turns of the reactor are counted, too: of a process that gets no time to run, none passes.
        is_still = turned > 1000 and reactor.seconds() > since + Stillness.seconds
        assert not is_still, f"nothing has happened; wanted {source_of(condition)}"
        await turns(1)
        turned += 1
