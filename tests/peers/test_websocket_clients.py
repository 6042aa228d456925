"""
Other people's WebSocket clients against this package's server.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.threads import deferToThread
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from tests.kit.harness import KINDS, Waiters, WatchedSite, patient
from tests.kit.peers import (
    CLIENTS,
    COMPRESSING_CLIENTS,
    PLEASE_CLOSE,
    PLEASE_PING,
    REFUSED,
    WELCOME,
    RefusedError,
    connected,
    echoes,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import websocket

MANY = random.Random(6).randbytes(1_000_000)
TEXT = "ä€😀" * 100_000

clients = pytest.mark.parametrize("kind", CLIENTS)


class Server(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    """The server that ``peers`` speaks of."""

    factory: Any

    def onConnect(self, request: Any) -> str | None:
        if request.path == REFUSED:
            raise ConnectionDeny(403, "Forbidden")
        self._welcome = request.path == WELCOME
        return "b" if "b" in request.protocols else None

    def onOpen(self) -> None:
        if self._welcome:
            self.sendMessage(b"welcome")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if payload == PLEASE_PING.encode():
            self.sendPing(b"there?")
        elif payload == PLEASE_CLOSE.encode():
            self.sendClose(4002, "done")
        else:
            self.sendMessage(payload, isBinary)

    def onPong(self, payload: bytes) -> None:
        self.sendMessage(b"pong " + payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.closed.append((wasClean, code, reason))
        self.factory.waiters.look()


def compressing(offers: list[Any]) -> Any:
    """What a server compresses with."""
    offers = [offer for offer in offers if isinstance(offer, PerMessageDeflateOffer)]
    return PerMessageDeflateOfferAccept(offers[0]) if offers else None


@pytest.fixture
def serve(listen: Any) -> Any:
    """A listening site with such a server at every path."""

    async def start(kind: str = "tcp") -> Any:
        factory = WebSocketServerFactory()
        factory.protocol = Server
        factory.closed, factory.waiters = [], Waiters()
        factory.setProtocolOptions(perMessageCompressionAccept=compressing)
        listening = await listen(kind, WatchedSite(UpgradeResource({"websocket": websocket(factory)})))
        listening.factory = factory
        listening.url_to = lambda path="/": f"ws://127.0.0.1:{listening.port.getHost().port}{path}"
        return listening

    return start


def in_thread(function: Any, *arguments: Any, **kwargs: Any) -> Any:
    return patient(deferToThread(function, *arguments, **kwargs))


async def is_closed(listening: Any) -> Any:
    """What the server's protocol is told at the end; and nothing is left."""
    factory = listening.factory
    await factory.waiters.until(lambda: len(factory.closed) == 1)
    await patient(listening.site.switched.when_empty())
    return factory.closed[0]


@clients
@pytest_twisted.ensureDeferred
async def test_messages(serve: Any, kind: Any) -> None:
    """Text, binary and empty messages come back as they were, a megabyte too."""

    def talk(url: str) -> None:
        with connected(kind, url) as client:
            assert not client.compresses
            echoes(client, "text", b"\x00\xff", "", b"", TEXT, MANY)

    await in_thread(talk, (await serve()).url_to())


@pytest.mark.parametrize("kind", COMPRESSING_CLIENTS)
@pytest_twisted.ensureDeferred
async def test_compression(serve: Any, kind: Any) -> None:
    """With permessage-deflate messages come back as they were."""

    def talk(url: str) -> None:
        with connected(kind, url, compress=True) as client:
            assert client.compresses
            echoes(client, "text", "text", b"", TEXT, MANY, bytes(1_000_000))

    await in_thread(talk, (await serve()).url_to())


