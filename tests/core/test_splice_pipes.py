"""
Bulk through a splice of plain sockets, which goes through a pipe where there is ``os.splice``: the same
as without one, but for what it costs.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.kit.descriptors import open_files
from tests.kit.farside import (
    LARGE,
    MEGABYTE,
    SMALL,
    Chain,
    Chains,
    ClosingCollector,
    Collector,
    settled,
)
from tests.kit.harness import turns
from tests.kit.polled import readers, writers
from tests.kit.splicing import Splicing
from tests.kit.waiting import eventually
from upgrade_switch import _twisted
from upgrade_switch._twisted import pipes
from upgrade_switch.splicing import Splice, SpliceEnd

pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="there is no splice")

#: The two in the middle, and whether it goes backwards: with a TCP socket as the source.
DIRECTIONS = [
    ("tcp", "tcp", False),
    ("tcp", "tcp", True),
    ("tcp at once", "tcp", False),
    ("tcp at once", "tcp", True),
    ("tcp", "unix", False),
    ("unix", "tcp", True),
]
OVER_TCP = [direction for direction in DIRECTIONS if "unix" not in direction]

every_direction = pytest.mark.parametrize(("near", "far", "backwards"), DIRECTIONS)
over_tcp = pytest.mark.parametrize(("near", "far", "backwards"), OVER_TCP)

#: As much as a sink's buffer may have to take: a piece, behind what is not much.
MOST = (256 + 64) * 1024


@pytest.fixture
def splicing(monkeypatch: pytest.MonkeyPatch) -> Splicing:
    return Splicing(monkeypatch)


class Piped:
    """
    A chain whose middle has begun to use pipes in one direction, and has much to say in it, which is
    not read yet.

    :ivar source: the transport in the middle that it comes from; ``sink``: the one it goes to.
    :ivar sent: all that has been sent.
    """

    def __init__(self, joined: Chain, backwards: bool) -> None:
        self.joined = joined
        self.fast, self.slow = joined.ends(backwards)
        self.sink = joined.middle(backwards)
        self.source = joined.middle(not backwards)
        self.end = _twisted.slot_of(self.source).get()
        self.sent = b""

    async def start(self) -> Piped:
        self.joined.send_buffers(LARGE)
        # Else it grows, and takes all.
        self.slow.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LARGE)
        while not self._is_blocked:
            self.slow.transport.resumeProducing()
            self.send(4 * MEGABYTE)
            await eventually(lambda: "doRead" in vars(self.source))
            self.slow.transport.pauseProducing()
            await settled(lambda: self.end.bytes_in)
        assert self.source not in readers()
        return self

    @property
    def _is_blocked(self) -> bool:
        # What has come last may have been little; or what was paused had room for all.
        return (
            "doRead" in vars(self.source)
            and self.sink in writers()
            and self.slow.amount < self.end.bytes_in < len(self.sent)
        )

    def send(self, data: bytes) -> None:
        self.sent += data
        self.fast.send(data)

    async def arrives(self) -> None:
        """All that has been sent arrives, and has been counted."""
        self.slow.transport.resumeProducing()
        await self.slow.has(len(self.sent))
        assert self.slow.data == self.sent
        # A byte each way comes before it.
        assert self.end.bytes_in == self.end.other.bytes_out == 1 + len(self.sent)


async def piped(
    chain: Chains, near: str, far: str, backwards: bool, make: Callable[[], Any] = Collector
) -> Piped:
    return await Piped(await chain(near, far, make), backwards).start()


# What is carried.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("near", "far"), [("tcp", "tcp"), ("tcp at once", "tcp"), ("tcp", "unix")])
@pytest_twisted.ensureDeferred
async def test_both_ways(chain: Chains, splicing: Splicing, near: str, far: str, seed: int) -> None:
    """Pieces of all sizes, both ways at the same time, with readers that stop now and then."""
    joined = await chain(near, far)
    chance = random.Random(seed)
    sent: list[bytes] = [b"", b""]
    ends = (joined.left, joined.right)
    for number in range(40):
        if number % 10 == 0:
            joined.send_buffers(SMALL if number == 10 else LARGE)
        for which, end in enumerate(ends):
            data = chance.randbytes(chance.choice([1, 100, 5_000, 70_000, 300_000]))
            sent[which] += data
            end.send(data)
            chance.choice([end.transport.pauseProducing, end.transport.resumeProducing])()
        await turns(chance.randrange(1, 5))
    for end, data in zip(ends, reversed(sent), strict=True):
        end.transport.resumeProducing()
        await end.has(len(data))
        assert end.data == data
    counted = [(end.bytes_in, end.bytes_out) for end in joined.protocols()]
    assert counted == [(len(sent[0]) + 1, len(sent[1]) + 1), (len(sent[1]) + 1, len(sent[0]) + 1)]
    assert splicing.read > len(MEGABYTE)
    # What has not been spliced on has been in a buffer.
    assert 0 < splicing.written <= splicing.read


@every_direction
@pytest_twisted.ensureDeferred
async def test_only_much(
    chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool
) -> None:
    """The first 256 KiB, and what is little, go without a pipe, before and after what is much."""
    joined = await chain(near, far)
    fast, slow = joined.ends(backwards)
    source = joined.middle(not backwards)
    joined.send_buffers(LARGE)
    fast.send(MEGABYTE[:200_000])
    await slow.has(200_000)
    assert splicing.read == 0
    fast.send(MEGABYTE)
    await slow.has(200_000 + len(MEGABYTE))
    read = splicing.read
    assert read > 100_000
    for _ in range(3):
        fast.send(b"little")
        await slow.receives(b"little")
        slow.data = b""
    assert "doRead" not in vars(source)
    assert splicing.read <= read + 6


@pytest.mark.parametrize("kinds", [("unix", "tcp"), ("unix", "unix"), ("tls", "tcp"), ("tcp", "tls")])
@pytest_twisted.ensureDeferred
async def test_not_between(chain: Chains, splicing: Splicing, kinds: tuple[str, str]) -> None:
    """What comes from UNIX sockets, and what is not between two bare sockets, goes without a pipe."""
    joined = await chain(*kinds)
    joined.left.send(3 * MEGABYTE)
    await joined.right.has(3 * len(MEGABYTE))
    assert joined.right.data == 3 * MEGABYTE
    assert splicing.read == 0


# Descriptors.


@every_direction
@pytest_twisted.ensureDeferred
async def test_none_is_held(
    chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool
) -> None:
    """Between the reactor's turns, a pipe is neither open nor has anything in it."""
    joined = await chain(near, far)
    fast, slow = joined.ends(backwards)
    middle = joined.protocols()
    fast.send(5 * MEGABYTE)
    while slow.amount < 5 * len(MEGABYTE):
        assert not splicing.held()
        assert sum(end.bytes_in for end in middle) == sum(end.bytes_out for end in middle)
        await turns(1)
    assert slow.data == 5 * MEGABYTE
    assert splicing.read > len(MEGABYTE)
    assert splicing.opened


