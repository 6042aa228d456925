"""
WebSockets at their edges: what is said beside the messages, pauses, producers, and ends of every kind.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from tests.kit.commands import fails
from tests.kit.farside import MEGABYTE, Source, settled
from tests.kit.harness import Recorder, factory_of, patient, reactor, site_of, turns
from tests.kit.prefaced import every_kind
from tests.kit.scripted import playing
from tests.kit.wscodec import BINARY, PING, TEXT
from tests.kit.wsstream import (
    Asked,
    answer,
    client_factory,
    close,
    frame,
    next_frame,
    playing_websocket,
    switched,
)
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream


@pytest_twisted.ensureDeferred
async def test_peer() -> None:
    """onConnect is told the peer."""
    told: list[Any] = []
    async with playing_websocket() as websocket:
        protocol, _peer = await websocket.open(client_factory(lambda: Asked(told.append)))
        port = websocket.server.port.getHost().port
        assert told[0].peer == f"tcp4:127.0.0.1:{port}"
        assert protocol.peer == told[0].peer


@pytest_twisted.ensureDeferred
async def test_server_goes_after_the_answer_tls() -> None:
    """The kind "tls" of test_websocket_client, test_server_goes_after_the_answer."""
    waiting: Deferred[None] = Deferred()
    asked = Asked(waiting)
    async with playing_websocket("tls") as websocket:
        opening, peer, head = await websocket.asked(client_factory(lambda: asked))
        peer.send(answer(head) + frame(TEXT, b"last words"))
        peer.transport.loseConnection()
        await asked.until("connect", None)
        await turns()
        waiting.callback(None)
        protocol = await patient(opening)
        await protocol.is_over()


async def switched_to(listen: Any, kind: str, make: Any) -> Any:
    factory, built = factory_of(make)
    listening = await listen(kind, site_of({"websocket": byte_stream(factory)}))
    client = await switched(listening)
    return listening, client, built[-1]


@pytest.mark.parametrize("frames", [close(masked=True), frame(TEXT, b"text", masked=True)])
@pytest_twisted.ensureDeferred
async def test_target_writes_behind_the_close(listen: Any, frames: bytes) -> None:
    """What a target writes when the client has closed is dropped, as a transport does it."""
    listening, client, target = await switched_to(listen, "tcp", Recorder)
    client.transport.pauseProducing()
    target.transport.write(b"x" * 10_000_000)
    client.send(frames)
    (connection,) = listening.site.switched
    # The transport has more to write than the kernel takes: it is read only when the client reads.
    client.transport.resumeProducing()
    await client.until(lambda: connection.target.state != connection.target.STATE_OPEN)
    assert "lost" not in target.events
    target.transport.write(b"more")
    target.transport.writeSequence([b"more", b"still"])
    client.send(close(masked=True))
    await target.is_lost()
    target.transport.write(b"more")


@pytest_twisted.ensureDeferred
async def test_target_writes_when_draining(listen: Any) -> None:
    """What a target writes when its site has said goodbye is dropped; nothing raises."""
    listening, client, target = await switched_to(listen, "tcp", Recorder)
    listening.site.reactor = clock = Clock()
    drained = listening.site.drain(30)
    clock.advance(29)
    target.transport.write(b"more")
    assert (await next_frame(client)).code == 1001
    client.send(close(1001, masked=True))
    await patient(drained)


@every_kind
@pytest_twisted.ensureDeferred
async def test_paused_target_closes(listen: Any, kind: str) -> None:
    """A target that closes while it has paused its transport sees the client's answer."""
    _listening, client, target = await switched_to(listen, kind, Recorder)
    target.transport.pauseProducing()
    target.transport.loseConnection()
    assert (await next_frame(client)).code == 1000
    client.send(close(masked=True))
    await client.is_lost()
    await target.is_lost()
    assert target.reason.check(ConnectionDone)


