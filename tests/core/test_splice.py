"""
:func:`upgrade_switch.splice` on real connections, every kind with every other: what it carries, what
it holds back, and how it ends.

Each test has a chain of four transports, of which the two in the middle are spliced::

    left <---> a  splice  b <---> right
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from tests.kit.farside import (
    LARGE,
    MEGABYTE,
    PAIRS,
    SMALL,
    Chain,
    Chains,
    ClosingCollector,
    Source,
    every_pair,
    passes_end_on,
    settled,
)
from tests.kit.harness import turns
from upgrade_switch.splicing import SpliceEnd

#: Where a FIN can be told from the end.
HALF_CLOSING = [pair for pair in PAIRS if "tls" not in pair]

CLOSINGS = [
    (near, far, backwards)
    for near, far in PAIRS
    for backwards in (False, True)
    if (passes_end_on(far, near) if backwards else passes_end_on(near, far))
]

#: More than all that the middle and the kernel's (small) buffers may hold between them.
BOUND = 1_000_000

half_closing_pairs = pytest.mark.parametrize(("near", "far"), HALF_CLOSING)
every_closing = pytest.mark.parametrize(("near", "far", "backwards"), CLOSINGS)
both_directions = pytest.mark.parametrize("backwards", [False, True], ids=["onwards", "backwards"])


@every_pair
@pytest_twisted.ensureDeferred
async def test_both_ways_at_once(chain: Chains, near: str, far: str) -> None:
    """What is sent at both ends at the same time arrives at the other ends, whole and in order."""
    joined = await chain(near, far)
    joined.left.send(MEGABYTE)
    joined.right.send(MEGABYTE[::-1])
    await joined.left.has(len(MEGABYTE))
    await joined.right.has(len(MEGABYTE))
    assert joined.right.data == MEGABYTE
    assert joined.left.data == MEGABYTE[::-1]
    assert not joined.done.called
    # The protocols that were there before have heard of nothing.
    assert [old.events for old in joined.old] == [["made"], ["made"]]


@every_pair
@pytest_twisted.ensureDeferred
async def test_bytes_that_wait_already(chain: Chains, near: str, far: str) -> None:
    """What both ends have sent before the splice, and nobody has read, is carried, too."""
    joined = await chain(near, far, spliced=False)
    joined.a.pauseProducing()
    joined.b.pauseProducing()
    joined.left.send(MEGABYTE)
    joined.right.send(MEGABYTE[::-1])
    await turns()
    read = [len(old.data) for old in joined.old]
    joined.splice()
    await joined.right.has(len(MEGABYTE) - read[0])
    await joined.left.has(len(MEGABYTE) - read[1])
    assert joined.right.data == MEGABYTE[read[0] :]
    assert joined.left.data == MEGABYTE[::-1][read[1] :]


@implementer(IPushProducer)
class NotAsked:
    """A producer that is over: nobody may ask it for anything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.asked.append(name)


@every_pair
@pytest_twisted.ensureDeferred
async def test_producers_from_before(chain: Chains, near: str, far: str) -> None:
    """What produced for the two connections before has nothing to do with them any more."""
    joined = await chain(near, far, spliced=False)
    before = NotAsked()
    joined.a.registerProducer(before, True)
    joined.b.registerProducer(before, True)
    joined.splice()
    await joined.greet()
    await joined.fill(False)
    await joined.fill(True)
    joined.done.addErrback(lambda reason: None).cancel()
    for end in (joined.left, joined.right):
        end.transport.resumeProducing()
        await end.sees_end()
    assert before.asked == []


