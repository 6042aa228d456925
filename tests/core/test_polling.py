"""
Connections that the reactor polls together: each is called as the reactor would have called it,
whatever the others do, and nothing is left when all have gone.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python import log
from twisted.python.context import get as in_context
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    reactor,
    site_of,
    switched_clients,
)
from tests.kit.polled import readers, writers
from tests.kit.waiting import PATIENCE, eventually, turns
from upgrade_switch._twisted import at_once, polling

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has epoll")

on_each = pytest.mark.parametrize("kind", ["tcp at once", "unix at once"])


def poll() -> polling.Poll:
    found = polling.poll_of(reactor)
    assert found is not None
    return found


def is_polled() -> bool:
    """Whether the reactor has it."""
    return poll().reader in reactor.getReaders()


def prefix() -> str:
    """What is in front of a line in the log."""
    found: str = in_context(log.ILogContext)["system"]
    return found


class Saying(EchoTarget):
    """Does what it is told to when something comes, or when it ends, and sends it back."""

    on_data: Callable[[], object] = staticmethod(lambda: None)
    on_end: Callable[[], object] = staticmethod(lambda: None)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.on_end()


async def several(
    listen: Any, kind: str, count: int = 3, make: Callable[[], Any] = Saying
) -> tuple[list[Any], list[Any]]:
    """Clients that have switched, and their targets."""
    factory, targets = factory_of(make)
    listening = await listen(kind, site_of({"echo": factory}))
    return await switched_clients(listening, count), targets


def say_together(clients: list[Any], data: bytes = b"all") -> None:
    """Have all have something to read in the reactor's next turn."""
    for client in clients:
        client.transport.socket.sendall(data)


def reset(client: Any) -> None:
    handle = client.transport.socket
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abortConnection()


# What the reactor knows.


@on_each
@pytest_twisted.ensureDeferred
async def test_one_for_all(kind: str, listen: Any) -> None:
    """The reactor has one descriptor, as long as there are connections that wait."""
    assert not is_polled()
    clients, targets = await several(listen, kind)
    known = reactor.getReaders()
    assert known.count(poll().reader) == 1
    assert not {target.transport for target in targets} & {*known}
    assert {target.transport for target in targets} <= {*readers()}
    assert repr(targets[0].transport) in repr(poll().reader)
    targets[0].transport.pauseProducing()
    assert targets[0].transport not in readers()
    for client in clients[1:]:
        client.transport.loseConnection()
    await eventually(lambda: not is_polled())
    targets[0].transport.resumeProducing()
    assert is_polled()
    clients[0].send(b"still there")
    await clients[0].receives(b"still there")
    clients[0].transport.loseConnection()
    await targets[0].is_lost()
    assert not is_polled()
    assert not poll().waiting


@on_each
@pytest_twisted.ensureDeferred
async def test_forgotten_by_the_reactor(kind: str, listen: Any) -> None:
    """A reactor that has been told to forget all that it has, as trial does, has but the next."""
    first, targets = await several(listen, kind, 1)
    reactor.removeReader(poll().reader)
    assert not poll().waiting
    second, more = await several(listen, kind, 1)
    say_together([*first, *second])
    await second[0].receives(b"all")
    second[0].transport.loseConnection()
    await more[-1].is_lost()
    # Nothing is left that trial would find behind its next test.
    assert not is_polled()
    assert "lost" not in targets[0].events
    targets[0].transport.resumeProducing()
    await first[0].receives(b"all")


@on_each
@pytest_twisted.ensureDeferred
async def test_forgotten_for_a_while(kind: str, listen: Any) -> None:
    """Whoever has taken it from the reactor may give it back, and so does another connection."""
    clients, targets = await several(listen, kind)
    reader = poll().reader
    reactor.removeReader(reader)
    targets[0].transport.pauseProducing()
    targets[0].transport.resumeProducing()
    assert poll().reader is reader
    assert is_polled()
    say_together(clients)
    for client in clients:
        await client.receives(b"all")


