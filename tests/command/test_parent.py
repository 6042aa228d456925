"""
The parent of ``serve --workers``, with workers that hang, or end at the wrong moment.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.error import ProcessTerminated
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from tests.kit.commands import LOCAL
from upgrade_switch.command.server.options import ServeOptions
from upgrade_switch.command.server.shared_status import SharedStatus
from upgrade_switch.command.server.systemd import Notifier
from upgrade_switch.command.server.workers import Workers


class Worker:
    """Stands in for a process: what it has been told, and what it says."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.messages: list[dict[str, Any]] = []
        self.is_killed = False
        self.producer: Any = None
        self.pipes = {3: self}
        protocol.transport = self

    @property
    def told(self) -> list[str]:
        """What it has been told, but for questions whether it is there."""
        return [message["say"] for message in self.messages if message["say"] != "beat"]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        self.messages.append(json.loads(data))

    def signalProcess(self, name: str) -> None:
        assert name == "KILL"
        self.is_killed = True

    def says(self, kind: str, **message: Any) -> None:
        self._protocol.childDataReceived(4, json.dumps({"say": kind, **message}).encode() + b"\n")

    def ends(self, signal: int | None = 9) -> None:
        self._protocol.processEnded(Failure(ProcessTerminated(0, signal, None)))


class Reactor(MemoryReactorClock):
    """A reactor with real sockets, for workers to inherit, and with stand-ins for processes."""

    def __init__(self) -> None:
        super().__init__()
        self.running = True
        self.workers: list[Worker] = []
        self.rooms: list[bool] = []
        self.has_stopped = 0

    def listenTCP(self, *args: Any, **kwargs: Any) -> Any:
        port: Any = super().listenTCP(*args, **kwargs)
        port.socket = socket.socket()
        port.fileno = port.socket.fileno
        port.stopReading = lambda: None
        port.stopListening = port.socket.close
        return port

    def spawnProcess(self, protocol: Any, *_: object, **__: object) -> None:
        if self.rooms and not self.rooms.pop(0):
            raise OSError(11, "no room")
        self.workers.append(Worker(protocol))

    def callWhenRunning(self, call: Any, *args: object, **kwargs: object) -> None:
        # It runs, which that of older Twisteds does not know.
        call(*args, **kwargs)

    def stop(self) -> None:
        self.has_stopped += 1


