"""
Tunnels on which nothing moves, what TCP does for them, and how many bytes have gone through.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock

from tests.kit.ends import Ends
from tests.kit.farside import Collector, Servers, send_buffers, settled, switched
from tests.kit.harness import patient, reactor, site_of, turns, upgrade_head
from tests.kit.observing import Details
from upgrade_switch import splice
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.protocols import TunnelFactory, tunnel


class Joined:
    """A client of a tunnel, and the server behind it; the tunnel's clock is the test's."""

    def __init__(self, listen: Any, serve: Any) -> None:
        self.listen, self.serve = listen, serve
        self.clock = Clock()
        self.observer = Details()

    async def start(self, way: str, kind: str = "tcp", **kwargs: Any) -> Joined:
        server = await self.serve("tcp")
        options: dict[str, Any] = {"reactor": self.clock, "observers": [self.observer]}
        options.update(kwargs.pop("site", {}))
        resource: Any = {"ssh": tunnel(server.endpoint, **kwargs)}
        if way == "preface":
            factory = TunnelFactory(self.clock, server.endpoint, **kwargs)
            options["prefaces"] = {b"SSH-": factory}
        self.listening = await self.listen(kind, site_of(resource, **options))
        self.client = await self.listening.connect(Collector())
        if way == "preface":
            self.client.send(b"SSH-")
        else:
            self.client.send(upgrade_head(b"ssh"))
            await switched(self.client)
        self.far = await server.site.next()
        if way == "preface":
            await self.far.has(4)
            self.far.data = b""
        (self.entry,) = self.listening.site.switched
        return self

    async def exchange(self, data: bytes = b"x") -> None:
        for one, other in ((self.client, self.far), (self.far, self.client)):
            before = len(other.data)
            one.send(data)
            await other.has(before + len(data))


@pytest.fixture
def joined(listen: Any, serve: Servers) -> Joined:
    return Joined(listen, serve)


ways = pytest.mark.parametrize("way", ["upgrade", "preface"])


@ways
@pytest_twisted.ensureDeferred
async def test_idle(joined: Joined, way: str) -> None:
    """Bytes in either direction begin the time anew; when it is over, both are reset; it is said."""
    ends = Ends()
    await joined.start(way, idle_timeout=10, site={"observers": [ends]})
    joined.clock.advance(9)
    joined.client.send(b"onwards")
    await joined.far.has(7)
    joined.clock.advance(9)
    joined.far.send(b"back")
    await joined.client.has(4)
    joined.clock.advance(9.9)
    await turns(10)
    assert (joined.client.reason, joined.far.reason) == (None, None)
    joined.clock.advance(0.2)
    for end in (joined.client, joined.far):
        await end.is_lost()
        assert not end.reason.check(ConnectionDone)
    assert await patient(ends.why) == "time-out"
    assert not [call for call in joined.clock.getDelayedCalls() if "Idleness" in str(call)]


@ways
@pytest_twisted.ensureDeferred
async def test_never(joined: Joined, way: str) -> None:
    """Without the option, nothing ends; with it, an end leaves no timer."""
    await joined.start(way)
    joined.clock.advance(1_000_000)
    await joined.exchange()


@pytest_twisted.ensureDeferred
async def test_no_timer_left(joined: Joined) -> None:
    """The end of the tunnel ends its timer."""
    await joined.start("upgrade", idle_timeout=10)
    joined.client.transport.loseConnection()
    await joined.far.sees_end()
    joined.far.transport.loseConnection()
    await joined.client.is_lost()
    await turns(5)
    assert not [call for call in joined.clock.getDelayedCalls() if "Idleness" in str(call)]


@pytest_twisted.ensureDeferred
async def test_slow_reader(joined: Joined) -> None:
    """A side that still takes what came long ago is not idle; one that takes nothing is."""
    await joined.start("upgrade", idle_timeout=10)
    send_buffers(4608, joined.entry.target.transport)
    joined.client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4608)
    joined.client.transport.pauseProducing()
    joined.far.send(b"x" * 3_000_000)
    await settled(lambda: joined.entry.bytes_out)
    for _ in range(4):
        joined.clock.advance(10)
        await turns(5)
        assert joined.client.reason is None
        before = len(joined.client.data)
        joined.client.transport.resumeProducing()
        await joined.client.has(before + 50_000)
        joined.client.transport.pauseProducing()
        await settled(lambda: joined.entry.bytes_out)
    for _ in range(3):
        joined.clock.advance(10)
        await turns(5)
    joined.client.transport.resumeProducing()
    await joined.client.is_lost()
    assert not joined.client.reason.check(ConnectionDone)


@ways
@pytest_twisted.ensureDeferred
async def test_bytes(joined: Joined, way: str) -> None:
    """Both directions are counted, and what observers are told at the end is right."""
    await joined.start(way)
    first = 4 * (way == "preface")
    joined.client.send(b"x" * 100_000)
    await joined.far.has(100_000)
    joined.far.send(b"y" * 5)
    await joined.client.has(5)
    assert (joined.entry.bytes_in, joined.entry.bytes_out) == (100_000 + first, 5)
    joined.far.send(b"last words")
    joined.far.transport.loseConnection()
    await joined.client.sees_end()
    joined.client.transport.loseConnection()
    await joined.far.is_lost()
    await turns(10)
    assert joined.observer.counts == [(100_000 + first, 15)]


def keep_alive(transport: Any) -> tuple[int, ...]:
    """Whether TCP asks if the peer is there, and when."""
    handle = transport.getHandle()
    if not handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return ()
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return tuple(handle.getsockopt(socket.IPPROTO_TCP, option) for option in options)


@ways
@pytest.mark.parametrize(
    ("site", "near"),
    [({}, (60, 15, 4)), ({"tcp_keepalive": (10, 5, 2)}, (10, 5, 2)), ({"tcp_keepalive": False}, ())],
)
@pytest_twisted.ensureDeferred
async def test_keep_alive(joined: Joined, way: str, site: Any, near: tuple[int, ...]) -> None:
    """Both sockets of a tunnel have TCP's keep-alive; on the client's, the site's option counts."""
    await joined.start(way, site=site)
    end = joined.entry.target
    assert keep_alive(end.transport) == near
    assert keep_alive(end.other.transport) == (60, 15, 4)