@on_each
@pytest_twisted.ensureDeferred
async def test_all_in_one_turn(kind: str, listen: Any) -> None:
    """All that have something to read get it in the same turn."""
    clients, targets = await several(listen, kind)
    say_together(clients)
    poll().call_all()
    assert [target.data for target in targets] == [b"all"] * 3


@on_each
@pytest_twisted.ensureDeferred
async def test_stopping(kind: str, listen: Any, errors: Any) -> None:
    """When the reactor stops, each is lost, whatever others raise then."""
    _, targets = await several(listen, kind)
    ends: list[str] = []
    prefixes = [target.transport.logstr for target in targets]
    for target in targets:
        target.on_end = lambda: (ends.append(prefix()), fail(Broken)())
    reader = poll().reader
    assert reader is not None
    reader.connectionLost(Failure(ConnectionLost()))
    assert ends == prefixes
    assert not is_polled()
    assert [event["failure"].type for event in errors] == [Broken] * 3
    errors.clear()


def test_interfaces() -> None:
    """What the reactor has is what it asks for."""
    assert verifyObject(IReadDescriptor, polling.PollReader(poll()))
    assert polling.poll_of(reactor) is poll()
    assert polling.poll_of(Clock()) is None


# Each for itself.


@on_each
@pytest_twisted.ensureDeferred
async def test_log_prefix(kind: str, listen: Any) -> None:
    """What a protocol logs has its own prefix, and so has what it has a thread log."""
    clients, targets = await several(listen, kind)
    seen: dict[str, Any] = {}
    threads: list[Deferred[str]] = []

    def note(target: Any, event: str) -> None:
        seen[event] = prefix(), target.transport.logstr if target.transport.connected else None
        if event == "data":
            threads.append(deferToThread(prefix))

    first, second = targets[:2]
    first.on_data = lambda: note(first, "data")
    logstr = first.transport.logstr
    assert logstr.startswith("Saying,")
    ends: list[str] = []
    second.on_end = lambda: ends.append(prefix())
    say_together(clients)
    await eventually(lambda: bool(threads))
    assert seen["data"] == (logstr, logstr)
    assert await threads[0] == logstr
    second_prefix = second.transport.logstr
    clients[1].transport.loseConnection()
    await second.is_lost()
    await turns(1)
    assert ends == [second_prefix]
    # Behind it, there is the reactor's own again.
    assert prefix() not in (logstr, second_prefix)


class Broken(Exception):
    """On purpose."""


class BrokenHarder(BaseException):
    """On purpose; asyncio's CancelledError is no Exception either."""


def fail(error: type[BaseException]) -> Callable[[], object]:
    def failing() -> object:
        raise error("on purpose")

    return failing


@on_each
@pytest.mark.parametrize("error", [Broken, BrokenHarder])
@pytest_twisted.ensureDeferred
async def test_failing(kind: str, error: type[BaseException], listen: Any, errors: Any) -> None:
    """What one raises is logged, and ends it alone; what it raises at its end is logged."""
    clients, targets = await several(listen, kind)
    targets[0].on_data = fail(error)
    targets[0].on_end = fail(error)
    say_together(clients)
    await targets[0].is_lost()
    assert targets[0].reason.type is error
    for client in clients[1:]:
        await client.receives(b"all")
        client.send(b" go on")
        await client.receives(b"all go on")
    assert [event["failure"].type for event in errors] == [error] * 2
    errors.clear()


@on_each
@pytest_twisted.ensureDeferred
async def test_failing_to_write(kind: str, listen: Any, errors: Any) -> None:
    """The same for what is raised while it writes."""
    clients, targets = await several(listen, kind, 2)
    transport = targets[0].transport
    transport.writeSomeData = lambda data: fail(Broken)()
    transport.writeSequence([b"one"])
    transport.write(b"two")
    assert transport in writers()
    await targets[0].is_lost()
    assert targets[0].reason.type is Broken
    clients[1].send(b"go on")
    await clients[1].receives(b"go on")
    await turns(1)
    assert [event["failure"].type for event in errors] == [Broken]
    errors.clear()


