"""
``WebSocketEndpoint``, and tunnels: Twisted's own clients, and bytes from elsewhere, over WebSockets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.protocols.basic import LineReceiver
from twisted.web.client import ResponseFailed

from tests.kit.asking import is_http
from tests.kit.farside import MEGABYTE, Collector, Gate, Servers, Source, settled
from tests.kit.harness import (
    EchoTarget,
    Recorder,
    factory_of,
    field,
    localhost,
    patient,
    reactor,
    site_of,
    status,
    turns,
)
from tests.kit.scripted import CLIENT_KINDS, playing
from tests.kit.services import Calculator, Greeted, Greeter, Sum, connected, serving
from tests.kit.wscodec import BINARY, TEXT
from tests.kit.wsstream import WebSocketByHand, answer, close, endpoint_to, frame, next_frame
from upgrade_switch import NotSwitched
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream, tunnel

kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])
client_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)


@pytest_twisted.async_yield_fixture
async def servers(listen: Any) -> Any:
    """``await servers(kind)``: a listening server of bytes."""
    found = Servers(listen)
    yield found
    await found.stop()


async def streams(listen: Any, kind: str, make: Any) -> tuple[Any, list[Any]]:
    """A site whose ``/u`` is a stream of bytes to such a target, and what has been built."""
    factory, built = factory_of(make)
    return await listen(kind, site_of({"websocket": byte_stream(factory)})), built


# Twisted's own clients.


@kinds
@pytest_twisted.ensureDeferred
async def test_client_service(kind: str, listen: Any) -> None:
    """A ClientService connects, connects again when the connection ends, and stops."""
    listening, built = await streams(listen, kind, EchoTarget)
    async with serving(endpoint_to(listening)) as service:  # type: ignore[arg-type]
        assert isinstance(service, ClientService)
        for count in (1, 2, 3):
            client = await connected(service)
            client.send(b"hello")
            await client.receives(b"hello")
            assert len(built) == count
            built[-1].transport.abortConnection()
            await client.is_lost()
            await turns()
        client = await connected(service)
    await client.is_lost()
    assert client.events == ["made", "lost"]
    await built[-1].is_lost()
    assert built[-1].reason.check(ConnectionDone)


@kinds
@pytest_twisted.ensureDeferred
async def test_amp(kind: str, listen: Any) -> None:
    """AMP calls there and back."""
    listening, _built = await streams(listen, kind, Calculator)
    client: Any = await patient(connectProtocol(endpoint_to(listening), amp.AMP()))
    for a in range(20):
        assert await patient(client.callRemote(Sum, a=a, b=81)) == {"total": a + 81}
    client.transport.loseConnection()
    await patient(listening.site.switched.when_empty())


@kinds
@pytest_twisted.ensureDeferred
async def test_server_speaks_first(kind: str, listen: Any) -> None:
    """What a server sends at once is the protocol's, of whom LineReceiver is the base."""
    listening, _built = await streams(listen, kind, Greeter)
    client: Any = await patient(connectProtocol(endpoint_to(listening), Greeted()))
    assert isinstance(client, LineReceiver)
    await client.until(lambda: b"welcome" in client.events)
    client.transport.loseConnection()
    await client.is_lost()
    assert client.events == ["made", b"welcome", "lost"]
    assert client.reason.check(ConnectionDone)


# The stream.


@kinds
@pytest_twisted.ensureDeferred
async def test_much_both_ways_at_once(kind: str, listen: Any) -> None:
    """Much data both ways at the same time arrives whole on either side."""
    listening, built = await streams(listen, kind, Collector)
    client: Any = await patient(connectProtocol(endpoint_to(listening), Collector()))
    (target,) = built
    for end in (client, target):
        Source(end.transport, MEGABYTE * 4)
    for end in (client, target):
        await end.has(len(MEGABYTE) * 4)
        assert end.data == MEGABYTE * 4
    client.transport.loseConnection()
    await target.is_lost()
    await client.is_lost()


@kinds
@pytest.mark.parametrize("backwards", [False, True])
@pytest_twisted.ensureDeferred
async def test_close_behind_much(kind: str, backwards: bool, listen: Any) -> None:
    """What has been written before loseConnection arrives on the other side, then both end cleanly."""
    listening, built = await streams(listen, kind, Collector)
    client: Any = await patient(connectProtocol(endpoint_to(listening), Collector()))
    (target,) = built
    first, second = (target, client) if backwards else (client, target)
    first.transport.write(MEGABYTE * 3)
    first.transport.loseConnection()
    first.transport.write(b"too late")
    await second.is_lost()
    await first.is_lost()
    assert second.data == MEGABYTE * 3
    assert first.reason.check(ConnectionDone)
    assert second.reason.check(ConnectionDone)
    assert first.events == ["made", "lost"]