class Parent:
    """A parent of two workers, and what it says."""

    def __init__(
        self,
        capsys: pytest.CaptureFixture[str],
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.reactor = Reactor()
        self._capsys = capsys
        parsed = ServeOptions()
        parsed.parseOptions(["--listen", LOCAL, "--workers", "2", *options])
        clock: Any = self.reactor
        self.workers = Workers(clock, parsed, Notifier(clock, environment or {}))
        self.workers.startService()

    def says(self) -> list[str]:
        lines = self._capsys.readouterr().err.splitlines()
        return [line.removeprefix("upgrade-switch: ") for line in lines]

    def new(self, count: int = 2) -> list[Worker]:
        """The workers that it has started last."""
        return self.reactor.workers[-count:]

    def begins(self) -> list[Worker]:
        """Its first workers, which serve."""
        workers = self.take_over(self.new())
        assert [line.split(" on ")[0] for line in self.says()] == ["listening"]
        return workers

    def time_passes(self, seconds: int, answering: Sequence[Worker] = ()) -> None:
        """Second by second, in which these answer that they are there."""
        for _ in range(seconds):
            for worker in answering:
                worker.says("beat")
            self.reactor.advance(1)

    @staticmethod
    def take_over(workers: list[Worker]) -> list[Worker]:
        for worker in workers:
            worker.says("built")
        for worker in workers:
            worker.says("done")
        return workers


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """What the parent finds: enough to start two workers at once while others serve."""
    cores = set(range(4))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    return cores


RELOADED = "has reloaded its options"


@pytest.fixture
def parent(capsys: pytest.CaptureFixture[str]) -> Any:
    parent = Parent(capsys)
    yield parent
    parent.workers.stopService()


def test_old_worker_hangs(parent: Parent) -> None:
    """One that is stopped, and does not say that it has retired, holds no reload up for ever."""
    before = parent.begins()
    parent.workers.reload()
    after = parent.take_over(parent.new())
    before[0].says("done")
    # And the next one waits.
    parent.workers.reload()
    assert (parent.says(), len(parent.reactor.workers)) == ([], 4)
    parent.reactor.advance(60)
    assert (parent.says(), len(parent.reactor.workers)) == ([RELOADED], 6)
    parent.take_over(parent.new())
    for worker in (before[0], *after):
        worker.says("done")
    assert parent.says() == []
    parent.reactor.advance(60)
    assert parent.says() == [RELOADED]
    # It is awake again, and too late.
    before[1].says("done")
    parent.reactor.advance(60)
    assert parent.says() == []
    assert not before[1].is_killed


def test_new_worker_hangs(parent: Parent) -> None:
    """New workers that never can serve are given up, and the old ones go on."""
    before = parent.begins()
    parent.workers.reload()
    hanging = parent.new()
    hanging[0].says("built")
    parent.reactor.advance(60)
    assert parent.says() == ["not reloaded, nothing changed: no worker after 60 s"]
    assert [worker.is_killed for worker in hanging] == [True, True]
    assert "retire" not in before[0].told
    parent.workers.reload()
    # Of the time of before, nothing is left.
    parent.reactor.advance(59)
    parent.take_over(parent.new())
    for worker in before:
        worker.says("done")
    assert parent.says() == [RELOADED]


def test_few_cores(parent: Parent, cores: set[int]) -> None:
    """
    While others serve, no more workers start at once than half of the cores can take; each has a
    minute, however many there are.
    """
    before = parent.begins()
    cores -= {1, 2, 3}
    parent.workers.reload()
    (first,) = parent.new(len(parent.reactor.workers) - 2)
    parent.time_passes(58, before)
    first.says("built")
    assert len(parent.reactor.workers) == 4
    parent.time_passes(58, [first, *before])
    assert "listen" not in first.told
    parent.new(1)[0].says("built")
    for worker in parent.reactor.workers:
        worker.says("done")
    assert parent.says() == [RELOADED]


def test_no_room_for_new_workers(parent: Parent) -> None:
    """If there is no room for one of the new workers, nothing changes, and no other one is started."""
    parent.begins()
    parent.reactor.rooms = [False, True]
    parent.workers.reload()
    assert parent.says() == ["not reloaded, nothing changed: no room"]
    assert len(parent.reactor.workers) == 2


def test_end_while_they_take_over(parent: Parent) -> None:
    """Who is going down says nothing of a reload any more."""
    before = parent.begins()
    parent.workers.reload()
    for worker in parent.new():
        worker.says("built")
    after = parent.new()
    parent.workers.stopService()
    for worker in (*before, *after):
        assert worker.told[-1] == "stop"
        worker.says("done")
        worker.ends()
    assert parent.says() == []
    assert not parent.reactor.getDelayedCalls()


def test_all_find_the_same_wrong(parent: Parent) -> None:
    """What all workers find wrong at the start is said once."""
    for worker in parent.new():
        worker.says("wrong", why="nonsense")
    for worker in parent.new():
        worker.ends()
    assert parent.says() == ["serve: nonsense"]
    assert parent.reactor.has_stopped == 1


def test_hanging(parent: Parent) -> None:
    """
    A worker that does not answer for a minute is killed, and another one takes its place; what counts
    is how often it was asked: after a time in which nothing ran at all, nobody is late.
    """
    hanging, lives = parent.begins()
    parent.reactor.advance(100_000)
    assert not hanging.is_killed
    lives.says("beat")
    parent.time_passes(45, [lives])
    assert parent.says() == []
    assert not hanging.is_killed
    parent.time_passes(10, [lives])
    assert (hanging.is_killed, lives.is_killed) == (True, False)
    hanging.ends()
    assert parent.says() == ["a worker has died (it did not answer for 60 s); another one starts"]
    parent.reactor.advance(0)
    assert len(parent.reactor.workers) == 3


def test_hanging_at_its_start(parent: Parent) -> None:
    """A worker that is to replace another one, and cannot serve within a minute, is killed, too."""
    dead, lives = parent.begins()
    dead.ends()
    parent.says()
    parent.time_passes(1, [lives])
    (hanging,) = parent.new(1)
    parent.time_passes(58, [lives])
    assert not hanging.is_killed
    parent.time_passes(3, [lives])
    assert hanging.is_killed
    hanging.ends()
    assert parent.says() == ["a worker has died (it was not ready after 60 s); another one starts"]


def test_hanging_after_its_retirement(parent: Parent) -> None:
    """One that has retired, and hangs, does not stay for ever, and is not replaced."""
    before = parent.begins()
    parent.workers.reload()
    after = parent.take_over(parent.new())
    for worker in before:
        worker.says("done")
    assert parent.says() == [RELOADED]
    parent.time_passes(75, [before[0], *after])
    assert [worker.is_killed for worker in before] == [False, True]
    before[1].ends()
    assert parent.says() == ["a worker that had retired has died (it did not answer for 60 s)"]
    parent.reactor.advance(60)
    assert len(parent.reactor.workers) == 4


@pytest.mark.parametrize(("watchdog", "seconds"), [(30, 30), (300, 300), (1, 10)])
def test_watchdog(capsys: pytest.CaptureFixture[str], watchdog: int, seconds: int) -> None:
    """A worker may hang for as long as systemd lets the service hang, if that is not too short."""
    parent = Parent(capsys, environment={"WATCHDOG_USEC": f"{watchdog}000000"})
    hanging, lives = parent.begins()
    parent.time_passes(seconds - 2, [lives])
    assert not hanging.is_killed
    parent.time_passes(seconds // 6 + 5, [lives])
    hanging.ends()
    said = f"a worker has died (it did not answer for {seconds} s); another one starts"
    assert parent.says()[0].startswith(said)
    parent.workers.stopService()


def test_behind(capsys: pytest.CaptureFixture[str]) -> None:
    """
    A worker that does not read what it is told is not told more and more of others. When it reads
    again, it hears how all is now.
    """
    parent = Parent(capsys, "--max-per-address", "9")
    stopped, busy = parent.begins()
    used = {"used": 1, "granted": None, "number": 0, "declined": False}
    busy.says("used", parties={"192.0.2.1": 1, "192.0.2.2": 1}, **used)
    assert stopped.messages[-1]["parties"] == {"192.0.2.1": 1, "192.0.2.2": 1}
    stopped.producer.pauseProducing()
    count = len(stopped.messages)
    for number in range(100):
        busy.says("used", parties={"192.0.2.1": 0, f"192.0.2.{number + 2}": 2}, **used)
    busy.says("ask")
    assert len(stopped.messages) == count
    busy.says("snapshot", snapshot={})
    assert busy.messages[-1]["say"] == "gathered"
    stopped.producer.resumeProducing()
    told = stopped.messages[-1]
    assert (told["say"], told["anew"]) == ("elsewhere", True)
    assert told["parties"] == {f"192.0.2.{number + 2}": 2 for number in range(100)}
    parent.workers.stopService()


def test_retiring_for_so_long(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Old workers are told how long they may go on, and, with each reload that follows, to open their
    access log anew.
    """
    parent = Parent(capsys, "--retire", "300")
    generations = [parent.begins()]
    for _ in range(2):
        parent.workers.reload()
        generations.append(parent.take_over(parent.new()))
        for worker in (*generations[0], *generations[-2]):
            worker.says("done")
    assert [worker.messages[-1] for worker in generations[1]] == 2 * [{"say": "retire", "seconds": 300}]
    assert [worker.told[-2:] for worker in generations[0]] == 2 * [["retire", "reopen"]]
    parent.workers.stopService()


def test_nobody_answers() -> None:
    """Where no worker has told in time what it has counted, the page shows what its own has."""
    told: list[Any] = []
    clock: Any = MemoryReactorClock()
    status = SharedStatus(clock, told.append)
    reading = status.gather()
    status.gathered([])
    shown: list[Any] = []
    reading.addCallback(lambda read: shown.append(read.as_json()))
    assert shown[0]["totals"]["live"] == 0