@on_each
@pytest.mark.parametrize("is_writing", [False, True])
@pytest_twisted.ensureDeferred
async def test_pausing_others(kind: str, is_writing: bool, listen: Any) -> None:
    """Who is paused by one that is called before gets nothing, in this turn neither."""
    clients, targets = await several(listen, kind)
    called: list[int] = []

    def pause_others(number: int) -> None:
        called.append(number)
        for target in targets:
            target.transport.pauseProducing()
            if is_writing:
                # The first goes out at once.
                target.transport.write(b"o")
                target.transport.write(b"f ")

    for number, target in enumerate(targets):
        target.on_data = lambda number=number: pause_others(number)
    say_together(clients)
    await eventually(lambda: bool(called))
    await turns()
    assert len(called) == 1
    expected = b"of all!" if is_writing else b"all!"
    for target in targets:
        target.on_data = lambda: None
        target.transport.resumeProducing()
        target.transport.write(b"!")
    for client in clients:
        await client.until(lambda client=client: sorted(client.data) == sorted(expected))


@on_each
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection", "connectionLost"])
@pytest_twisted.ensureDeferred
async def test_ending_others(kind: str, how: str, listen: Any) -> None:
    """Who is ended by one that is called before gets nothing any more, and ends once."""
    clients, targets = await several(listen, kind)
    called: list[Any] = []

    def end_others(me: Any) -> None:
        called.append(me)
        for target in targets:
            if target is not me:
                arguments = [Failure(ConnectionLost())] if how == "connectionLost" else []
                getattr(target.transport, how)(*arguments)

    for target in targets:
        target.on_data = lambda target=target: end_others(target)
    say_together(clients)
    await eventually(lambda: bool(called))
    for target in targets:
        if target is not called[0]:
            await target.is_lost()
            assert target.events.count("lost") == 1
    if how != "loseConnection":
        # Twisted's, too, goes on reading until what waits is written.
        assert len(called) == 1


@on_each
@pytest_twisted.ensureDeferred
async def test_iterating_within(kind: str, listen: Any) -> None:
    """One that has the poll go on meanwhile does not hold others up, nor are they called twice."""
    clients, targets = await several(listen, kind)
    called: list[Any] = []

    def iterate(me: Any) -> None:
        called.append(me)
        if len(called) == 1:
            for client in clients:
                client.transport.socket.shutdown(socket.SHUT_WR)
            while sum("lost" in target.events for target in targets) < 2:
                poll().call_all()

    for target in targets:
        target.on_data = lambda target=target: iterate(target)
    say_together(clients)
    for target in targets:
        await target.is_lost()
        assert target.events.count("lost") == 1
    assert len(called) == len({*called}) == 3


@on_each
@pytest_twisted.ensureDeferred
async def test_reset(kind: str, listen: Any) -> None:
    """A reset is a connection that was lost, and a half-close an end that the target may outlive."""
    clients, targets = await several(listen, kind, 2, HalfCloseRecorder)
    clients[0].transport.loseWriteConnection()
    await targets[0].until(lambda: "read lost" in targets[0].events)
    transport = targets[0].transport
    assert transport not in readers()
    transport.write(b"still here")
    await clients[0].receives(b"still here")
    transport.loseConnection()
    await targets[0].is_lost()
    assert targets[0].events.count("read lost") == 1
    assert targets[0].reason.type is ConnectionDone
    if kind.startswith("tcp"):
        reset(clients[1])
        await targets[1].is_lost()
        assert targets[1].reason.type is ConnectionLost


@on_each
@pytest_twisted.ensureDeferred
async def test_end_of_its_own_is_no_half_close(kind: str, listen: Any) -> None:
    """One that has closed the connection, but reads on, is told of the end of both directions."""
    _, targets = await several(listen, kind, 1, HalfCloseRecorder)
    targets[0].transport.loseConnection()
    targets[0].transport.startReading()
    await targets[0].is_lost()
    assert targets[0].reason.type is ConnectionDone
    assert "read lost" not in targets[0].events