@kinds
@pytest.mark.parametrize("backwards", [False, True])
@pytest_twisted.ensureDeferred
async def test_abort(kind: str, backwards: bool, listen: Any) -> None:
    """abortConnection ends both sides, and neither of them cleanly."""
    listening, built = await streams(listen, kind, Recorder)
    client: Any = await patient(connectProtocol(endpoint_to(listening), Recorder()))
    (target,) = built
    (target if backwards else client).transport.abortConnection()
    for end in (client, target):
        await end.is_lost()
        assert end.reason.check(ConnectionLost)
        assert end.events == ["made", "lost"]


@client_kinds
@pytest_twisted.ensureDeferred
async def test_what_is_asked_for(kind: str) -> None:
    """It offers ``binary`` and no compression, and takes an answer with or without it."""
    async with playing(kind) as server:
        for fields in (b"", b"Sec-WebSocket-Protocol: binary\r\n"):
            endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
            opening = connectProtocol(endpoint, Recorder())
            peer, head = await server.asked()
            assert field(head, b"sec-websocket-protocol") == b"binary"
            assert field(head, b"sec-websocket-extensions") is None
            peer.send(answer(head, fields) + frame(BINARY, b"at ") + frame(BINARY, b"once"))
            client: Any = await patient(opening)
            await client.receives(b"at once")
            client.send(b"hello")
            assert await next_frame(peer) == (BINARY, b"hello", True)
            peer.send(close())
            assert (await next_frame(peer)).code == 1000
            peer.transport.loseConnection()
            await client.is_lost()
            assert client.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_text_from_the_server() -> None:
    """A text message of the server's ends the connection with 1003; the protocol gets nothing of it."""
    async with playing() as server:
        endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
        opening = connectProtocol(endpoint, Recorder())
        peer, head = await server.asked()
        peer.send(answer(head) + frame(TEXT, b"hello"))
        client: Any = await patient(opening)
        assert (await next_frame(peer)).code == 1003
        peer.send(close(1003))
        peer.transport.loseConnection()
        await client.is_lost()
        assert client.events == ["made", "lost"]


# Connections that do not come about.


@pytest_twisted.ensureDeferred
async def test_refused(listen: Any) -> None:
    """A refusal is a NotSwitched with the response; the factory builds nothing."""
    listening, _built = await streams(listen, "tcp", lambda: None)
    factory, built = factory_of(Recorder)
    with pytest.raises(NotSwitched) as caught:
        await patient(endpoint_to(listening).connect(factory))
    assert caught.value.response.code == 503
    assert built == []
    assert factory.numPorts == 0


@pytest_twisted.ensureDeferred
async def test_no_protocol(listen: Any) -> None:
    """A factory that builds none fails with NoProtocol, and the WebSocket is closed."""
    listening, built = await streams(listen, "tcp", Recorder)
    factory, _ = factory_of(lambda: None)
    with pytest.raises(NoProtocol):
        await patient(endpoint_to(listening).connect(factory))
    await built[0].is_lost()
    await turns()
    assert factory.numPorts == 0


@pytest_twisted.ensureDeferred
async def test_factory_starts_and_stops(listen: Any) -> None:
    """The factory is started for a connection, and stopped at its end."""
    listening, built = await streams(listen, "tcp", Recorder)
    factory, mine = factory_of(Recorder)
    await patient(endpoint_to(listening).connect(factory))
    assert factory.numPorts == 1
    built[0].transport.loseConnection()
    await mine[0].is_lost()
    await turns()
    assert factory.numPorts == 0


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port that is taken, though nobody listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest_twisted.ensureDeferred
async def test_no_server(nowhere: int) -> None:
    """Where nobody listens, it fails as Twisted's own endpoints do."""
    with pytest.raises(ConnectionRefusedError):
        await patient(
            connectProtocol(WebSocketEndpoint(reactor, f"ws://127.0.0.1:{nowhere}/"), Recorder())
        )