@clients
@pytest.mark.parametrize(("offered", "chosen"), [((), None), (("a", "b"), "b")])
@pytest_twisted.ensureDeferred
async def test_subprotocol(serve: Any, kind: Any, offered: tuple[str, ...], chosen: str | None) -> None:
    """The client knows the subprotocol that ``onConnect`` has chosen, or that it asked for none."""

    def talk(url: str) -> None:
        with connected(kind, url, offered) as client:
            assert client.subprotocol == chosen
            echoes(client, "text")

    await in_thread(talk, (await serve()).url_to())


@clients
@pytest_twisted.ensureDeferred
async def test_ping(serve: Any, kind: Any) -> None:
    """Pings are answered, in either direction, with what they carry."""

    def talk(url: str) -> None:
        with connected(kind, url) as client:
            client.ping("anybody")
            client.send(PLEASE_PING)
            assert client.receive() == "pong there?"
            echoes(client, "text")

    await in_thread(talk, (await serve()).url_to())


@clients
@pytest_twisted.ensureDeferred
async def test_client_closes(serve: Any, kind: Any) -> None:
    """The client's close code and reason arrive, and the connection is gone."""

    def talk(url: str) -> None:
        with connected(kind, url) as client:
            client.close(4001, "bye")

    listening = await serve()
    await in_thread(talk, listening.url_to())
    assert await is_closed(listening) == (True, 4001, "bye")


@clients
@pytest_twisted.ensureDeferred
async def test_server_closes(serve: Any, kind: Any) -> None:
    """The server's close code and reason arrive, and the connection is gone."""

    def talk(url: str) -> None:
        with connected(kind, url) as client:
            client.send(PLEASE_CLOSE)
            assert client.closed() == (4002, "done")

    listening = await serve()
    await in_thread(talk, listening.url_to())
    # The code is the one in the client's answer: some repeat the server's, others are just fine.
    clean, code, _reason = await is_closed(listening)
    assert clean
    assert code in (4002, 1000)


@clients
@pytest_twisted.ensureDeferred
async def test_drain(serve: Any, kind: Any) -> None:
    """A site that is drained closes with 1001, and is drained when the clients have answered."""
    listening = await serve()
    client = await in_thread(kind, listening.url_to(), [], False)
    try:
        drained = listening.site.drain(60)
        closed = await in_thread(client.closed)
    finally:
        await in_thread(client.end)
    await patient(drained)
    assert closed[0] == 1001
    assert (await is_closed(listening))[0]


@clients
@pytest_twisted.ensureDeferred
async def test_refused(serve: Any, kind: Any) -> None:
    """What ``onConnect`` denies with is the answer that the client sees."""

    def talk(url: str) -> None:
        with pytest.raises(RefusedError) as info:
            kind(url, [], False)
        assert info.value.args == (403,)

    listening = await serve()
    await in_thread(talk, listening.url_to(REFUSED))
    assert listening.site.lines == [(403, REFUSED.encode())]


@clients
@pytest_twisted.ensureDeferred
async def test_welcome(serve: Any, kind: Any) -> None:
    """What ``onOpen`` sends, right behind the 101, is the first that the client gets."""

    def talk(url: str) -> None:
        with connected(kind, url) as client:
            assert client.receive() == "welcome"
            echoes(client, "text")

    await in_thread(talk, (await serve()).url_to(WELCOME))


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_frames_at_once(serve: Any, kind: str) -> None:
    """Frames of ``websockets``, sent in one segment with its handshake, are answered."""
    protocol = ClientProtocol(parse_uri("ws://localhost/"))
    request = protocol.connect()
    frames = [Frame(Opcode.TEXT, b"text"), Frame(Opcode.BINARY, MANY[:5000])]
    sent = request.serialize() + b"".join(frame.serialize(mask=True) for frame in frames)
    client = await (await serve(kind)).connect()
    client.send(sent)
    await client.receives(MANY[:5000])
    protocol.receive_data(client.data)
    response, *answers = protocol.events_received()
    assert response.status_code == 101
    assert [(frame.opcode, frame.data) for frame in answers] == [
        (frame.opcode, frame.data) for frame in frames
    ]