@every_kind
@pytest_twisted.ensureDeferred
async def test_paused_target_that_writes(listen: Any, kind: str) -> None:
    """A target that has paused its transport stays paused when what it has written has gone out."""
    _listening, client, target = await switched_to(listen, kind, Recorder)
    target.transport.pauseProducing()
    client.transport.pauseProducing()
    target.transport.write(b"x" * 10_000_000)
    await turns(5)
    client.send_frame(BINARY, b"not yet")
    client.transport.resumeProducing()
    await next_frame(client)
    await turns(5)
    assert target.data == b""
    target.transport.resumeProducing()
    await target.receives(b"not yet")


@pytest_twisted.ensureDeferred
async def test_pings_to_one_who_does_not_read(listen: Any) -> None:
    """A client that pings without reading the answers is not read any more."""
    for unregister in (False, True):
        listening, client, target = await switched_to(listen, "tcp", Recorder)
        if unregister:
            target.transport.registerProducer(target.transport, True)
            target.transport.unregisterProducer()
        client.transport.pauseProducing()
        (connection,) = list(listening.site.switched)[-1:]
        ping = frame(PING, b"x" * 125, masked=True)
        for _ in range(100):
            client.send(ping * 1000)
        traffic = connection.target.trafficStats
        await settled(lambda traffic=traffic: traffic.incomingOctetsWireLevel)
        assert traffic.incomingOctetsWireLevel < 100_000 * len(ping), unregister
        client.transport.abortConnection()
        await target.is_lost()


@pytest_twisted.ensureDeferred
async def test_producer_and_close(listen: Any) -> None:
    """loseConnection waits for a registered producer, as a transport does."""
    _listening, client, target = await switched_to(listen, "tcp", Recorder)
    source = Source(target.transport, MEGABYTE)
    target.transport.loseConnection()
    received = bytearray()
    while (got := await next_frame(client)).opcode == BINARY:
        received += got.payload
    assert received == MEGABYTE
    assert source.sent == len(MEGABYTE)


@pytest_twisted.ensureDeferred
async def test_stop_producing_and_abort(listen: Any) -> None:
    """Aborting twice, or when all is over, is harmless."""
    _listening, client, target = await switched_to(listen, "tls", Recorder)
    target.transport.abortConnection()
    target.transport.abortConnection()
    await target.is_lost()
    target.transport.abortConnection()
    target.transport.loseConnection()
    target.transport.registerProducer(target.transport, True)
    await client.is_lost()


@every_kind
@pytest_twisted.ensureDeferred
async def test_text_behind_much(listen: Any, kind: str) -> None:
    """1003 arrives although the client has sent more than the server has read."""
    _listening, client, _target = await switched_to(listen, kind, Recorder)
    client.send(frame(TEXT, b"\xff" * 500_000, masked=True))
    client.send(frame(BINARY, b"\xff" * 500_000, masked=True))
    assert (await next_frame(client)).code == 1003


@pytest.mark.parametrize("url", [("ws://127.0.0.1:1/#x",), ("http://127.0.0.1:1/#x", "websocket")])
def test_fragment(url: tuple[str, ...]) -> None:
    """A fragment is an error in the options."""
    fails(2, "connect", *url)
    fails(2, "forward", "tcp:0:interface=127.0.0.1", *url)


@pytest.mark.parametrize("behind", [frame(0, b"no message"), frame(TEXT, b"text"), close(1011)])
@pytest_twisted.ensureDeferred
async def test_failed_is_not_clean(behind: bytes) -> None:
    """An end by a broken frame, a text message or the server's error is not a clean one."""
    async with playing() as server:
        endpoint = WebSocketEndpoint(reactor, server.url, agent=server.agent)
        opening = connectProtocol(endpoint, Recorder())
        peer, head = await server.asked()
        peer.send(answer(head) + behind)
        client: Any = await patient(opening)
        await next_frame(peer)
        peer.send(close())
        peer.transport.loseConnection()
        await client.is_lost()
        assert client.reason.check(ConnectionLost)
