"""
This package's WebSocket client against other people's servers.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.client import readBody

from tests.kit.harness import Waiters, patient, reactor
from tests.kit.peers import PLEASE_CLOSE, PLEASE_PING, REFUSED, SERVERS, WELCOME
from upgrade_switch import NotSwitched, UpgradePool
from upgrade_switch.protocols import connect_websocket

MANY = random.Random(7).randbytes(1_000_000)

Message = str | bytes


class Client(WebSocketClientProtocol):  # type: ignore[misc]  # autobahn's own bases
    """Remembers what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self.pongs: list[bytes] = []
        self.ended: tuple[bool, int | None, str | None] | None = None
        self.waiters = Waiters()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages.append(payload if isBinary else payload.decode())
        self.waiters.look()

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)
        self.waiters.look()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended = wasClean, code, reason
        self.waiters.look()

    def send(self, message: Message) -> None:
        self.sendMessage(
            message.encode() if isinstance(message, str) else message, type(message) is bytes
        )

    def receives(self, *messages: Message) -> Deferred[None]:
        """Fires when these messages have come; they are taken off."""

        def take(_: None) -> None:
            assert self.messages == list(messages)
            self.messages.clear()

        return self.waiters.until(lambda: len(self.messages) >= len(messages)).addCallback(take)

    def has_ended(self) -> Deferred[None]:
        return self.waiters.until(lambda: self.ended is not None)


@pytest_twisted.async_yield_fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> Any:
    """One of the servers; what it waits for at its end, the reactor has to do."""
    running = request.param()
    yield running
    await patient(deferToThread(running.end))


def compressing(response: Any) -> Any:
    """What a client compresses with."""
    if isinstance(response, PerMessageDeflateResponse):
        return PerMessageDeflateResponseAccept(response)
    return None


def connect(
    server: Any, path: str = "/", protocols: tuple[str, ...] = (), compress: bool = False
) -> Deferred[Client]:
    """Our client, connected."""
    factory = WebSocketClientFactory(protocols=list(protocols), reactor=reactor)
    factory.protocol = Client
    if compress:
        factory.setProtocolOptions(
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=compressing,
        )
    url = f"ws://127.0.0.1:{server.port}{path}"
    opened: Deferred[Client] = connect_websocket(UpgradePool(reactor), url, factory)
    return patient(opened)


async def echoes(client: Client, *messages: Message) -> None:
    """Each message comes back, of the same type; and then all of them, sent at once."""
    for message in messages:
        client.send(message)
        await client.receives(message)
    for message in messages:
        client.send(message)
    await client.receives(*messages)


async def close(client: Client) -> None:
    client.sendClose(1000)
    await client.has_ended()


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest_twisted.ensureDeferred
async def test_messages(server: Any, compress: bool) -> None:
    """Messages come back as they were, a megabyte too, with permessage-deflate and without."""
    client = await connect(server, compress=compress)
    assert [e.EXTENSION_NAME for e in client.websocket_extensions_in_use] == [
        "permessage-deflate"
    ] * compress
    await echoes(client, "text", b"\x00\xff", "", b"", "ä€😀" * 100_000, MANY, bytes(1_000_000))
    await close(client)


@pytest.mark.parametrize(("offered", "chosen"), [((), None), (("a", "b"), "b")])
@pytest_twisted.ensureDeferred
async def test_subprotocol(server: Any, offered: tuple[str, ...], chosen: str | None) -> None:
    """The client's protocol knows the subprotocol that the server has chosen, or that there is none."""
    client = await connect(server, protocols=offered)
    assert client.websocket_protocol_in_use == chosen
    await echoes(client, "text")
    await close(client)


@pytest_twisted.ensureDeferred
async def test_ping(server: Any) -> None:
    """Pings are answered, in either direction, with what they carry."""
    client = await connect(server)
    client.sendPing(b"anybody")
    await client.waiters.until(lambda: client.pongs == [b"anybody"])
    client.send(PLEASE_PING)
    await client.receives("pong there?")
    await close(client)


@pytest_twisted.ensureDeferred
async def test_client_closes(server: Any) -> None:
    """The client's close code and reason arrive, and their echo comes back."""
    client = await connect(server)
    client.sendClose(4001, "bye")
    await client.has_ended()
    assert client.ended == (True, 4001, "bye")
    assert await patient(deferToThread(server.closed)) == (4001, "bye")


@pytest_twisted.ensureDeferred
async def test_server_closes(server: Any) -> None:
    """The server's close code and reason arrive, and are answered (with autobahn's own code)."""
    client = await connect(server)
    client.send(PLEASE_CLOSE)
    await client.has_ended()
    assert client.ended == (True, 4002, "done")
    assert (await patient(deferToThread(server.closed)))[0] == 1000


@pytest_twisted.ensureDeferred
async def test_welcome(server: Any) -> None:
    """What the server sends in one go with its 101 is not lost."""
    client = await connect(server, WELCOME)
    await client.receives("welcome")
    await echoes(client, "text")
    await close(client)


@pytest_twisted.ensureDeferred
async def test_refused(server: Any) -> None:
    """A refusal is a NotSwitched, with the response."""
    with pytest.raises(NotSwitched) as info:
        await connect(server, REFUSED)
    response: Any = info.value.response
    assert response.code == 403
    assert b"Forbidden" in await patient(readBody(response))