def no_pipe(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def no_room(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(
    ("where", "name", "instead"),
    [
        (os, "pipe2", no_pipe),
        (pipes, "fcntl", SimpleNamespace(fcntl=no_room, F_SETPIPE_SZ=0)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_there_is_none(
    chain: Chains,
    splicing: Splicing,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    instead: Any,
) -> None:
    """If no pipe can be had, or no large one, all goes without; as soon as one can be, with one."""
    joined = await chain("tcp", "tcp")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, instead)
        joined.left.send(3 * MEGABYTE)
        await joined.right.has(3 * len(MEGABYTE))
        assert splicing.read == 0
        assert not splicing.held()
    joined.left.send(3 * MEGABYTE)
    await joined.right.has(6 * len(MEGABYTE))
    assert joined.right.data == 6 * MEGABYTE
    assert splicing.read > 0


@pytest_twisted.ensureDeferred
async def test_no_splice(chain: Chains, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python has no ``os.splice``, all goes without."""
    monkeypatch.delattr(os, "splice")
    joined = await chain("tcp", "tcp")
    joined.left.send(3 * MEGABYTE)
    await joined.right.has(3 * len(MEGABYTE))
    assert joined.right.data == 3 * MEGABYTE


# Back-pressure.


@every_direction
@pytest_twisted.ensureDeferred
async def test_reader_that_stops(
    chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool
) -> None:
    """
    Reading stops as soon as the sink's kernel takes no more; what waits is known, and bounded. When the
    sink reads on, so does the source.
    """
    flow = await piped(chain, near, far, backwards)
    held = _twisted.unsent(flow.sink)
    assert 0 < held <= MOST
    # The opposite direction goes on.
    flow.slow.send(MEGABYTE)
    await flow.fast.has(len(MEGABYTE))
    assert _twisted.unsent(flow.sink) <= held
    assert flow.slow.amount < len(flow.sent)
    await flow.arrives()
    assert _twisted.unsent(flow.sink) == 0
    assert splicing.read > len(MEGABYTE)


@every_direction
@pytest_twisted.ensureDeferred
async def test_slow_reader(
    chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool
) -> None:
    """However little a reader takes at a time, what waits is bounded."""
    flow = await piped(chain, near, far, backwards)
    most = 0
    while flow.slow.amount < len(flow.sent):
        flow.slow.transport.resumeProducing()
        await turns(1)
        flow.slow.transport.pauseProducing()
        await turns(1)
        most = max(most, _twisted.unsent(flow.sink))
    assert most <= MOST
    await flow.arrives()


@every_direction
@pytest_twisted.ensureDeferred
async def test_written_by_others(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """What somebody writes to the sink comes behind what waits there, and before what comes later."""
    flow = await piped(chain, near, far, backwards)
    before = flow.end.bytes_in - 1
    flow.sink.write(b"in between")
    flow.slow.transport.resumeProducing()
    await flow.slow.has(len(flow.sent) + 10)
    assert flow.slow.data == flow.sent[:before] + b"in between" + flow.sent[before:]


@every_direction
@pytest_twisted.ensureDeferred
async def test_nothing_overtakes(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """While something waits in the sink's buffer, nothing is moved, though the kernel has room."""
    flow = await piped(chain, near, far, backwards)
    before = flow.end.bytes_in
    flow.slow.data += flow.slow.transport.socket.recv(10_000_000)
    # The reactor does not know of it yet, and might ask the source first.
    assert flow.source.doRead() is None
    assert flow.end.bytes_in == before
    await flow.arrives()


# Ends.


@every_direction
@pytest_twisted.ensureDeferred
async def test_half_close(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """A FIN arrives behind everything, and the opposite direction goes on, with as much."""
    flow = await piped(chain, near, far, backwards)
    flow.fast.transport.loseWriteConnection()
    await turns(10)
    assert "read lost" not in flow.slow.events
    await flow.arrives()
    await flow.slow.sees_end()
    assert "lost" not in flow.slow.events
    flow.slow.send(4 * MEGABYTE)
    await flow.fast.has(4 * len(MEGABYTE))
    assert flow.fast.data == 4 * MEGABYTE
    flow.slow.transport.loseWriteConnection()
    await flow.joined.done
    await flow.fast.sees_end()
    assert (flow.fast.reason, flow.slow.reason) == (None, None)


@every_direction
@pytest_twisted.ensureDeferred
async def test_clean_end(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """An end that closes behind much closes the other one when that has read all of it."""
    flow = await piped(chain, near, far, backwards, ClosingCollector)
    flow.fast.transport.loseConnection()
    await turns(10)
    assert not flow.joined.done.called
    await flow.arrives()
    await flow.slow.is_lost()
    assert flow.slow.reason.check(ConnectionDone)
    await flow.joined.done


def unread(transport: Any) -> int:
    """How many bytes its socket has received, and nobody has read."""
    return len(transport.socket.recv(10_000_000, socket.MSG_PEEK))


@over_tcp
@pytest_twisted.ensureDeferred
async def test_reset(chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool) -> None:
    """A reset is passed on as one, behind everything that had been received before it."""
    flow = await piped(chain, near, far, backwards, ClosingCollector)
    flow.fast.transport.abortConnection()
    await flow.fast.is_lost()
    await turns(10)
    assert not flow.joined.done.called
    received = flow.end.bytes_in - 1 + unread(flow.source)
    read = splicing.read
    flow.slow.transport.resumeProducing()
    await flow.slow.is_lost()
    assert flow.slow.data == flow.sent[:received]
    assert flow.slow.reason.check(ConnectionLost)
    await flow.joined.done
    assert splicing.read > read


@pytest_twisted.ensureDeferred
async def test_reset_from_the_sink(chain: Chains, splicing: Splicing) -> None:
    """A sink that is reset in the middle resets the source, and all descriptors are closed."""
    flow = await piped(chain, "tcp", "tcp", False, ClosingCollector)
    sockets = flow.joined.sockets()
    flow.slow.transport.abortConnection()
    await flow.fast.is_lost()
    assert flow.fast.reason.check(ConnectionLost)
    await flow.joined.done
    await turns()
    assert not sockets & open_files()
    assert not splicing.held()


@every_direction
@pytest_twisted.ensureDeferred
async def test_aborted(chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool) -> None:
    """Cancelling ends both, whatever waits, and closes all descriptors."""
    flow = await piped(chain, near, far, backwards, ClosingCollector)
    sockets = flow.joined.sockets()
    flow.joined.done.cancel()
    with pytest.raises(CancelledError):
        await flow.joined.done
    flow.slow.transport.resumeProducing()
    await flow.fast.is_lost()
    await flow.slow.is_lost()
    assert flow.slow.amount < len(flow.sent)
    await turns()
    assert not sockets & open_files()
    assert not splicing.held()


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("how", ["clean", "fast aborts", "slow aborts", "cancelled"])
@every_direction
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(chain: Chains, near: str, far: str, backwards: bool, how: str) -> None:
    """However it ends in the middle, reference counting alone frees the splice and its ends."""
    flow: Any = await piped(chain, near, far, backwards, ClosingCollector)
    watched = [ref(end) for end in flow.joined.protocols()] + [ref(flow.end.splice)]
    flow.joined.done.addErrback(lambda reason: None)
    if how == "clean":
        flow.fast.transport.loseConnection()
    elif how == "cancelled":
        flow.joined.done.cancel()
    else:
        (flow.fast if how == "fast aborts" else flow.slow).transport.abortConnection()
    flow.slow.transport.resumeProducing()
    await flow.fast.is_lost()
    await flow.slow.is_lost()
    await flow.joined.done
    flow.joined.done = Deferred()
    flow = None
    await turns()
    assert [weak() for weak in watched] == [None] * 3


@every_direction
@pytest_twisted.ensureDeferred
async def test_taken_over(
    chain: Chains, splicing: Splicing, near: str, far: str, backwards: bool
) -> None:
    """Somebody who takes the source's place gets everything from then on."""
    flow = await piped(chain, near, far, backwards)
    taken = flow.end.bytes_in - 1
    other = Collector()
    _twisted.slot_of(flow.source).set(other)
    other.makeConnection(flow.source)
    read = splicing.read
    flow.sink.unregisterProducer()
    flow.source.resumeProducing()
    await other.has(len(flow.sent) - taken)
    assert other.data == flow.sent[taken:]
    assert splicing.read == read
    assert "doRead" not in vars(flow.source)


# Errors.


@over_tcp
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNRESET, ConnectionLost),
        (errno.EINVAL, ConnectionDone),
        (errno.ENOMEM, ConnectionDone),
    ],
)
@pytest_twisted.ensureDeferred
async def test_error_of_the_source(
    chain: Chains,
    splicing: Splicing,
    near: str,
    far: str,
    backwards: bool,
    number: int,
    reason: type,
) -> None:
    """
    The kernel reports an error only once. It is remembered, so that what is read next does not pass
    for a clean end. Where ``splice`` is not possible, the connection goes on without it.
    """
    flow = await piped(chain, near, far, backwards, ClosingCollector)
    splicing.errors[True] = [number]
    flow.fast.transport.loseConnection()
    flow.slow.transport.resumeProducing()
    await flow.slow.is_lost()
    assert flow.slow.data == flow.sent
    assert flow.slow.reason.check(reason)
    assert splicing.errors[True] == []


@over_tcp
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNRESET, ConnectionLost),
        (errno.EINVAL, ConnectionDone),
        (errno.ENOMEM, ConnectionDone),
    ],
)
@pytest_twisted.ensureDeferred
async def test_error_of_the_sink(
    chain: Chains,
    splicing: Splicing,
    near: str,
    far: str,
    backwards: bool,
    number: int,
    reason: type,
) -> None:
    """The same of the sink: what its peer has sent arrives, and then what the end really was."""
    flow = await piped(chain, near, far, backwards, ClosingCollector)
    splicing.errors[False] = [number]
    flow.slow.transport.resumeProducing()
    await eventually(lambda: not splicing.errors[False])
    await flow.arrives()
    flow.slow.send(b"goodbye")
    flow.slow.transport.loseConnection()
    await flow.fast.is_lost()
    assert flow.fast.data == b"goodbye"
    assert flow.fast.reason.check(reason)


# What moves.


def test_idle() -> None:
    """What goes through a pipe is not idle; when it has stopped, it is."""
    clock = Clock()
    near, far = SpliceEnd(), SpliceEnd()
    joined = Splice(near, far, reactor=clock)
    transports = [StringTransport(), StringTransport()]
    for end, transport in zip((near, far), transports, strict=True):
        end.makeConnection(transport)
    joined.limit_idleness(clock, 10)
    clock.advance(9)
    near.piped(5)
    assert (near.bytes_in, far.bytes_out) == (5, 5)
    clock.advance(9.5)
    assert not any(transport.disconnecting for transport in transports)
    clock.advance(1)
    assert all(transport.disconnecting for transport in transports)
