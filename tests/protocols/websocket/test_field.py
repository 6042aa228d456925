"""
WebSockets as peers in the field have them: what a close, a refusal, or an answer may look like, and how
long opening one may take.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.task import Clock

from tests.kit.harness import patient, site_of, status, turns
from tests.kit.observing import Details
from tests.kit.wscodec import BINARY, CLOSE
from tests.kit.wsframes import (
    Echo,
    close_frame,
    handshake,
    instead,
    raw_client,
    websocket_factory,
    websocket_site,
)
from tests.kit.wsstream import Remembering, answer, client_factory, frame, playing_websocket
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.protocols import websocket


@pytest.mark.parametrize(
    ("request_head", "detail"),
    [
        (handshake(b"Origin: https://x"), "origin https://x is not allowed"),
        (handshake(b"Origin: \xff\x1b[2J"), "origin \xff?[2J is not allowed"),
        (handshake(b"Origin: " + b"x" * 5000), f"origin {'x' * 200}... is not allowed"),
        (instead(b"Sec-WebSocket-Key", b" x"), "Sec-WebSocket-Key"),
        (instead(b"Sec-WebSocket-Version", b" 8"), "Sec-WebSocket-Version"),
        (handshake(line=b"POST /u HTTP/1.1"), "GET"),
        (handshake(b"Sec-WebSocket-Protocol: a b"), "Sec-WebSocket-Protocol"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_declined(listen: Any, request_head: bytes, detail: str) -> None:
    """Whoever operates the site can see which rule a handshake has broken."""
    observer = Details()
    site = websocket_site(websocket_factory(), ["https://example.com"], observers=[observer])
    client = await raw_client(await listen("tcp", site))
    client.send(request_head)
    assert status(await client.head()) in (400, 403, 405, 426)
    (found,) = observer.declines
    assert detail in found
    assert len(found) < 300


class Raising(Echo):
    """Its end goes wrong."""

    def onClose(self, *args: Any) -> None:
        super().onClose(*args)
        raise ZeroDivisionError


class RaisingEarly(Echo):
    """Its end goes wrong before autobahn hears of it."""

    def connectionLost(self, reason: Any = None) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("make", [Raising, RaisingEarly])
@pytest_twisted.ensureDeferred
async def test_places(listen: Any, make: Any, errors: Any) -> None:
    """A protocol that fails at its end gives its place in ``maxConnections`` back."""
    observer = Details()
    factory = websocket_factory(make, options={"maxConnections": 1})
    listening = await listen("tcp", websocket_site(factory, observers=[observer]))
    for _ in range(3):
        client = await raw_client(listening)
        await client.opens()
        full = await raw_client(listening)
        full.send(handshake())
        assert status(await full.head()) == 503
        client.send(close_frame(1000))
        await client.is_lost()
        await turns(5)
        assert factory.countConnections == 0
    assert observer.declines == ["max connections: the factory's maxConnections is 1"] * 3
    errors.take(3)


@pytest.mark.parametrize("echo", [False, True])
@pytest_twisted.ensureDeferred
async def test_bad_gateway(listen: Any, echo: bool) -> None:
    """Close code 1014 is one of those that a peer may send."""
    factory = websocket_factory(options={"echoCloseCodeReason": echo})
    client = await raw_client(await listen("tcp", websocket_site(factory)))
    await client.opens()
    client.send(close_frame(1014, b"gone"))
    said = await client.frame()
    assert (said.opcode, said.code) == (CLOSE, 1014 if echo else 1000)
    (server,) = factory.built
    assert await server.has("close") == ("close", True, 1014)


@pytest_twisted.ensureDeferred
async def test_counts(listen: Any) -> None:
    """The bytes of messages are counted, those of prepared ones too, and are right at the end."""
    observer = Details()
    factory = websocket_factory()
    listening = await listen("tcp", websocket_site(factory, observers=[observer]))
    client = await raw_client(listening)
    await client.opens()
    await client.echoes(b"x" * 1000)
    (server,) = factory.built
    server.sendPreparedMessage(factory.prepareMessage(b"y" * 500, True))
    assert (await client.frame()).payload == b"y" * 500
    (connection,) = listening.site.switched
    assert (connection.bytes_in, connection.bytes_out) == (1000, 1500)
    await client.closes()
    await turns(5)
    assert observer.counts == [(1000, 1500)]


@pytest.mark.parametrize("field", [b"Sec-WebSocket-Protocol:\r\n", b"Sec-WebSocket-Protocol:  \r\n"])
@pytest_twisted.ensureDeferred
async def test_empty_subprotocol(field: bytes) -> None:
    """An empty Sec-WebSocket-Protocol in a server's answer means that none was chosen."""
    async with playing_websocket() as scripted:
        protocol, _ = await scripted.open(client_factory(protocols=["chat"]), field)
        assert protocol.events[0] == ("connect", None)


# How long opening may take.


@pytest.mark.parametrize(
    ("option", "timeout", "expected"),
    [(None, None, 5), (12, None, 12), (12, 3, 3), (0, None, None), (12, 0, None)],
)
@pytest_twisted.ensureDeferred
async def test_timeout(option: Any, timeout: Any, expected: float | None) -> None:
    """A server that does not answer: TimeoutError after ``timeout``, else ``openHandshakeTimeout``."""
    async with playing_websocket() as scripted:
        clock = scripted.server.pool.clock = Clock()
        factory = client_factory()
        if option is not None:
            factory.setProtocolOptions(openHandshakeTimeout=option)
        opening, peer, head = await scripted.asked(factory, timeout=timeout)
        clock.advance((expected or 10_000) - 0.1)
        assert not opening.called
        if expected is None:
            peer.send(answer(head))
            scripted.opened.append(await patient(opening))
            return
        clock.advance(0.1)
        with pytest.raises(InternetTimeoutError, match=f"within {expected} seconds") as caught:
            await patient(opening)
        assert isinstance(caught.value, ConnectError)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_timeout_is_over() -> None:
    """An open WebSocket has no opening timer any more."""
    async with playing_websocket() as scripted:
        clock = scripted.server.pool.clock = Clock()
        protocol, peer = await scripted.open()
        assert isinstance(protocol, Remembering)
        clock.advance(100)
        peer.send(frame(BINARY, b"hello"))
        await protocol.until("message", b"hello", True)
        assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_negative_timeout() -> None:
    """A time below 0 is refused at once."""
    async with playing_websocket() as scripted:
        with pytest.raises(InvalidArgument):
            scripted.connect(timeout=-1)


def test_is_an_acceptor() -> None:
    """The arguments may be given by position, the factory first."""
    assert site_of(UpgradeResource({"websocket": websocket(websocket_factory(), ["*"], 100)}))
