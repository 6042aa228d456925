"""
The frames that a stream of bytes is sent in, and when they are sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone

from tests.kit.farside import Servers
from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, reactor, site_of
from tests.kit.polled import writers
from tests.kit.scripted import playing
from tests.kit.wscodec import BINARY, PING, PONG, parse
from tests.kit.wsstream import answer, close, frame, next_frame, switched
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream, tunnel
from upgrade_switch.splicing import Splice

#: Those at which a frame's head becomes longer, and large ones, whose head is a part of its own.
SIZES = (1, 125, 126, 10_000, 16_384, 16_385, 65_535, 65_536, 300_000)

every_kind = pytest.mark.parametrize("kind", ["tcp", "tcp at once", "tls", "unix at once"])
client_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def is_waiting(transport: Any) -> bool:
    """Whether something waits for the reactor's next turn."""
    return transport in writers()


def bare(protocol: Any) -> Any:
    """The socket's transport beneath a stream of bytes."""
    return protocol.transport.carrier


# What they are.


@every_kind
@pytest_twisted.ensureDeferred
async def test_of_a_server(kind: str, listen: Any) -> None:
    """A server's frame has all that is written at a time, with the shortest head, and is not masked."""
    factory, built = factory_of(Recorder)
    client = await switched(await listen(kind, site_of({"websocket": byte_stream(factory)})))
    (target,) = built
    for size in SIZES:
        target.transport.write(data_of(size))
    expected = b"".join(frame(BINARY, data_of(size)) for size in SIZES)
    await client.until(lambda: len(client.data) >= len(expected))
    assert client.data == expected
    assert target.transport._websocket.octets_sent == len(expected)
    assert target.transport._websocket.bytes_out == sum(SIZES)
    client.send(close(masked=True))
    await client.is_lost()
    await target.is_lost()
    assert target.reason.check(ConnectionDone)


@client_kinds
@pytest_twisted.ensureDeferred
async def test_of_a_client(kind: str) -> None:
    """A client's is masked, each with a mask of its own (RFC 6455 §5.3)."""
    async with playing(kind) as server:
        endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
        opening = connectProtocol(endpoint, Recorder())
        peer, head = await server.asked()
        peer.send(answer(head))
        client: Any = await patient(opening)
        masks = set()
        for size in SIZES:
            client.send(data_of(size))
            await peer.until(lambda: parse(peer.data)[0] is not None)
            whole, (found, peer.data) = peer.data, parse(peer.data)
            assert found == (BINARY, data_of(size), True, 0, True)
            at = len(whole) - len(peer.data) - size
            masks.add(whole[at - 4 : at])
            assert len(frame(BINARY, bytes(size), masked=True)) == at + size
        assert len(masks) == len(SIZES)
        assert client.transport._websocket.octets_sent == sum(
            len(frame(BINARY, bytes(size), masked=True)) for size in SIZES
        )
        peer.send(close())
        await next_frame(peer)
        peer.transport.loseConnection()
        await client.is_lost()


# When they are sent.


async def opened(server: Any, make: Callable[[], Any] = Recorder) -> tuple[Any, Any]:
    """A client whose WebSocket is open, and the server's side."""
    endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
    opening = connectProtocol(endpoint, make())
    peer, head = await server.asked()
    peer.send(answer(head))
    return await patient(opening), peer


async def end(client: Any, peer: Any) -> None:
    peer.send(close())
    peer.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_at_once() -> None:
    """A client's first frame behind what has come is sent at once; the next wait, and go together."""
    async with playing() as server:
        client, peer = await opened(server)
        # One of them has been sent, behind the answer to the handshake.
        for expected in (b"first", b"answer"):
            assert not is_waiting(bare(client))
            client.send(expected)
            assert not is_waiting(bare(client))
            assert await next_frame(peer) == (BINARY, expected, True)
            client.send(b"one")
            client.send(b"two")
            assert is_waiting(bare(client))
            for waited in (b"one", b"two"):
                assert await next_frame(peer) == (BINARY, waited, True)
            peer.send(frame(BINARY, b"question"))
            await client.receives(b"question")
        await end(client, peer)


