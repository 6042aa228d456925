"""Upgrades over HTTP/2 (RFC 8441): a pool with ``http2`` against our own server."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
import treq
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet.defer import gatherResults
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.web.client import FileBodyProducer, HTTPConnectionPool
from twisted.web.resource import Resource

from tests.kit.asking import ByHand
from tests.kit.h2pool import Client
from tests.kit.harness import (
    EchoTarget,
    Flood,
    HalfCloseRecorder,
    Listening,
    Recorder,
    factory_of,
    no_collector,
    patient,
    reactor,
    site_of,
    turns,
)
from upgrade_switch import (
    NotSwitched,
    UpgradeEndpoint,
    UpgradePool,
    UpgradeResource,
    switched_connection,
)
from upgrade_switch.client import http2
from upgrade_switch.errors import MissingExtra
from upgrade_switch.protocols import (
    Destinations,
    WebSocketEndpoint,
    byte_stream,
    connect_udp,
    connect_websocket,
    open_udp,
    tunnel,
    websocket,
)


@asynccontextmanager
async def served(at_u: Any, http2_connect: bool = True, **kwargs: Any) -> AsyncIterator[Any]:
    """A site with TLS that has something at ``/u``, and a client of it."""
    site = site_of(at_u, http2_connect=http2_connect)
    listening = await Listening("tls", site).start()
    client = Client(listening.port.getHost().port, **kwargs)
    client.site = site  # type: ignore[attr-defined]
    try:
        yield client
    finally:
        await client.stop()
        await listening.stop()


def echo() -> dict[str, Any]:
    return {"echo": factory_of(EchoTarget)[0]}


@pytest_twisted.ensureDeferred
async def test_switch() -> None:
    """A switch is a 200 on a stream, which is the target's transport."""
    async with served(echo()) as client:
        response = await patient(client.ask(path="/u?room=1"))
        assert (response.version, response.code, response.phrase) == ((b"HTTP", 2, 0), 200, b"OK")
        connection = switched_connection(response)
        assert connection is switched_connection(response)
        assert (str(connection.token), connection.path) == ("echo", b"/u")
        assert connection.peer.port == client.dialling.port
        assert await patient(treq.content(response)) == b""
        target = Recorder()
        connection.install(target)
        for interface in (ISSLTransport, ITCPTransport):
            assert interface.providedBy(target.transport)
        target.send(b"hello")
        await target.receives(b"hello")
        assert client.site.lines == [(200, b"/u?room=1")]


@pytest_twisted.ensureDeferred
async def test_fields() -> None:
    """The request has its own fields, and none that is about a connection, or a key."""
    seen: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        seen.append(dict(request.requestHeaders.getAllRawHeaders()))
        return EchoTarget()

    async with served({"echo/2": accept}) as client:
        fields = {"sec_websocket_key": "a", "x_mine": "1", "connection": "x-other", "x_other": "2"}
        await client.switch(token="echo/2", host="example.com", **fields)
    assert seen == [{b"Host": [b"example.com"], b"X-Mine": [b"1"]}]


@pytest_twisted.ensureDeferred
async def test_a_hundred_at_once() -> None:
    """A hundred upgrades share a connection; one that nobody reads stops no other."""
    async with served(echo()) as client:
        responses = await patient(gatherResults([client.ask() for _ in range(101)]))
        stalled, *targets = [Recorder() for _ in responses]
        for target, response in zip([stalled, *targets], responses, strict=True):
            switched_connection(response).install(target)
        assert (client.dialling.count, len(client.site.switched)) == (1, 101)
        stalled.transport.pauseProducing()
        flood = Flood(stalled.transport)
        for number, target in enumerate(targets):
            target.send(b"%d" % number * 1000)
        for number, target in enumerate(targets):
            await target.until(lambda n=number, t=target: len(t.data) == len(b"%d" % n) * 1000)
        assert flood.sent < 2**21
        stalled.transport.unregisterProducer()


