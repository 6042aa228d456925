"""
How a splice passes on the end of one side: as what it was, after everything that came before.

The chain of transports is that of ``test_splice``.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.kit.farside import KINDS, MEGABYTE, SMALL, Chains, ClosingCollector, settled
from tests.kit.polled import readers
from tests.kit.waiting import eventually, turns
from upgrade_switch import _twisted, sending
from upgrade_switch.half_closed import HalfClosed

both_directions = pytest.mark.parametrize("backwards", [False, True], ids=["onwards", "backwards"])
half_closing = pytest.mark.parametrize(
    ("near", "far"), [(near, far) for near in KINDS for far in KINDS if "tls" not in (near, far)]
)
every_kind = pytest.mark.parametrize("other", KINDS)


def names(kind: str, other: str, backwards: bool) -> tuple[str, str]:
    return (other, kind) if backwards else (kind, other)


def is_error(end: Any, kind: str) -> bool:
    """Whether an end has heard of an error; UNIX sockets have none to tell of."""
    return kind == "unix" or not end.reason.check(ConnectionDone)


@both_directions
@every_kind
@pytest_twisted.ensureDeferred
async def test_reset(chain: Chains, other: str, backwards: bool) -> None:
    """A reset is passed on as one, when everything that had been received has been read."""
    joined = await chain(*names("tcp", other, backwards), make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    sent = await joined.fill(backwards)
    fast.transport.abortConnection()
    await turns(10)
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert slow.data == sent
    assert is_error(slow, other)
    await joined.done


@pytest_twisted.ensureDeferred
async def test_reset_towards_tls_that_sends_at_once(chain: Chains) -> None:
    """A client over TLS is not told of a clean end either where its connection sends at once."""
    joined = await chain("tls at once", "tcp", make=ClosingCollector)
    joined.left.transport.pauseProducing()
    joined.right.transport.abortConnection()
    await joined.done
    with pytest.raises(ConnectionResetError):
        _twisted.bottom(joined.left.transport).socket.recv(100)


@pytest.mark.parametrize("near", ["tls", "tls at once"])
@both_directions
@pytest_twisted.ensureDeferred
async def test_clean_end_of_a_reader_that_stops(chain: Chains, near: str, backwards: bool) -> None:
    """
    An end that has not read all, and closes all the same, ends the other one, whose reading has been
    paused: with TLS, its peer's answer has to be read.
    """
    joined = await chain(near, "tls", make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    source = _twisted.bottom(joined.middle(not backwards))
    joined.send_buffers(32768)
    slow.transport.pauseProducing()
    fast.send(3 * MEGABYTE)
    await eventually(lambda: source not in readers())
    # It says so, and does not wait for an answer.
    slow.transport.loseConnection()
    _twisted.bottom(slow.transport).loseConnection()
    await joined.done
    await fast.is_lost()


@both_directions
@pytest_twisted.ensureDeferred
async def test_reset_of_both(chain: Chains, backwards: bool) -> None:
    """
    An end that has finished sending, and is reset with bytes on their way to it, is not waited for when
    the other one is reset, too. (Nobody reads it, so nobody has been told.)
    """
    joined = await chain("tcp", "tcp")
    gone, other = joined.ends(backwards)
    source = joined.middle(not backwards)
    gone.transport.pauseProducing()
    gone.transport.loseWriteConnection()
    await other.sees_end()
    # All of it goes to the kernel, which holds it.
    source.setTcpNoDelay(True)
    source.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    while sending.remaining(source) < 100_000:
        other.send(MEGABYTE[:50_000])
        await settled(lambda: (_twisted.unsent(source), sending.remaining(source)))
    assert not _twisted.unsent(source)
    gone.transport.abortConnection()
    await gone.is_lost()
    other.transport.abortConnection()
    await joined.done


@both_directions
@every_kind
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_tls_without_alert(chain: Chains, other: str, how: str, backwards: bool) -> None:
    """TLS that ends without close_notify, by a FIN or a reset, has been cut off."""
    joined = await chain(*names("tls", other, backwards), make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    sent = await joined.fill(backwards)
    getattr(_twisted.bottom(fast.transport), how)()
    await turns(10)
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert slow.data == sent
    assert is_error(slow, other)
    await joined.done


@both_directions
@every_kind
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_forgiven(chain: Chains, other: str, how: str, backwards: bool) -> None:
    """With ``forgive_truncation``, TLS that ends without close_notify closes the other side cleanly."""
    joined = await chain(*names("tls", other, backwards), make=ClosingCollector, spliced=False)
    joined.splice(forgive_truncation=True)
    await joined.greet()
    fast, slow = joined.ends(backwards)
    sent = await joined.fill(backwards)
    getattr(_twisted.bottom(fast.transport), how)()
    await turns(10)
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert slow.data == sent
    assert slow.reason.check(ConnectionDone)
    await joined.done


@both_directions
@pytest_twisted.ensureDeferred
async def test_alert_and_reset(chain: Chains, backwards: bool) -> None:
    """What a TLS side has said before its close_notify is complete, even if TCP ends with a reset."""
    joined = await chain(*names("tls", "tcp", backwards), make=ClosingCollector)
    fast, slow = joined.ends(backwards)
    fast.send(MEGABYTE)
    middle = _twisted.bottom(joined.middle(not backwards))
    # The answer to the alert finds a connection that has been reset.
    middle.loseConnection = lambda: middle.reactor.callLater(0, middle.connectionLost, reset)
    reset = Failure(ConnectionLost())
    fast.transport.loseConnection()
    await slow.is_lost()
    assert slow.data == MEGABYTE
    assert slow.reason.check(ConnectionDone)
    del middle.loseConnection
    await joined.done


@both_directions
@pytest_twisted.ensureDeferred
async def test_answer_to_our_alert_is_a_fin(chain: Chains, backwards: bool) -> None:
    """A peer that answers our close_notify by closing TCP has cut nothing off."""
    joined = await chain(*names("tls", "tcp", backwards), make=ClosingCollector)
    closing, other = joined.ends(backwards)
    middle = joined.middle(not backwards)
    # The middle closes first, as where the other side has no half-close.
    beneath = _twisted.bottom(closing.transport)
    beneath.protocol.dataReceived = lambda data: beneath.loseConnection()
    middle.unregisterProducer()
    middle.loseConnection()
    await other.is_lost()
    assert other.reason.check(ConnectionDone)
    await joined.done


@both_directions
@every_kind
@pytest_twisted.ensureDeferred
async def test_aborted_from_outside(chain: Chains, other: str, backwards: bool) -> None:
    """A TLS side that the server itself aborts, as after a drain, is no clean end for the other."""
    joined = await chain(*names("tls", other, backwards), make=ClosingCollector)
    aborted, heard = joined.ends(backwards)
    heard_by = joined.middle(not backwards)
    _twisted.abort(heard_by)
    await heard.is_lost()
    await aborted.is_lost()
    assert is_error(heard, other)
    await joined.done


@both_directions
@pytest.mark.parametrize("other", [kind for kind in KINDS if kind != "unix"])
@pytest_twisted.ensureDeferred
async def test_stuck(chain: Chains, other: str, backwards: bool) -> None:
    """
    The reset comes without the rest when nothing has been taken for 60 seconds.

    (The end of a UNIX socket is never an error, and so there is nothing to pass on as a reset.)
    """
    clock = Clock()
    joined = await chain(*names("tcp", other, backwards), make=ClosingCollector, spliced=False)
    joined.splice(reactor=clock)
    await joined.greet()
    fast, slow = joined.ends(backwards)
    sent = await joined.hold(MEGABYTE, backwards)
    fast.transport.abortConnection()
    await fast.is_lost()
    await eventually(lambda: bool(clock.getDelayedCalls()))
    clock.pump([1] * 59)
    assert not joined.done.called
    # The minute begins anew where the kernel has had room for a little more.
    for _ in range(600):
        clock.advance(1)
        if joined.done.called:
            break
        await turns(1)
    await joined.done
    assert clock.getDelayedCalls() == []
    slow.transport.resumeProducing()
    await slow.is_lost()
    assert len(slow.data) < len(sent)
    assert slow.reason.check(ConnectionLost)


class Sending:
    """Stands for a transport that has some bytes to send, and for what the kernel still has of them."""

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Sending:
    monkeypatch.setattr(sending, "remaining", lambda transport: transport.remaining)
    return Sending(100)


def watch(transport: Sending, clock: Clock) -> tuple[sending.SendingWatch, list[str]]:
    told: list[str] = []
    watching = sending.SendingWatch(
        transport, clock, lambda: told.append("sent"), lambda: told.append("stuck")
    )
    return watching, told


@every_kind
@both_directions
@pytest_twisted.ensureDeferred
async def test_goodbye_of_tls_while_full(chain: Chains, other: str, backwards: bool) -> None:
    """TLS that says goodbye while much waits for it has ended as soon as that has been sent."""
    row = await chain(*names("tls", other, backwards))
    left, right = row.ends(backwards)
    # Towards the end that has TLS.
    row.send_buffers(SMALL)
    left.transport.pauseProducing()
    right.send(MEGABYTE * 8)
    full = _twisted.bottom(row.middle(not backwards))
    await eventually(lambda: full.producerPaused)
    left.transport.loseConnection()
    await eventually(lambda: full.disconnecting)
    left.transport.resumeProducing()
    await left.is_lost()
    await row.done
    await right.sees_end()


def test_watch_of_nothing(watched: Sending) -> None:
    """A transport with nothing left to send is told of at once."""
    watched.remaining = 0
    clock = Clock()
    watching, told = watch(watched, clock)
    assert (told, watching.active, clock.getDelayedCalls()) == (["sent"], False, [])


def test_watch_of_slow_reader(watched: Sending) -> None:
    """As long as anything is taken at least once a minute, the watch waits, however long that is."""
    clock = Clock()
    watching, told = watch(watched, clock)
    for remaining in range(99, 0, -1):
        clock.pump([1] * 58)
        watched.remaining = remaining
    assert told == []
    assert watching.active
    watched.remaining = 0
    clock.pump([1, 1])
    assert (told, clock.getDelayedCalls()) == (["sent"], [])


def test_watch_of_stuck_reader(watched: Sending) -> None:
    """The minute begins anew when something is taken; more that is written does not count as that."""
    clock = Clock()
    _, told = watch(watched, clock)
    clock.pump([1] * 40)
    watched.remaining = 50
    clock.pump([1] * 40)
    watched.remaining = 90
    clock.pump([1] * 19)
    assert told == []
    clock.pump([1] * 4)
    assert (told, clock.getDelayedCalls()) == (["stuck"], [])


def test_watch_cancelled(watched: Sending) -> None:
    """A watch that is cancelled says nothing any more, and leaves no timer; also the second time."""
    clock = Clock()
    watching, told = watch(watched, clock)
    watching.cancel()
    watching.cancel()
    clock.advance(100)
    assert (told, clock.getDelayedCalls()) == ([], [])


@both_directions
@half_closing
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest_twisted.ensureDeferred
async def test_gone_behind_its_half_close(chain: Chains, near: str, far: str, backwards: bool) -> None:
    """
    A side that has finished sending, and is reset then, is noticed though the other side says nothing;
    one that is still there is left alone.
    """
    clock = Clock()
    joined = await chain(near, far, spliced=False)
    joined.splice(reactor=clock)
    await joined.greet()
    first, second = joined.ends(backwards)
    first.transport.loseWriteConnection()
    await second.sees_end()
    clock.pump([10] * 20)
    second.send(b"still here")
    await first.has(10)
    first.transport.abortConnection()
    await first.is_lost()
    await eventually(lambda: clock.advance(10) or joined.done.called)
    await joined.done
    # Nobody looks at this one either until it writes.
    second.send(b"anybody?")
    await second.is_lost()
    assert clock.getDelayedCalls() == []


@half_closing
@pytest_twisted.ensureDeferred
async def test_half_closes_leave_nothing(chain: Chains, near: str, far: str) -> None:
    """When both sides have finished, nothing looks after them any more."""
    clock = Clock()
    joined = await chain(near, far, spliced=False)
    joined.splice(reactor=clock)
    await joined.greet()
    joined.left.transport.loseWriteConnection()
    await joined.right.sees_end()
    joined.right.transport.loseWriteConnection()
    await joined.done
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("timed_out", [False, True])
def test_why_it_is_gone(monkeypatch: pytest.MonkeyPatch, timed_out: bool) -> None:
    """What TCP has given up itself has timed out; anything else was lost."""
    for name, answer in (("has_died", True), ("has_timed_out", timed_out)):
        monkeypatch.setattr(_twisted, name, lambda transport, answer=answer: answer)
    told: list[Exception] = []
    clock = Clock()
    HalfClosed(object(), clock, told.append)
    clock.pump([10] * 9)
    assert [*map(type, told)] == [TimeoutError if timed_out else ConnectionLost]
    assert clock.getDelayedCalls() == []