@pytest_twisted.ensureDeferred
async def test_without_a_site(listen: Any, serve: Servers) -> None:
    """A TunnelFactory that listens by itself sees to both sockets."""
    server = await serve("tcp")
    ends = []

    class Listening(TunnelFactory):
        def buildProtocol(self, addr: object) -> Any:
            ends.append(super().buildProtocol(addr))
            return ends[-1]

    factory = Listening(reactor, server.endpoint)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        far = await server.site.next()
        (near,) = ends
        assert keep_alive(near.transport) == keep_alive(near.other.transport) == (60, 15, 4)
        client.close()
        await far.sees_end()
        far.transport.loseConnection()
        await far.is_lost()
    finally:
        await port.stopListening()


@pytest.mark.parametrize("value", [0, -1, "10"])
def test_mistakes(value: Any) -> None:
    """An invalid time is refused at once; ``splice`` cannot count without a clock."""

    class Endpoint:
        def connect(self, factory: object) -> None: ...

    endpoint: Any = Endpoint()
    with pytest.raises(InvalidArgument, match="idle_timeout"):
        tunnel(endpoint, idle_timeout=value)
    with pytest.raises(InvalidArgument, match="idle_timeout"):
        TunnelFactory(reactor, endpoint, idle_timeout=value)
    nothing: Any = object()
    with pytest.raises(InvalidArgument, match="reactor"):
        splice(nothing, nothing, idle_timeout=10)


@pytest_twisted.ensureDeferred
async def test_splice(serve: Servers) -> None:
    """``splice`` has the time-out, too."""
    clock = Clock()
    servers = [await serve("tcp"), await serve("tcp")]
    clients = [await server.connect(Collector()) for server in servers]
    accepted = [await server.site.next() for server in servers]
    done = splice(*(end.transport for end in accepted), idle_timeout=5, reactor=clock)
    clients[0].send(b"hello")
    await clients[1].has(5)
    clock.advance(5)
    for client in clients:
        await client.is_lost()
        assert not client.reason.check(ConnectionDone)
    await turns(5)
    assert done.called
    assert not clock.getDelayedCalls()