@on_each
@pytest_twisted.ensureDeferred
async def test_end_before_writing(kind: str, listen: Any) -> None:
    """Nothing is written any more by one that has just been told of the end."""
    clients, targets = await several(listen, kind, 1)
    transport = targets[0].transport
    transport.writeSequence([b"one"])
    transport.write(b"two")
    assert transport in writers()
    written: list[int] = []
    transport.doWrite = lambda: written.append(1)
    clients[0].transport.socket.shutdown(socket.SHUT_WR)
    await targets[0].is_lost()
    assert targets[0].reason.type is ConnectionDone
    assert not written


@on_each
@pytest_twisted.ensureDeferred
async def test_reading_while_writing(kind: str, listen: Any) -> None:
    """Each direction goes on by itself, and nothing is told that nobody waits for."""
    clients, targets = await several(listen, kind, 1, Recorder)
    client, target = clients[0], targets[0]
    target.transport.write(b"one")
    target.transport.write(b"two")
    await client.receives(b"onetwo")
    assert not poll()._epoll.poll(0)
    client.transport.pauseProducing()
    target.transport.write(bytes(16 << 20))
    await turns()
    client.send(b"hello")
    await target.receives(b"hello")
    assert {target.transport} <= {*readers()} & {*writers()}
    client.transport.resumeProducing()
    await eventually(lambda: target.transport not in writers())
    client.send(b" again")
    await target.receives(b"hello again")


@on_each
@pytest.mark.parametrize("is_paused", [False, True])
@pytest_twisted.ensureDeferred
async def test_gone_while_writing(kind: str, is_paused: bool, listen: Any) -> None:
    """One that has much to write hears of its end, also while it does not read."""
    clients, targets = await several(listen, kind, 1, Recorder)
    clients[0].transport.pauseProducing()
    transport = targets[0].transport
    transport.write(bytes(16 << 20))
    await turns()
    assert transport in writers()
    if is_paused:
        transport.pauseProducing()
    clients[0].transport.abortConnection()
    await targets[0].is_lost()
    assert targets[0].reason.check(ConnectionLost)


@on_each
@pytest_twisted.ensureDeferred
async def test_socket_that_somebody_has_closed(kind: str, listen: Any) -> None:
    """Whoever closes a socket beneath its transport does no harm to others."""
    clients, targets = await several(listen, kind, 2)
    transport = targets[0].transport
    transport.socket.close()
    transport.abortConnection()
    await targets[0].is_lost()
    assert transport not in poll().waiting
    clients[1].send(b"hello")
    await clients[1].receives(b"hello")


@on_each
@pytest_twisted.ensureDeferred
async def test_socket_that_somebody_has_taken(kind: str, listen: Any) -> None:
    """The same for a socket that is used elsewhere from then on, which is not polled any more."""
    clients, targets = await several(listen, kind, 1)
    transport = targets[0].transport
    with socket.socket(fileno=transport.socket.detach()) as taken:
        transport.connectionLost(Failure(ConnectionLost()))
        say_together(clients, b"hello")
        assert not is_polled()
        assert not poll()._epoll.poll(0)
        assert taken.recv(5) == b"hello"


@on_each
@pytest_twisted.ensureDeferred
async def test_number_that_is_used_again(kind: str, listen: Any) -> None:
    """The same when a new connection's socket has its number, before the old one knows."""
    _, targets = await several(listen, kind, 1)
    old = targets[0].transport
    number = old.fileno()
    one, other = socket.socketpair()
    with one, other:
        old.socket.close()
        os.dup2(one.fileno(), number)
        arguments = Recorder(), old.client, old.server, 0, reactor
        new = type(old)(socket.socket(fileno=number), *arguments)
        new.protocol.makeConnection(new)
        old.abortConnection()
        await targets[0].is_lost()
        other.sendall(b"hello")
        await new.protocol.receives(b"hello")
        recorder = new.protocol
        new.abortConnection()
        await recorder.is_lost()