@pytest.mark.parametrize("url", ["ftp://host/", "ws://host/#x", "ws://-h\u00f6st/", "host"])
def test_no_url(url: str) -> None:
    """What is no URL of a WebSocket is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        WebSocketEndpoint(reactor, url)


@client_kinds
@pytest_twisted.ensureDeferred
async def test_cancel(kind: str) -> None:
    """Cancelled while the server has not answered, it closes the connection."""
    async with playing(kind) as server:
        endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
        connecting = connectProtocol(endpoint, Recorder())
        peer, _head = await server.asked()
        connecting.cancel()
        with pytest.raises((CancelledError, ResponseFailed)):
            await patient(connecting)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_timeout() -> None:
    """A server that does not answer in time is a TimeoutError, and the connection is closed."""

    class Late(Clock):
        """A clock of the test's, for the timer alone: connections are the reactor's."""

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

    clock = Late()
    async with playing() as server:
        endpoint = WebSocketEndpoint(clock, server.url, agent=server.agent, timeout=7)
        connecting = connectProtocol(endpoint, Recorder())
        peer, _head = await server.asked()
        clock.advance(6.9)
        await turns()
        assert peer.reason is None
        clock.advance(0.2)
        with pytest.raises(InternetTimeoutError, match="7"):
            await patient(connecting)
        await peer.is_lost()


# Tunnels.


async def asking(listening: Any, fields: bytes = b"") -> Any:
    client = await listening.connect(WebSocketByHand())
    client.ask(fields)
    return client


@kinds
@pytest_twisted.ensureDeferred
async def test_tunnel(kind: str, listen: Any, servers: Servers) -> None:
    """A tunnel's far server and a client of the WebSocket get all that the other sends, and the end."""
    far = await servers("tcp")
    site = site_of({"websocket": byte_stream(tunnel(far.endpoint))})
    listening = await listen(kind, site)
    for backwards in (False, True):
        client: Any = await patient(connectProtocol(endpoint_to(listening), Collector()))
        there = await far.site.next()
        first, second = (there, client) if backwards else (client, there)
        Source(client.transport, MEGABYTE)
        Source(there.transport, MEGABYTE)
        await client.has(len(MEGABYTE))
        await there.has(len(MEGABYTE))
        first.transport.write(b"the end")
        first.transport.loseConnection()
        await second.sees_end()
        assert second.data == MEGABYTE + b"the end"
        second.transport.loseConnection()
        await client.is_lost()
        await there.is_lost()
    await patient(site.switched.when_empty())


@kinds
@pytest.mark.parametrize("backwards", [False, True])
@pytest_twisted.ensureDeferred
async def test_backpressure(kind: str, backwards: bool, listen: Any, servers: Servers) -> None:
    """An end that does not read stops the other end of the tunnel, and gets all when it reads."""
    far = await servers("tcp")
    listening = await listen(kind, site_of({"websocket": byte_stream(tunnel(far.endpoint))}))
    client: Any = await patient(connectProtocol(endpoint_to(listening), Collector()))
    there = await far.site.next()
    fast, slow = (there, client) if backwards else (client, there)
    slow.transport.pauseProducing()
    data = MEGABYTE * 40
    source = Source(fast.transport, data)
    await settled(lambda: source.sent)
    assert 0 < source.sent < 30_000_000
    slow.transport.resumeProducing()
    await slow.has(len(data))
    assert slow.data == data
    client.transport.abortConnection()
    await there.is_lost()


@pytest_twisted.ensureDeferred
async def test_tunnel_is_refused(listen: Any, nowhere: int) -> None:
    """A far server that is not there is a 502, and the connection stays HTTP's."""
    endpoint = localhost(nowhere)
    listening = await listen("tcp", site_of({"websocket": byte_stream(tunnel(endpoint))}))
    client = await asking(listening)
    assert status((await client.response())[0]) == 502
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_tunnel_takes_too_long(listen: Any) -> None:
    """A far server that is not connected in time is a 504, and the attempt is cancelled."""
    gate, clock = Gate(), Clock()
    site = site_of({"websocket": byte_stream(tunnel(gate, timeout=5))}, reactor=clock)
    client = await asking(await listen("tcp", site))
    await gate.until(lambda gate: gate.asked == 1)
    clock.advance(5)
    assert status((await client.response())[0]) == 504
    assert gate.cancelled == 1
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_client_leaves_while_connecting(listen: Any) -> None:
    """A client that leaves while the far server is being connected cancels that."""
    gate = Gate()
    client = await asking(await listen("tcp", site_of({"websocket": byte_stream(tunnel(gate))})))
    await gate.until(lambda gate: gate.asked == 1)
    client.transport.abortConnection()
    await gate.until(lambda gate: gate.cancelled == 1)


@pytest_twisted.ensureDeferred
async def test_far_connection_for_nothing(listen: Any, servers: Servers) -> None:
    """Where the answer is no 101 although the far server is connected, its connection is ended."""
    far = await servers("tcp")
    gate = Gate(far.endpoint)
    upgrades = {"websocket": byte_stream(tunnel(gate)), "echo": lambda *_: EchoTarget()}
    site = site_of(upgrades, max_switched=1)
    listening = await listen("tcp", site)
    client = await asking(listening)
    await gate.until(lambda gate: gate.asked == 1)
    other = await listening.connect()
    other.send(b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    assert status(await other.head()) == 101
    gate.open()
    assert status((await client.response())[0]) == 503
    there = await far.site.next()
    await there.sees_end()
    assert there.data == b""
    await is_http(client)
