"""
``TunnelFactory``: a preface's connection, joined with a server elsewhere.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.resource import Resource
from zope.interface import implementer

from tests.kit.asking import Broken, is_http
from tests.kit.farside import KINDS as FAR_KINDS
from tests.kit.farside import MEGABYTE, ClosingCollector, Collector, Gate, Servers, has_unsent
from tests.kit.harness import KINDS, reactor, site_of, turns
from tests.kit.prefaced import eventually, every_kind, no_collector, splits
from upgrade_switch.protocols import TunnelFactory

SSH = b"SSH-2.0-"
LINE = SSH + b"Client\r\n"

every_far_kind = pytest.mark.parametrize("far", FAR_KINDS)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What tunnels log, below errors."""
    events: list[str] = []

    def observe(event: Any) -> None:
        if "tunnel" in event.get("log_namespace", "") and event["log_level"] < LogLevel.error:
            events.append(f"{event['log_level'].name} {event['log_format'].format(**event)}")

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


async def tunnelling(listen: Any, kind: str, endpoint: Any, clock: Any = reactor, **kwargs: Any) -> Any:
    """A site whose connections go to an endpoint when they begin with SSH's first bytes."""
    prefaces = {SSH: TunnelFactory(clock, endpoint, **kwargs)}
    return await listen(kind, site_of(Resource(), prefaces=prefaces))


async def connecting(listening: Any, gate: Gate, data: bytes = LINE) -> Any:
    """A client whose tunnel is still connecting."""
    client = await listening.connect(Collector())
    before = gate.asked
    client.send(data)
    await gate.until(lambda gate: gate.asked > before)
    return client