@pytest_twisted.ensureDeferred
async def test_most_streams_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a server takes: no more streams than a connection has room for if none is read."""
    monkeypatch.setattr(http2, "MOST_STREAMS", 2)
    async with served(echo()) as client:
        responses = await patient(gatherResults([client.ask() for _ in range(5)]))
        assert [response.code for response in responses] == [200] * 5
        assert client.dialling.count == 3


@pytest_twisted.ensureDeferred
async def test_one_after_the_other() -> None:
    """A connection is used again, also when it has carried nothing for a while."""
    async with served(echo()) as client:
        for _ in range(3):
            target = await client.switch()
            target.transport.loseConnection()
            await patient(target.is_lost())
            assert target.reason.check(ConnectionDone)
        assert client.dialling.count == 1


def refusing(body: bytes, code: int = 403) -> Any:
    page = Resource()

    def render(request: Any) -> bytes:
        request.setResponseCode(code)
        request.setHeader(b"x-why", b"no")
        return body

    page.render = render  # type: ignore[method-assign]
    return UpgradeResource({"echo": lambda request, token: page})


@pytest.mark.parametrize("size", [0, 2, 300_000])
@pytest_twisted.ensureDeferred
async def test_refused(size: int) -> None:
    """A refusal has code, fields and body; the connection carries the next request."""
    async with served(refusing(b"x" * size)) as client:
        for _ in range(2):
            response = await patient(client.ask())
            with pytest.raises(NotSwitched) as caught:
                switched_connection(response)
            assert caught.value.response is response
            assert (response.code, response.phrase) == (403, b"Forbidden")
            assert response.headers.getRawHeaders(b"x-why") == [b"no"]
            assert response.length == size
            await turns(20)
            assert await patient(treq.content(response)) == b"x" * size
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_refusal_that_nobody_reads() -> None:
    """A refusal's body that is left unread costs its stream, not the connection."""
    async with served(refusing(b"x" * 300_000)) as client:
        response = await patient(client.ask())
        (http2,) = client.site.http2_connections
        assert len(http2.streams) == 1
        del response
        while http2.streams:
            await turns()
        assert (await patient(client.ask())).code == 403
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_unknown_token() -> None:
    """A token that the server does not know is refused; nothing else is lost."""
    async with served(echo()) as client:
        response = await patient(client.ask("other"))
        assert response.code == 501
        await client.switch()
        assert client.dialling.count == 1