@pytest_twisted.ensureDeferred
async def test_greeting_at_once() -> None:
    """What a client says in connectionMade is sent then."""
    found: list[bool] = []

    class Greeting(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.send(b"hello")
            found.append(is_waiting(bare(self)))

    async with playing() as server:
        client, peer = await opened(server, Greeting)
        assert found == [False]
        assert await next_frame(peer) == (BINARY, b"hello", True)
        await end(client, peer)


@pytest_twisted.ensureDeferred
async def test_behind_what_waits() -> None:
    """Nothing overtakes what waits: neither a frame a pong, nor a pong a frame."""
    async with playing() as server:
        client, peer = await opened(server, EchoTarget)
        peer.send(frame(PING, b"1") + frame(BINARY, b"2") + frame(PING, b"3") + frame(BINARY, b"4"))
        for expected in ((PONG, b"1"), (BINARY, b"2"), (PONG, b"3"), (BINARY, b"4")):
            assert await next_frame(peer) == (*expected, True)
        await end(client, peer)


def waits_of(transport: Any) -> list[int]:
    """Gets an entry whenever something is left to the reactor's next turn, from now on."""
    waits: list[int] = []
    start = transport.startWriting

    def noted() -> None:
        waits.append(1)
        start()

    transport.startWriting = noted
    return waits


@pytest.mark.parametrize("kind", ["tcp", "tcp at once"])
@pytest_twisted.ensureDeferred
async def test_tunnel(kind: str, listen: Any) -> None:
    """A tunnel passes on at once what comes, also if the client says nothing between."""
    servers = Servers(listen)
    server = await servers("tcp", Recorder)
    listening = await listen(kind, site_of({"websocket": byte_stream(tunnel(server.endpoint))}))
    client = await switched(listening)
    far = await server.site.next()
    client.send_frame(BINARY, b"up")
    await far.receives(b"up")
    (entry,) = listening.site.switched
    waits = waits_of(entry.target.transport)
    for number in range(3):
        far.send(b"down %d" % number)
        assert await next_frame(client) == (BINARY, b"down %d" % number, True)
    assert waits == []
    client.transport.abortConnection()
    await far.is_lost()
    await servers.stop()


@pytest_twisted.ensureDeferred
async def test_spliced_client(listen: Any) -> None:
    """A client's stream that is spliced passes on at once what comes from either side."""
    servers = Servers(listen)
    server = await servers("tcp", Recorder)
    joined = Splice()
    stream, plain = joined.ends
    async with playing() as websockets:
        endpoint = WebSocketEndpoint(reactor, websockets.url, agent=websockets.agent)
        opening = connectProtocol(endpoint, stream)
        peer, head = await websockets.asked()
        peer.send(answer(head))
        await patient(opening)
        await patient(connectProtocol(server.endpoint, plain))
        far = await server.site.next()
        # Before something has come from it, a connection may have only just been made.
        far.send(b"up")
        peer.send(frame(BINARY, b"down"))
        assert await next_frame(peer) == (BINARY, b"up", True)
        await far.receives(b"down")
        waits = waits_of(bare(stream)), waits_of(plain.transport)
        for number in (b"1", b"2", b"3"):
            far.send(number)
            assert await next_frame(peer) == (BINARY, number, True)
        # Of several frames that come together, the first goes, and the others go together.
        peer.send(frame(BINARY, b"one"))
        await far.receives(b"one")
        assert waits == ([], [])
        peer.send(frame(BINARY, b" two") + frame(BINARY, b" three") + frame(BINARY, b" four"))
        await far.receives(b" two three four")
        assert waits[1] != []
        peer.transport.abortConnection()
        await far.is_lost()
        await patient(joined.done)
    await servers.stop()