class Speaker(Collector):
    """A server that speaks first, as SSH does."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(b"SSH-2.0-Server\r\n")


@every_far_kind
@every_kind
@pytest_twisted.ensureDeferred
async def test_there_and_back(listen: Any, serve: Servers, kind: str, far: str) -> None:
    """Client and server are joined: each gets all that the other sends, the preface included."""
    server = await serve(far, Speaker)
    listening = await tunnelling(listen, kind, server.endpoint)
    client = await listening.connect(Collector())
    client.send(LINE + MEGABYTE)
    there = await server.site.next()
    there.send(MEGABYTE)
    await there.has(len(LINE + MEGABYTE))
    assert there.data == LINE + MEGABYTE
    await client.has(len(b"SSH-2.0-Server\r\n" + MEGABYTE))
    assert client.data == b"SSH-2.0-Server\r\n" + MEGABYTE
    (connection,) = listening.site.switched
    assert connection.token is None


@every_kind
@pytest_twisted.ensureDeferred
async def test_http_beside_it(listen: Any, serve: Servers, kind: str) -> None:
    """Who speaks HTTP on the same port does not get the far server to see."""
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await tunnelling(listen, kind, gate)
    await is_http(await listening.connect())
    assert gate.asked == 0


@every_kind
@pytest_twisted.ensureDeferred
async def test_every_split_while_connecting(listen: Any, serve: Servers, kind: str) -> None:
    """
    Wherever bytes are cut, those that come before the far server is connected arrive there in front of
    those that come later; until then the client is not read any further.
    """
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await tunnelling(listen, kind, gate)
    for number, pieces in enumerate(splits(LINE)):
        client = await listening.connect(Collector())
        for piece in pieces:
            client.send(piece)
            await turns(1)
        await gate.until(lambda gate, number=number: gate.asked > number)
        client.send(b"early")
        await turns()
        gate.open()
        there = await server.site.next()
        await there.has(len(LINE) + 5)
        client.send(b"late")
        await there.has(len(LINE) + 9)
        assert there.data == LINE + b"earlylate", pieces
        there.send(b"answer")
        await client.receives(b"answer")
        client.transport.abortConnection()
        await there.sees_end()
        there.transport.abortConnection()


@every_kind
@pytest_twisted.ensureDeferred
async def test_not_read_while_connecting(listen: Any, serve: Servers, kind: str) -> None:
    """A client that sends much before the far server is connected is held back, and loses nothing."""
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await tunnelling(listen, kind, gate)
    client = await connecting(listening, gate)
    for _ in range(10):
        client.send(MEGABYTE)
    for _ in range(50):
        await turns(1)
    assert has_unsent(client.transport)
    gate.open()
    there = await server.site.next()
    await there.has(len(LINE) + 10 * len(MEGABYTE))
    assert there.data == LINE + MEGABYTE * 10


@every_far_kind
@every_kind
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, serve: Servers, kind: str, far: str) -> None:
    """When both have ended, reference counting alone frees the ends, and the channel before."""
    with no_collector():
        server = await serve(far, ClosingCollector)
        listening = await tunnelling(listen, kind, server.endpoint)
        client = await listening.connect(Collector())
        client.send(LINE)
        there = await server.site.next()
        await there.receives(LINE)
        assert listening.site.channels[0]() is None
        (connection,) = listening.site.switched
        end: Any = connection.target
        watched = [ref(end), ref(end.other), ref(end.splice), ref(connection)]
        del end, connection
        there.transport.loseConnection()
        client.transport.loseConnection()
        await there.is_lost()
        await listening.site.switched.when_empty()
        await turns()
        assert [weak() for weak in watched] == [None] * len(watched)


# Without the far server.


@implementer(IStreamClientEndpoint)
class Failing:
    """Fails at once, in one way or the other."""

    def __init__(self, raising: bool) -> None:
        self._raising = raising

    def connect(self, factory: object) -> Deferred[Any]:
        if self._raising:
            raise Broken("no way")
        failing: Deferred[Any] = Deferred()
        failing.errback(Broken("no way"))
        return failing


@pytest.fixture
def refused() -> Iterator[Any]:
    """An endpoint that refuses, and that nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield TCP4ClientEndpoint(reactor, "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("how", ["refused", "fails", "raises"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_not_connected(listen: Any, said: list[str], refused: Any, kind: str, how: str) -> None:
    """
    If the far server cannot be connected to, the client's connection ends; one warning says where to
    and why.
    """
    endpoint = refused if how == "refused" else Failing(how == "raises")
    clock = Clock()
    with no_collector():
        listening = await tunnelling(listen, kind, endpoint, clock)
        client = await listening.connect(Collector())
        client.send(LINE + b"more")
        await client.sees_end()
        assert client.data == b""
        await eventually(lambda: not len(listening.site.switched))
        assert clock.getDelayedCalls() == []
        assert len(said) == 1
        assert said[0].startswith("warn a tunnel cannot connect to ")
        assert ("Connection was refused" if how == "refused" else "no way") in said[0]
        assert (f"127.0.0.1:{endpoint._port}: " if how == "refused" else "Failing object at") in said[0]
        assert said[0].isprintable()
        assert listening.site.channels[0]() is None


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 10), ({"timeout": 3}, 3)])
@pytest.mark.parametrize("answer", [None, ConnectingCancelledError], ids=["silent", "cancelled"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_too_slow(
    listen: Any, serve: Servers, said: list[str], kind: str, answer: Any, arguments: Any, seconds: int
) -> None:
    """
    Where connecting takes too long, the attempt is cancelled and the client's connection ends, and not
    before; a far connection that comes later is closed.
    """
    clock = Clock()
    server = await serve("tcp")
    gate = Gate(server.endpoint, (lambda _: ConnectingCancelledError(None)) if answer else None)
    listening = await tunnelling(listen, kind, gate, clock, **arguments)
    client = await connecting(listening, gate)
    clock.advance(seconds - 0.1)
    await turns()
    assert (client.reason, gate.cancelled) == (None, 0)
    clock.advance(0.1)
    assert gate.cancelled == 1
    await client.sees_end()
    assert client.data == b""
    await eventually(lambda: not len(listening.site.switched))
    assert clock.getDelayedCalls() == []
    (line,) = said
    assert f"within {seconds} seconds" in line
    gate.open()
    there = await server.site.next()
    await there.sees_end()
    assert there.data == b""


@pytest_twisted.ensureDeferred
async def test_timer_ends_with_the_attempt(listen: Any, serve: Servers) -> None:
    """A tunnel that is connected is not bounded in time."""
    clock = Clock()
    server = await serve("tcp")
    listening = await tunnelling(listen, "tcp", server.endpoint, clock)
    client = await listening.connect(Collector())
    client.send(LINE)
    there = await server.site.next()
    await there.receives(LINE)
    assert clock.getDelayedCalls() == []
    clock.advance(3600)
    there.send(b"still here")
    await client.receives(b"still here")


@every_kind
@pytest_twisted.ensureDeferred
async def test_drained_while_connecting(
    listen: Any, serve: Servers, said: list[str], kind: str
) -> None:
    """
    When a connection is aborted, as drain does it, the attempt is cancelled, which is worth no line; a
    far connection that comes nevertheless is closed.
    """
    clock = Clock()
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await tunnelling(listen, kind, gate, clock)
    client = await connecting(listening, gate)
    await listening.site.drain(0)
    await client.sees_end()
    assert gate.cancelled == 1
    assert clock.getDelayedCalls() == []
    assert said == []
    gate.open()
    there = await server.site.next()
    await there.sees_end()
    assert there.data == b""
    assert len(listening.site.switched) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_each_client_has_its_own(listen: Any, serve: Servers, kind: str) -> None:
    """Each connection has a far connection of its own, whichever is there first."""
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await tunnelling(listen, kind, gate)
    first = await connecting(listening, gate, LINE + b"1")
    second = await connecting(listening, gate, LINE + b"2")
    gate.open()
    gate.open()
    far = [await server.site.next(), await server.site.next()]
    for there in far:
        await there.has(len(LINE) + 1)
        there.send(b"for " + there.data[-1:])
    await first.receives(b"for 1")
    await second.receives(b"for 2")


def test_is_a_factory() -> None:
    """It is what ``prefaces`` takes: an ``IProtocolFactory`` that says nothing in the log."""
    factory = TunnelFactory(Clock(), Failing(True))
    assert isinstance(factory, Factory)
    assert not factory.noisy
