"""
``upgrade_switch.protocols.tunnel`` while there is no connection to the far side: refused, too slow, or
too late.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, TCPTimedOutError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IReactorPluggableNameResolver,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.kit.farside import KINDS, Collector, Gate, Servers, switched
from tests.kit.harness import KINDS as NEAR_KINDS
from tests.kit.harness import Waiters, no_collector, reactor, site_of, status, turns, upgrade_head
from upgrade_switch.protocols import tunnel
from upgrade_switch.splicing import Splice, SpliceEnd

Listen = Callable[..., Any]


async def answered(client: Any) -> int:
    """The status of a response that has not switched, with its body read."""
    head, body = await client.response()
    assert str(status(head)).encode() in body
    return status(head)


# Where there is no connection to the far side.


@pytest.fixture
def refused() -> Iterator[int]:
    """A port that nobody listens on, and nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_refused(listen: Listen, refused: int, near: str) -> None:
    """Where the far port refuses, the answer is 502, and the connection stays HTTP."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", refused)
    listening = await listen(near, site_of({"ssh": tunnel(endpoint)}))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh") + b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await answered(client) == 502
    _head, body = await client.response()
    assert body == b"page GET "
    assert not listening.site.switched


@implementer(IHostnameResolver)
class NoNames:
    """A resolver that finds nothing, at once or never."""

    def __init__(self, answers: bool) -> None:
        self._answers = answers
        self.waiters = Waiters()
        self.asked = False

    def resolveHostName(self, receiver: Any, hostName: str, *args: Any, **kwargs: Any) -> Any:
        receiver.resolutionBegan(self)
        self.asked = True
        reactor.callLater(0, self.waiters.look)
        if self._answers:
            receiver.resolutionComplete()
        return receiver


@implementer(IReactorPluggableNameResolver)
class NamelessReactor(MemoryReactorClock):
    """Twisted's reactor in memory with a resolver of ours; in Twisted 24.7 it could be given none."""

    def __init__(self, names: NoNames) -> None:
        super().__init__()
        self.nameResolver = names


@pytest_twisted.ensureDeferred
async def test_no_such_host(listen: Listen) -> None:
    """Where the far host's name has no address, the answer is 502."""
    nameless = NamelessReactor(NoNames(True))
    endpoint = HostnameEndpoint(nameless, "nowhere.invalid", 22)
    listening = await listen("tcp", site_of({"ssh": tunnel(endpoint)}))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh"))
    assert await answered(client) == 502


@pytest_twisted.ensureDeferred
async def test_slow_resolver(listen: Listen) -> None:
    """Where the far host's name is not resolved in time, the answer is 504."""
    names = NoNames(False)
    nameless = NamelessReactor(names)
    endpoint = HostnameEndpoint(nameless, "nowhere.invalid", 22)
    listening = await listen("tcp", site_of({"ssh": tunnel(endpoint)}, reactor=nameless))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh"))
    await names.waiters.until(lambda: names.asked)
    nameless.advance(10)
    assert await answered(client) == 504