@pytest.mark.parametrize(
    "how",
    [
        {"token": "echo, other"},
        {"method": b"POST"},
        {"method": b"POST", "body": True},
        {"body": True},
        {"token": "echo other"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_needs_a_connection_of_its_own(how: dict[str, Any]) -> None:
    """What an extended CONNECT cannot say is sent over HTTP/1.1, on a connection of its own."""
    async with served(ByHand(lambda request: request.clientproto)) as client:
        if how.get("body"):
            how = {**how, "body": FileBodyProducer(io.BytesIO(b"content"))}
        response = await patient(client.ask(**how))
        assert await patient(treq.content(response)) == b"HTTP/1.1"
        assert not client.site.http2_connections


@pytest_twisted.ensureDeferred
async def test_ordinary_requests() -> None:
    """Requests without Upgrade are HTTP/1.1, also where one TLS context is for all connections."""
    async with served(echo()) as client:
        await client.switch()
        for _ in range(2):
            response = await patient(client.ask(None, "/page"))
            assert response.version == (b"HTTP", 1, 1)
            assert await patient(treq.content(response)) == b"page GET "
        await client.switch()
        assert client.dialling.count == 2


@pytest_twisted.ensureDeferred
async def test_no_tls() -> None:
    """Over http, an upgrade is HTTP/1.1."""
    listening = await Listening("tcp", site_of(echo(), http2_connect=True)).start()
    client = Client(listening.port.getHost().port)
    assert (await patient(client.ask(scheme="http"))).code == 101
    await client.stop()
    await listening.stop()


@pytest_twisted.ensureDeferred
async def test_half_close() -> None:
    """Each direction ends by itself, through TLS."""
    target = HalfCloseRecorder()
    async with served({"echo": lambda request, token: target}) as client:
        ours = await client.switch(HalfCloseRecorder())
        ours.send(b"last words")
        ours.transport.loseWriteConnection()
        await target.until(lambda: "read lost" in target.events)
        assert target.data == b"last words"
        assert ours.reason is None
        target.send(b"and ours")
        target.transport.loseWriteConnection()
        await patient(gatherResults([ours.is_lost(), target.is_lost()]))
        assert ours.events == ["made", "write lost", b"and ours", "read lost", "lost"]
        for each in (ours, target):
            assert each.reason.check(ConnectionDone)


@pytest.mark.parametrize("who", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_abort(who: str) -> None:
    """An abort is a reset of the stream: an error at the other end, which has its connection still."""
    target = Recorder()
    acceptors = {"echo": lambda request, token: target, "other": factory_of(EchoTarget)[0]}
    async with served(acceptors) as client:
        ours = await client.switch()
        aborting, other = (ours, target) if who == "client" else (target, ours)
        aborting.transport.abortConnection()
        await patient(gatherResults([ours.is_lost(), target.is_lost()]))
        assert aborting.reason.check(ConnectionAborted)
        assert other.reason.check(ConnectionLost)
        await client.switch(token="other")
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_end_of_the_connection() -> None:
    """The connection's end is no clean end of a stream, on either side; then there is a new one."""
    factory, built = factory_of(EchoTarget)
    async with served({"echo": factory}) as client:
        ours = await client.switch()
        client.dialling.transports[0].loseConnection()
        await patient(gatherResults([ours.is_lost(), built[0].is_lost()]))
        assert ours.reason.check(ConnectionLost)
        assert built[0].reason.check(ConnectionLost)
        await client.switch()
        assert client.dialling.count == 2


@pytest_twisted.ensureDeferred
async def test_waits_for_install() -> None:
    """Until ``install`` a stream is paused; what has come by then is the target's, then its end."""

    class Talking(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.write(b"x" * 60_000)
            self.transport.loseConnection()

    async with served({"echo": lambda request, token: Talking()}) as client:
        response = await patient(client.ask())
        await turns(50)
        target = HalfCloseRecorder()
        switched_connection(response).install(target)
        await target.until(lambda: "read lost" in target.events)
        assert target.data == b"x" * 60_000
        target.transport.loseConnection()
        await patient(target.is_lost())
        assert target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_ends_before_install() -> None:
    """If the connection ends first, the target gets all that had come, and the end."""

    class Talking(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.write(b"hello")

    async with served({"echo": lambda request, token: Talking()}) as client:
        responses = await patient(gatherResults([client.ask(), client.ask()]))
        (http2,) = client.site.http2_connections
        while not all(stream.unsent == 0 for stream in http2.streams.values()):
            await turns()
        await turns(50)
        client.dialling.transports[0].loseConnection()
        await client.dialling.until_open(0)
        for response in responses:
            target = Recorder()
            switched_connection(response).install(target)
            assert target.events == ["made", b"hello", "lost"]
            assert target.reason is not None
            assert target.reason.check(ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_dropped() -> None:
    """A connection that is dropped without ``install`` is aborted, by reference counting alone."""
    target = Recorder()
    async with served({"echo": lambda request, token: target}) as client:
        with no_collector():
            response = await patient(client.ask())
            switched_connection(response)
            del response
            await patient(target.is_lost())
        assert target.reason is not None
        assert target.reason.check(ConnectionLost)
        assert client.dialling.open == 1


@pytest_twisted.ensureDeferred
async def test_reference_counting() -> None:
    """Everything about a stream is freed when it has ended; about a connection, too."""
    async with served(echo()) as client:
        with no_collector():
            target = await client.switch()
            stream = ref(target.transport)
            target.transport.loseConnection()
            # Whoever waits for it would be in a cycle with it.
            while target.reason is None:
                await turns()
            gone = ref(target)
            del target
            await turns(10)
            assert (gone(), stream()) == (None, None)
            response = await patient(client.ask("other"))
            await patient(treq.content(response))
            answer = ref(response)
            del response
            await turns(10)
            assert answer() is None
            connection = ref(client.dialling.transports[0].protocol._wrappedProtocol.wrappedProtocol)
            assert connection() is not None
            await patient(client.pool.closeCachedConnections())
            client.dialling.transports.clear()
            await turns(10)
            assert connection() is None


@pytest_twisted.ensureDeferred
async def test_idle_connections() -> None:
    """A connection without streams is closed after the pool's time-out, and one with some is not."""
    async with served(echo()) as client:
        client.pool.cachedConnectionTimeout = 0.01
        target = await client.switch()
        await turns(10)
        assert client.dialling.open == 1
        await patient(client.pool.closeCachedConnections())
        assert client.dialling.open == 1
        target.transport.loseConnection()
        await client.dialling.until_open(0)
        assert target.reason.check(ConnectionDone)
        assert not client.site.http2_connections


@pytest_twisted.ensureDeferred
async def test_close_cached_connections() -> None:
    """The pool's idle connections are closed, and it goes on with new ones."""
    async with served(echo()) as client:
        for count in (1, 2):
            target = await client.switch()
            target.transport.loseConnection()
            await patient(target.is_lost())
            await patient(client.pool.closeCachedConnections())
            assert (client.dialling.open, client.dialling.count) == (0, count)


@pytest_twisted.ensureDeferred
async def test_not_persistent() -> None:
    """A pool that keeps no connections closes one as soon as its last stream has ended."""
    async with served(echo(), persistent=False) as client:
        targets = [await client.switch() for _ in range(2)]
        assert client.dialling.count == 1
        for target in targets:
            target.transport.loseConnection()
        await client.dialling.until_open(0)


@pytest_twisted.ensureDeferred
async def test_not_advertised() -> None:
    """A server with HTTP/2, but not for upgrades, costs one connection, once."""
    async with served(echo(), http2_connect=False) as client:
        responses = await patient(gatherResults([client.ask() for _ in range(3)]))
        assert {response.code for response in responses} == {101}
        assert client.dialling.count == 4
        assert (await patient(client.ask())).code == 101
        assert client.dialling.count == 5
        await turns(20)
        assert not client.site.http2_connections


class _Later:
    """A clock that a test can put forward."""

    def __init__(self) -> None:
        self.more = 0.0

    def seconds(self) -> float:
        return reactor.seconds() + self.more

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest_twisted.ensureDeferred
async def test_not_advertised_is_forgotten() -> None:
    """After ten minutes a server is asked again: it may take upgrades over HTTP/2 by then."""
    async with served(echo(), http2_connect=False) as client:
        client.pool.clock = clock = _Later()
        assert (await patient(client.ask())).code == 101
        client.site.takes_http2_connect = True
        clock.more = 590
        assert (await patient(client.ask())).code == 101
        clock.more = 610
        assert (await patient(client.ask())).code == 200
        count = client.dialling.count
        assert (await patient(client.ask())).code == 200
        assert client.dialling.count == count


@pytest_twisted.ensureDeferred
async def test_drain() -> None:
    """A server that goes down takes no more streams; those that are there go on."""
    async with served(echo()) as client:
        ours = await client.switch()
        draining = client.site.drain(10)
        await turns(20)
        ours.send(b"still")
        await ours.receives(b"still")
        # On a new connection, since the first one takes no more.
        response = await patient(client.ask())
        assert response.code == 503
        assert client.dialling.count == 2
        ours.transport.loseConnection()
        await patient(draining)
        await client.dialling.until_open(1)


# What is built on the client.


class Greeting(WebSocketServerProtocol):  # type: ignore[misc]
    def onConnect(self, request: Any) -> str | None:
        return "chat" if "chat" in request.protocols else None

    def onOpen(self) -> None:
        self.sendMessage(b"welcome")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class Noting(WebSocketClientProtocol):  # type: ignore[misc]
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.got.append(payload)

    def onClose(self, clean: bool, code: Any, reason: Any) -> None:
        self.factory.closed.append((clean, code))


@pytest_twisted.ensureDeferred
async def test_connect_websocket() -> None:
    """autobahn's client goes over a stream: without a key, with its subprotocol."""
    server = WebSocketServerFactory()
    server.protocol = Greeting
    async with served({"websocket": websocket(server)}) as client:
        factory = WebSocketClientFactory(protocols=["chat"])
        factory.protocol, factory.got, factory.closed = Noting, [], []
        opening = connect_websocket(client.pool, client.url + "/u", factory, agent=client.agent)
        protocol = await patient(opening)
        assert protocol.websocket_protocol_in_use == "chat"
        protocol.sendMessage(b"x" * 100_000, True)
        while len(factory.got) < 2:
            await turns()
        assert factory.got == [b"welcome", b"x" * 100_000]
        protocol.sendClose(1000)
        while not factory.closed:
            await turns()
        assert factory.closed == [(True, 1000)]
        assert client.site.lines == [(200, b"/u")]
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_websocket_endpoint() -> None:
    """A stream of bytes in messages goes over a stream, half-close included."""
    target = HalfCloseRecorder()
    factory = Factory()
    factory.buildProtocol = lambda addr: target  # type: ignore[assignment]
    async with served({"websocket": byte_stream(factory)}) as client:
        endpoint = WebSocketEndpoint(reactor, client.url + "/u", agent=client.agent)
        theirs, built = factory_of(HalfCloseRecorder)
        ours: Any = await patient(endpoint.connect(theirs))
        ours.send(b"bytes")
        ours.transport.loseWriteConnection()
        await target.until(lambda: "read lost" in target.events)
        assert target.data == b"bytes"
        target.send(b"back")
        target.transport.loseConnection()
        await ours.is_lost()
        assert ours.data == b"back"
        assert ours.reason is not None
        assert ours.reason.check(ConnectionDone)
        assert client.site.lines == [(200, b"/u")]
        assert built == [ours]


@pytest_twisted.ensureDeferred
async def test_endpoint_and_tunnel() -> None:
    """UpgradeEndpoint works over it, and so does a tunnel whose other end is one."""
    async with served(echo()) as client:
        endpoint = UpgradeEndpoint(reactor, client.url + "/u", "echo", agent=client.agent)
        async with served({"in": tunnel(endpoint)}) as outer:
            ours = await outer.switch(token="in")
            ours.send(b"through")
            await ours.receives(b"through")
            ours.transport.loseConnection()
            await patient(ours.is_lost())
            assert ours.reason.check(ConnectionDone)
        assert client.site.lines == [(200, b"/u")]


class Datagrams(DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.got.append(datagram)


class EchoDatagrams(DatagramProtocol):
    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.transport.write(datagram, addr)  # type: ignore[union-attr]


@pytest_twisted.ensureDeferred
async def test_open_udp() -> None:
    """Datagrams go over a stream, too."""
    port = reactor.listenUDP(0, EchoDatagrams(), "127.0.0.1")
    number = port.getHost().port
    acceptor = connect_udp(Destinations(f"127.0.0.1:{number}"), reactor)
    async with served({"connect-udp": acceptor}) as client:
        template = client.url + "/u/{target_host}/{target_port}/"
        asking = open_udp(client.pool, template, "127.0.0.1", number, Datagrams(), agent=client.agent)
        flow = await patient(asking)
        flow.transport.write(b"hello")
        while not flow.got:
            await turns()
        assert flow.got == [b"hello"]
        flow.transport.stopListening()
        assert client.site.lines[0][0] == 200
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_treq() -> None:
    """treq's responses are known, too."""
    async with served(echo()) as client:
        asking = treq.get(client.url + "/u", headers={"Upgrade": "echo"}, agent=client.agent)
        target = Recorder()
        switched_connection(await patient(asking)).install(target)
        target.send(b"hello")
        await target.receives(b"hello")
        assert client.site.lines == [(200, b"/u")]


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, a pool says what to install; without ``http2``, it needs none."""
    monkeypatch.setitem(sys.modules, "h2.connection", None)
    for name in [name for name in sys.modules if name.startswith("upgrade_switch.")]:
        if ".http2" in name or name.endswith((".shared", ".stream_exchange")):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"upgrade_switch\[http2\]"):
        UpgradePool(reactor, http2=True)
    assert isinstance(UpgradePool(reactor), HTTPConnectionPool)