@on_each
@pytest.mark.parametrize("error", [ConnectionDone, KeyboardInterrupt])
@pytest_twisted.ensureDeferred
async def test_failing_as_if_it_had_ended(
    kind: str, error: type[BaseException], listen: Any, errors: Any
) -> None:
    """What one raises is no half-close, and Control-C, or what looks like it, does not end others."""

    class Failing(HalfCloseRecorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            raise error("on purpose")

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            super().connectionLost(reason)
            if self.data:
                raise error("on purpose")

    clients, targets = await several(listen, kind, 2, Failing)
    clients[0].send(b"hello")
    await targets[0].is_lost()
    await turns(1)
    assert targets[0].reason.type is error
    assert "read lost" not in targets[0].events
    assert targets[1].transport in readers()
    assert "lost" not in targets[1].events
    assert [event["failure"].type for event in errors] == [error] * 2
    errors.clear()


@on_each
@pytest_twisted.ensureDeferred
async def test_interrupted_between_two(kind: str, listen: Any, errors: Any) -> None:
    """Control-C anywhere is logged, as by the reactor's main loop, and ends nobody."""
    clients, targets = await several(listen, kind, 1)
    transport = targets[0].transport
    transport.act = lambda event: fail(KeyboardInterrupt)()
    say_together(clients)
    await eventually(lambda: bool(errors))
    del transport.act
    await clients[0].receives(b"all")
    assert {event["failure"].type for event in errors} == {KeyboardInterrupt}
    errors.clear()


@on_each
@pytest_twisted.ensureDeferred
async def test_no_room_for_another(kind: str, listen: Any) -> None:
    """A connection that the kernel does not poll is not held."""
    clients, targets = await several(listen, kind, 1)
    transport = targets[0].transport
    transport.pauseProducing()
    transport.fileno = lambda: -1
    with pytest.raises(ValueError, match="negative"):
        transport.resumeProducing()
    assert not is_polled()
    assert not poll().waiting
    transport.fileno = transport.socket.fileno
    transport.resumeProducing()
    clients[0].send(b"hello")
    await clients[0].receives(b"hello")


# Other reactors, and none of it.


@on_each
@pytest_twisted.ensureDeferred
async def test_elsewhere(kind: str, listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no epoll, the reactor polls each."""
    monkeypatch.setattr(at_once, "poll_of", lambda reactor: None)
    clients, targets = await several(listen, kind)
    assert {target.transport for target in targets} <= {*reactor.getReaders()}
    say_together(clients)
    for client in clients:
        await client.receives(b"all")
        client.transport.loseConnection()
    for target in targets:
        await target.is_lost()


SERVER = """
import socket, sys
from twisted.internet import {reactor}reactor
{reactor}reactor.install()
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite

HEAD = b"GET /echo HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n"


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

    def connectionLost(self, reason):
        print(reason.type.__name__)
        if reason.type is ConnectionDone:
            reactor.stop()


class Endpoint(TCP4ServerEndpoint):
    def listen(self, factory):
        listening = super().listen(factory)
        return listening.addCallback(self.listens)

    def listens(self, port):
        reactor.callInThread(talk, port.getHost().port)
        return port


kept = []


def talk(port):
    clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(3)]
    for client in clients:
        client.sendall(HEAD)
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
    for client in clients:
        client.sendall(b"hello")
    assert [client.recv(5) for client in clients] == [b"hello"] * 3
    clients[0].close()
    kept.extend(clients)


root = Resource()
root.putChild(b"echo", UpgradeResource({{"echo": Factory.forProtocol(Echo)}}))
service = UpgradeService(Endpoint(reactor, 0, interface="127.0.0.1"), UpgradeSite(root))
reactor.callWhenRunning(service.startService)
reactor.run()
"""


@pytest.mark.parametrize("name", ["epoll", "poll", "select", "asyncio"])
def test_reactors(name: str) -> None:
    """It works with each of the reactors; when one stops, what is still open is lost."""
    code = SERVER.format(reactor=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE)
    assert done.stderr == b""
    assert done.stdout.split() == [b"ConnectionDone", b"ConnectionLost", b"ConnectionLost"]