@pytest.mark.parametrize("answer", [None, ConnectingCancelledError, ConnectError, CancelledError])
@pytest.mark.parametrize(("arguments", "seconds"), [((), 10), ((3,), 3)])
@pytest_twisted.ensureDeferred
async def test_never_connects(
    listen: Listen, answer: Any, arguments: tuple[int, ...], seconds: int
) -> None:
    """
    Where the far side does not answer in time, the attempt is cancelled and the answer is 504, however
    the endpoint answers the cancellation; and not before the time has come.
    """
    clock = Clock()
    gate = Gate(answer=answer)
    listening = await listen("tcp", site_of({"ssh": tunnel(gate, *arguments)}, reactor=clock))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh"))
    await gate.until(lambda gate: gate.asked == 1)
    clock.advance(seconds - 0.1)
    await turns()
    assert client.data == b""
    clock.advance(0.1)
    assert await answered(client) == 504
    assert gate.cancelled == 1
    client.send(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    _head, body = await client.response()
    assert body == b"page GET "


@pytest_twisted.ensureDeferred
async def test_own_endpoint_times_out(listen: Listen) -> None:
    """An endpoint that gives up by itself, before this does, is a 504, too."""
    clock = MemoryReactorClock()
    endpoint = TCP4ClientEndpoint(clock, "192.0.2.1", 22, timeout=5)
    listening = await listen("tcp", site_of({"ssh": tunnel(endpoint)}, reactor=clock))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh"))
    await listening.site.until(lambda: bool(clock.tcpClients))
    _host, _port, factory, timeout, _bind = clock.tcpClients[0]
    assert timeout == 5
    factory.clientConnectionFailed(clock.connectors[0], Failure(TCPTimedOutError()))
    assert await answered(client) == 504


@pytest_twisted.ensureDeferred
async def test_endpoint_that_is_broken(listen: Listen, errors: Any) -> None:
    """An endpoint that fails for a reason that is not the network's is a 500, and logged."""

    @implementer(IStreamClientEndpoint)
    class Broken:
        def connect(self, factory: object) -> Deferred[Any]:
            raise ZeroDivisionError

    listening = await listen("tcp", site_of({"ssh": tunnel(Broken())}))
    client = await listening.connect()
    client.send(upgrade_head(b"ssh"))
    head, _body = await client.response()
    assert status(head) == 500
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


# Where the far connection comes too late.


async def connecting(listen: Listen, server: Any, near: str, **site: Any) -> tuple[Any, Any, Gate]:
    """A client whose tunnel is still connecting."""
    gate = Gate(server.endpoint)
    listening = await listen(near, site_of({"ssh": tunnel(gate)}, **site))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await gate.until(lambda gate: gate.asked == 1)
    return listening, client, gate


async def far_is_closed(server: Any, gate: Gate) -> None:
    """A far connection that comes now is closed again, without a byte."""
    gate.open()
    there = await server.site.next()
    await there.sees_end()
    assert there.data == b""
    # A half-closed connection that nobody reads or writes is nobody's, and would be garbage.
    if there.reason is None:
        there.transport.loseConnection()
        await there.is_lost()


LEAVING = ("loseConnection", "abortConnection", "loseWriteConnection")


@pytest.mark.parametrize(
    ("near", "how"),
    [(near, how) for near in NEAR_KINDS for how in LEAVING if near != "tls" or "Write" not in how],
)
@pytest.mark.parametrize("far", KINDS)
@pytest_twisted.ensureDeferred
async def test_client_leaves_while_connecting(
    listen: Listen, serve: Servers, near: str, far: str, how: str
) -> None:
    """
    When the client leaves, the attempt is cancelled; a far connection that comes nevertheless is
    closed.
    """
    server = await serve(far)
    listening, client, gate = await connecting(listen, server, near)
    getattr(client.transport, how)()
    await client.sees_end()
    await gate.until(lambda gate: gate.cancelled == 1)
    await far_is_closed(server, gate)
    assert not listening.site.switched


@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Listen, near: str) -> None:
    """When the client has left while the tunnel was connecting, reference counting alone frees it."""
    gate = Gate()
    listening = await listen(near, site_of({"ssh": tunnel(gate)}))
    with no_collector():
        await gate.sees_a_client_leave(listening)
        gate.forget()
        await turns()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Splice | SpliceEnd)]


@pytest.mark.parametrize("far", KINDS)
@pytest_twisted.ensureDeferred
async def test_full_while_connecting(listen: Listen, serve: Servers, far: str) -> None:
    """
    Where ``max_switched`` has been reached when the far side connects, the answer is 503 and the far
    connection is closed; the one that has the place keeps it.
    """
    server = await serve(far)
    listening, first, gate = await connecting(listen, server, "tcp", max_switched=1)
    second = await listening.connect(Collector())
    second.send(upgrade_head(b"ssh"))
    await gate.until(lambda gate: gate.asked == 2)
    gate.open()
    await switched(first)
    there = await server.site.next()
    await far_is_closed(server, gate)
    head, _body = await second.response()
    assert status(head) == 503
    first.send(b"here")
    await there.receives(b"here")


@pytest.mark.parametrize("far", KINDS)
@pytest_twisted.ensureDeferred
async def test_drain_while_connecting(listen: Listen, serve: Servers, far: str) -> None:
    """When the site drains, who is still connecting gets 503, and the attempt is cancelled."""
    server = await serve(far)
    listening, client, gate = await connecting(listen, server, "tcp")
    await listening.site.drain(1)
    head, _body = await client.response()
    assert status(head) == 503
    assert gate.cancelled == 1
    await far_is_closed(server, gate)


@pytest_twisted.ensureDeferred
async def test_site_is_less_patient(listen: Listen, serve: Servers) -> None:
    """Where the site's ``accept_timeout`` is shorter than the tunnel's, it answers with 503."""
    clock = Clock()
    server = await serve("tcp")
    _listening, client, gate = await connecting(listen, server, "tcp", reactor=clock, accept_timeout=5)
    clock.advance(5)
    head, _body = await client.response()
    assert status(head) == 503
    assert gate.cancelled == 1
    await far_is_closed(server, gate)


@implementer(IStreamClientEndpoint)
class Hasty:
    """An endpoint whose server has said hello, and is gone, before the connection is noticed."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(5)
        self._endpoint = TCP4ClientEndpoint(reactor, *self._server.getsockname())

    def connect(self, factory: Any) -> Deferred[Any]:
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        # The reactor begins to connect in a call of its own, which comes first.
        reactor.callLater(0, self._answer)
        return connecting

    def _answer(self) -> None:
        with self._server, self._server.accept()[0] as there:
            there.sendall(b"hello")


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_listen(listen: Listen) -> None:
    """What a server says before it closes arrives, though what it is sent resets the connection."""
    listening = await listen("tcp", site_of({"ssh": tunnel(Hasty())}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + b"hi")
    await switched(client)
    await client.until(lambda: client.data == b"hello" or client.reason is not None)
    assert client.data == b"hello"
