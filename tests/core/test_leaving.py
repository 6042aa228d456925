"""
Many connections that end at a time: they end in several turns of the reactor, so that nobody else waits
for all of them. The time that an end takes is the test's.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost

from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    reactor,
    site_of,
    switched_clients,
    turns,
)
from tests.kit.waiting import eventually
from upgrade_switch._twisted.at_once import note_error
from upgrade_switch._twisted.leaving import Leaving

at_once = pytest.mark.parametrize("kind", ["tcp at once", "unix at once"])

COUNT = 6

TWO_IN_A_TURN = 0.006


class Slow:
    """A clock that goes on by so many seconds whenever it is looked at."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Crowd:
    """Clients that have switched, and end together; and their targets."""

    def __init__(self, listening: Any, clients: list[Any], targets: list[Any]) -> None:
        self.listening = listening
        self.clients = clients
        self.targets = targets

    def take(self, step: float) -> None:
        """Have each end take so many seconds, from now on."""
        self.listening.port.transport.leaving = Leaving(reactor, Slow(step))

    def leave(self) -> None:
        """All clients go, before the reactor has its next turn."""
        for client in self.clients:
            client.transport.socket.shutdown(socket.SHUT_WR)

    @property
    def ended(self) -> list[bool]:
        return ["lost" in target.events for target in self.targets]


async def crowd(listen: Any, kind: str, make: Callable[[], Any] = Recorder) -> Crowd:
    factory, targets = factory_of(make)
    listening = await listen(kind, site_of({"echo": factory}))
    return Crowd(listening, await switched_clients(listening, COUNT), targets)


@at_once
@pytest_twisted.ensureDeferred
async def test_all_at_once(kind: str, listen: Any) -> None:
    """As long as there is time, all end in the turn in which their ends have come."""
    many = await crowd(listen, kind)
    many.take(0.0001)
    many.leave()
    await eventually(lambda: any(many.ended))
    assert all(many.ended)


@at_once
@pytest_twisted.ensureDeferred
async def test_in_turns(kind: str, listen: Any) -> None:
    """Where ends take long, some are told in each turn; everybody is, once, and of a clean end."""
    many = await crowd(listen, kind)
    many.take(TWO_IN_A_TURN)
    many.leave()
    seen = [0]
    while seen[-1] < COUNT:
        await turns(1)
        if sum(many.ended) > seen[-1]:
            seen.append(sum(many.ended))
    assert seen == [0, 2, 4, 6]
    assert {target.events.count("lost") for target in many.targets} == {1}
    assert {type(target.reason.value) for target in many.targets} == {ConnectionDone}
    assert len(many.listening.site.switched) == 0


@at_once
@pytest_twisted.ensureDeferred
async def test_others(kind: str, listen: Any) -> None:
    """Somebody else has an answer before all have ended."""
    many = await crowd(listen, kind, EchoTarget)
    many.take(TWO_IN_A_TURN)
    *leaving, stays = many.clients
    many.clients = leaving
    ended: list[int] = []
    receiving = many.targets[COUNT - 1].until(lambda: many.targets[COUNT - 1].amount > 0)
    receiving.addCallback(lambda _: ended.append(sum(many.ended)))
    many.leave()
    stays.send(b"hello")
    await stays.receives(b"hello")
    assert ended[0] < len(leaving)
    await eventually(lambda: sum(many.ended) == len(leaving))


@pytest_twisted.ensureDeferred
async def test_resets(listen: Any) -> None:
    """A reset that has to wait, which the kernel tells of once, is still one."""
    many = await crowd(listen, "tcp at once")
    many.take(TWO_IN_A_TURN)
    for client in many.clients:
        client.transport.abortConnection()
    await eventually(lambda: all(many.ended))
    assert {type(target.reason.value) for target in many.targets} == {ConnectionLost}


@at_once
@pytest_twisted.ensureDeferred
async def test_half_closes(kind: str, listen: Any) -> None:
    """A target that takes half-closes is told of one, and can still answer."""
    many = await crowd(listen, kind, HalfCloseRecorder)
    many.take(TWO_IN_A_TURN)
    many.leave()
    await eventually(lambda: all(target.events[-1] == "read lost" for target in many.targets))
    for target, client in zip(many.targets, many.clients, strict=True):
        target.send(b"still here")
        await client.receives(b"still here")
        target.transport.loseConnection()
        await target.is_lost()
    assert [target.events for target in many.targets] == [["made", "read lost", "lost"]] * COUNT


async def leave(many: Any) -> list[Any]:
    """Have all clients leave; the targets whose ends wait."""
    many.leave()
    waiting: list[Any] = []
    while not waiting:
        await turns(1)
        waiting = [target for target in many.targets if target.transport.why is not None]
    return waiting


@at_once
@pytest_twisted.ensureDeferred
async def test_pauses(kind: str, listen: Any) -> None:
    """A target that pauses while its end waits is told when it reads again, as ever."""
    many = await crowd(listen, kind)
    many.take(TWO_IN_A_TURN)
    waiting = await leave(many)
    waiting[-1].transport.pauseProducing()
    await eventually(lambda: sum(many.ended) == COUNT - 1)
    await turns()
    assert "lost" not in waiting[-1].events
    waiting[-1].transport.resumeProducing()
    await waiting[-1].is_lost()
    assert all(many.ended)


@at_once
@pytest_twisted.ensureDeferred
async def test_closes(kind: str, listen: Any) -> None:
    """A target that closes while its end waits is told once."""
    many = await crowd(listen, kind)
    many.take(TWO_IN_A_TURN)
    waiting = await leave(many)
    waiting[0].transport.loseConnection()
    waiting[-1].transport.abortConnection()
    await eventually(lambda: all(many.ended))
    await turns()
    assert {target.events.count("lost") for target in many.targets} == {1}


@pytest_twisted.ensureDeferred
async def test_error_while_sending(listen: Any) -> None:
    """An end that waits is not reported as clean if a write has met a reset."""
    many = await crowd(listen, "tcp at once")
    many.take(TWO_IN_A_TURN)
    for target in many.targets:
        note_error(target.transport, ConnectionResetError(errno.ECONNRESET, "on purpose"))
    many.leave()
    await eventually(lambda: all(many.ended))
    assert {type(target.reason.value) for target in many.targets} == {ConnectionLost}