@both_directions
@every_pair
@pytest_twisted.ensureDeferred
async def test_backpressure(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """
    Where one end does not read, the other cannot send more than buffers of constant size hold, and
    the opposite direction goes on; when the slow end reads on, everything arrives.
    """
    joined = await chain(near, far)
    fast, slow = joined.ends(backwards)
    joined.send_buffers(SMALL)
    slow.transport.pauseProducing()
    data = random.Random(2).randbytes(4 * BOUND)
    source = Source(fast.transport, data)
    await settled(lambda: source.sent)
    assert source.sent < BOUND
    slow.send(b"I am busy")
    await fast.receives(b"I am busy")
    joined.send_buffers(LARGE)
    slow.transport.resumeProducing()
    await slow.has(len(data))
    assert slow.data == data
    assert fast.data == b"I am busy"


@both_directions
@half_closing_pairs
@pytest_twisted.ensureDeferred
async def test_half_close(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """
    A FIN arrives behind all data, the opposite direction goes on, and when it has ended, too, both
    connections have ended cleanly.
    """
    joined = await chain(near, far)
    first, second = joined.ends(backwards)
    first.send(MEGABYTE)
    first.transport.loseWriteConnection()
    await second.sees_end()
    assert second.data == MEGABYTE
    second.send(MEGABYTE)
    await first.has(len(MEGABYTE))
    assert first.data == MEGABYTE
    assert not joined.done.called
    assert first.reason is None
    assert second.reason is None
    second.transport.loseWriteConnection()
    await joined.done
    await first.sees_end()
    for end in (first, second):
        assert end.reason is None
        end.transport.loseConnection()
        await end.is_lost()
        assert end.reason.check(ConnectionDone)


@both_directions
@half_closing_pairs
@pytest_twisted.ensureDeferred
async def test_second_half_close_with_bytes_pending(
    chain: Chains, near: str, far: str, backwards: bool
) -> None:
    """A FIN behind bytes that the other, half-closed end has not read yet does not cut them off."""
    joined = await chain(near, far)
    second, first = joined.ends(backwards)
    first.transport.loseWriteConnection()
    await second.sees_end()
    sent = await joined.fill(backwards)
    second.transport.loseWriteConnection()
    await turns()
    assert not joined.done.called
    assert first.reason is None
    first.transport.resumeProducing()
    await first.sees_end()
    assert first.data == sent
    await joined.done


@both_directions
@half_closing_pairs
@pytest_twisted.ensureDeferred
async def test_half_closes_that_cross(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """Two FINs at the same time, each behind data, end both connections when all has arrived."""
    joined = await chain(near, far)
    first, second = joined.ends(backwards)
    for end in (first, second):
        end.send(MEGABYTE)
        end.transport.loseWriteConnection()
    await joined.done
    for end in (first, second):
        await end.sees_end()
        assert end.data == MEGABYTE


@both_directions
@pytest.mark.parametrize("plain", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_fin_towards_tls(chain: Chains, plain: str, backwards: bool) -> None:
    """A FIN cannot be passed on to TLS: its end hears of nothing, and what it sends still arrives."""
    near, far = ("tls", plain) if backwards else (plain, "tls")
    joined = await chain(near, far)
    first, second = joined.ends(backwards)
    first.send(MEGABYTE)
    first.transport.loseWriteConnection()
    await second.has(len(MEGABYTE))
    await turns()
    assert second.reason is None
    second.send(MEGABYTE)
    await first.has(len(MEGABYTE))
    assert first.data == MEGABYTE
    assert not joined.done.called
    second.transport.loseConnection()
    await first.sees_end()
    await joined.done
    assert second.data == MEGABYTE


@every_closing
@pytest_twisted.ensureDeferred
async def test_clean_end(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """An end that closes behind much data closes the other when it has read all of it."""
    joined = await chain(near, far, make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    slow.transport.pauseProducing()
    fast.send(MEGABYTE)
    fast.transport.loseConnection()
    await turns()
    assert not joined.done.called
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert slow.data == MEGABYTE
    assert slow.reason.check(ConnectionDone)
    await joined.done
    await fast.is_lost()


@every_closing
@pytest_twisted.ensureDeferred
async def test_clean_end_with_bytes_pending(
    chain: Chains, near: str, far: str, backwards: bool
) -> None:
    """What the splice itself still holds when one side has ended is written to the other."""
    joined = await chain(near, far, make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    sent = await joined.hold(MEGABYTE, backwards)
    fast.transport.loseConnection()
    await turns(10)
    assert not joined.done.called
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert slow.data == sent
    assert slow.reason.check(ConnectionDone)
    await joined.done


@every_pair
@pytest_twisted.ensureDeferred
async def test_cancelling(chain: Chains, near: str, far: str) -> None:
    """Cancelling the Deferred aborts both connections, whatever is pending."""
    joined = await chain(near, far, make=ClosingCollector)
    sent = await joined.fill(False)
    joined.done.cancel()
    with pytest.raises(CancelledError):
        await joined.done
    joined.right.transport.resumeProducing()
    await joined.left.is_lost()
    await joined.right.is_lost()
    assert len(joined.right.data) < len(sent)


@every_pair
@pytest_twisted.ensureDeferred
async def test_cancelling_afterwards(chain: Chains, near: str, far: str) -> None:
    """The Deferred fires once; cancelling it when both connections have ended does nothing."""
    joined = await chain(near, far, make=ClosingCollector)
    results: list[object] = []
    joined.done.addBoth(results.append)
    joined.right.transport.loseConnection()
    joined.left.transport.loseConnection()
    await joined.done
    joined.done.cancel()
    await turns()
    assert results == [None]


def both_close(joined: Chain) -> None:
    joined.left.transport.loseConnection()
    joined.right.transport.loseConnection()


ENDINGS: dict[str, Callable[[Chain], Any]] = {
    "both close": both_close,
    "left aborts": lambda joined: joined.left.transport.abortConnection(),
    "right aborts": lambda joined: joined.right.transport.abortConnection(),
    "cancelled": lambda joined: joined.done.addErrback(lambda reason: None).cancel(),
}


#: An abort is a FIN on UNIX sockets, which says nothing to TLS.
UNHEARD = {("unix", "tls", "left aborts"), ("tls", "unix", "right aborts")}


@pytest.mark.parametrize(
    ("near", "far", "ending"),
    [(*pair, ending) for pair in PAIRS for ending in ENDINGS if (*pair, ending) not in UNHEARD],
)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(chain: Chains, near: str, far: str, ending: str) -> None:
    """However a splice ends, reference counting alone frees it and its two ends."""
    joined = await chain(near, far, make=ClosingCollector)
    ends = joined.protocols()
    assert [type(end) for end in ends] == [SpliceEnd, SpliceEnd]
    watched = [ref(end) for end in ends] + [ref(ends[0].splice)]
    del ends
    ENDINGS[ending](joined)
    await joined.left.is_lost()
    await joined.right.is_lost()
    await joined.done
    # A transport keeps its last protocol: let go of the transports, too.
    joined.a = joined.b = None
    joined.old, joined.done = (), Deferred()
    await turns()
    assert [weak() for weak in watched] == [None, None, None]
