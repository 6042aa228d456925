"""
What autobahn's users are used to do with their protocols, where it is less than obvious on the switch:
transports of every kind, producers and closing by hand, odd answers of ``onConnect``.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.protocols.policies import WrappingFactory

from tests.kit.certificate import SERVER
from tests.kit.harness import KINDS, patient, site_of, status, turns
from tests.kit.securing import ask_for_tls, secured
from tests.kit.wscodec import CLOSE
from tests.kit.wsframes import (
    GOING_AWAY,
    Echo,
    Stops,
    close_frame,
    deciding,
    frame,
    handshake,
    raw_client,
    waiting_in,
    websocket_factory,
    websocket_site,
)
from upgrade_switch.errors import InvalidUpgrades
from upgrade_switch.protocols import tls, websocket
from upgrade_switch.protocols._origin import normal_origin


class Lenient(Echo):
    def _onOpen(self) -> None:
        self.onOpen()


@pytest.mark.parametrize("make", [Echo, Lenient])
@pytest_twisted.ensureDeferred
async def test_inside_upgraded_tls(listen: Any, make: Any) -> None:
    """A WebSocket inside TLS by upgrade is one entry, knows that it is secure, and closes in TLS."""
    factory = websocket_factory(make)
    upgrades = {"TLS": tls(SERVER.options(), any_request=True)}
    site = site_of({"websocket": websocket(factory)}, upgrades=upgrades)
    listening = await listen("tcp", site)
    client = await secured(listening, ask_for_tls(b"/page"), await raw_client(listening))
    assert (await client.response())[1] == b"page GET "
    await client.opens(behind=frame(b"first"))
    assert (await client.frame()).payload == b"first"
    protocol = factory.built[0]
    assert protocol.transport_details.is_secure
    assert protocol.transport.protocol.wrappedProtocol is protocol
    (entry,) = site.switched
    assert (str(entry.token), entry.path, entry.target) == ("websocket", b"/u", protocol)
    drained = site.drain(60)
    await client.closed(GOING_AWAY)
    await patient(drained)


@pytest_twisted.ensureDeferred
async def test_wrapper_over_tls(listen: Any) -> None:
    """A WebSocket works where a ProtocolWrapper stands above TLS."""
    factory = websocket_factory()
    site = websocket_site(factory)
    wrapping: Any = WrappingFactory(site)
    wrapping.switched = site.switched
    wrapping.received = 0
    client = await raw_client(await listen("tls", wrapping))
    await client.opens()
    await client.echoes()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_producer_of_the_transport(serve: Any, kind: str) -> None:
    """A protocol can register a producer with its transport, as with any transport."""
    client, protocol = await serve(kind=kind)
    protocol.transport.registerProducer(Stops(), True)
    protocol.transport.unregisterProducer()
    await client.echoes()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_bounded_after_a_producer(serve: Any, kind: str) -> None:
    """When a protocol's own producer has gone, who does not read is not read either, as before."""
    client, protocol = await serve(kind=kind)
    protocol.registerProducer(Stops(), True)
    protocol.unregisterProducer()
    client.transport.pauseProducing()
    message = frame(b"x" * 100_000)
    for _ in range(500):
        client.send(message)
    before, still = -1, 0
    while still < 50:
        await turns(1)
        still = still + 1 if len(protocol.events) == before else 0
        before = len(protocol.events)
    assert waiting_in(protocol) < 5_000_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 10_000_000])
@pytest.mark.parametrize("where", ["onOpen", "onMessage"])
@pytest_twisted.ensureDeferred
async def test_transport_closed_by_hand(listen: Any, kind: str, size: int, where: str) -> None:
    """transport.loseConnection() ends the connection when everything has been sent."""

    class Closes(Echo):
        def onOpen(self) -> None:
            if where == "onOpen":
                self.end()

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.end()

        def end(self) -> None:
            if size:
                self.sendMessage(b"x" * size, True)
            self.transport.loseConnection()

    factory = websocket_factory(Closes)
    client = await raw_client(await listen(kind, websocket_site(factory)))
    await client.opens()
    if where == "onMessage":
        client.send(frame(b"x"))
    await client.is_lost()
    assert len(client.data) >= size


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_pause_of_ones_own(serve: Any, kind: str) -> None:
    """A protocol that has paused its transport gets nothing until it resumes, whatever it sends."""
    client, protocol = await serve(kind=kind)
    protocol.transport.pauseProducing()
    protocol.sendMessage(b"x" * 10_000_000, True)
    client.send(frame(b"held back"))
    assert len((await client.frame()).payload) == 10_000_000
    await turns(20)
    assert protocol.messages == []
    protocol.transport.resumeProducing()
    await protocol.has("message")


@pytest_twisted.ensureDeferred
async def test_most_connections_later(listen: Any) -> None:
    """maxConnections holds where onConnect answers later, too."""
    decisions: list[Any] = []

    def decide(request: Any) -> Any:
        decisions.append(Deferred())
        return decisions[-1]

    factory = deciding(decide, options={"maxConnections": 1})
    listening = await listen("tcp", websocket_site(factory))
    clients = [await raw_client(listening) for _ in range(3)]
    for client in clients:
        client.send(handshake())
    await listening.site.has_received(3 * len(handshake()))
    for decision in decisions:
        decision.callback(None)
    codes = [status(await client.head()) for client in clients]
    assert sorted(codes) == [101, 503, 503]


def test_class() -> None:
    """A factory's class is no factory."""
    with pytest.raises(InvalidUpgrades, match="not an autobahn"):
        websocket(WebSocketServerFactory)


@pytest.mark.parametrize("options", [None, {}, {"allowedOrigins": ["https://a.example", "*"]}])
@pytest.mark.parametrize(
    "origin", [b"null", b"file://", b"http://a.example/", b"", b"https://", b"http:///x", b"nonsense"]
)
@pytest_twisted.ensureDeferred
async def test_any_origin(listen: Any, options: Any, origin: bytes) -> None:
    """Where any origin is allowed, that is any: also after ``setProtocolOptions``, about whatever."""
    client = await raw_client(await listen("tcp", websocket_site(websocket_factory(options=options))))
    await client.opens(handshake(b"Origin: " + origin))


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"allowedOrigins": ["https://a.example:443"]}, (403, 403)),
        ({"allowedOrigins": ["https://a.example:443"], "allowNullOrigin": True}, (101, 101)),
        ({"allowedOrigins": ["https://a.example:443", "null"]}, (101, 403)),
        ({"allowedOrigins": ["https://a.example:443", "file://"]}, (403, 101)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_null_origin(listen: Any, options: Any, codes: tuple[int, int]) -> None:
    """The factory's own list may name "null" and "file://"; ``allowNullOrigin`` allows both."""
    listening = await listen("tcp", websocket_site(websocket_factory(options=options)))
    answers = []
    for origin in (b"null", b"file://"):
        client = await raw_client(listening)
        client.send(handshake(b"Origin: " + origin))
        answers.append(status(await client.head()))
    assert tuple(answers) == codes


@pytest_twisted.ensureDeferred
async def test_no_room_afterwards(listen: Any) -> None:
    """A 503 that comes instead of the 101 has none of the handshake's fields."""
    decision: Deferred[Any] = Deferred()
    factory = deciding(lambda request: decision, headers={"X-Own": "x"})
    site = websocket_site(factory, max_switched=1)
    listening = await listen("tcp", site)
    late = await raw_client(listening)
    late.send(handshake(b"Sec-WebSocket-Protocol: chat"))
    await site.has_received(10)
    await turns()
    factory.decide = lambda request: None
    await (await raw_client(listening)).opens()
    decision.callback("chat")
    head, _ = await late.response()
    assert status(head) == 503
    assert b"websocket" not in head.lower()


@pytest.mark.parametrize("code", [100, 101, 103, 200, 204, 304, 99, 0, -1, 1000, 10**6])
@pytest_twisted.ensureDeferred
async def test_codes(listen: Any, code: int, errors: Any) -> None:
    """A code that does not refuse, or is not a code, is a mistake: 500."""

    def deny(request: Any) -> None:
        raise ConnectionDeny(code, "x")

    client = await raw_client(await listen("tcp", websocket_site(deciding(deny))))
    client.send(handshake())
    head = await client.head()
    errors.clear()
    assert status(head) == 500, head


@pytest_twisted.ensureDeferred
async def test_drain_with_messages_on_their_way(serve: Any) -> None:
    """Messages that were on their way when the site said goodbye do no harm."""
    client, protocol = await serve()
    client.site.drain(60)
    client.send(frame(b"on its way"))
    said = await client.frame()
    assert said.opcode == CLOSE
    client.send(close_frame(GOING_AWAY))
    await client.is_lost()
    assert (await protocol.has("close"))[1:] == (True, GOING_AWAY)


@pytest.mark.parametrize(
    "answer", [(None, {"X": 1}), (None, {"X": b"1"}), (None,), (None, None), (None, {"X": [1, 2]})]
)
@pytest_twisted.ensureDeferred
async def test_headers(listen: Any, answer: Any) -> None:
    """What autobahn takes from onConnect is taken here."""
    client = await raw_client(await listen("tcp", websocket_site(deciding(lambda request: answer))))
    await client.opens()


@pytest_twisted.ensureDeferred
async def test_surrogate(listen: Any) -> None:
    """A reason that cannot be encoded is no 500."""

    def deny(request: Any) -> None:
        raise ConnectionDeny(403, "\ud800")

    client = await raw_client(await listen("tcp", websocket_site(deciding(deny))))
    client.send(handshake())
    assert status((await client.response())[0]) == 403


def test_kelvin() -> None:
    """A character that becomes ASCII in lower case is not allowed in a host."""
    assert normal_origin("https://\u212aelvin.example") is None
    assert normal_origin("https://example.com:99999") is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_freed(listen: Any, kind: str) -> None:
    """A closed protocol is freed by reference counting alone."""
    factory = websocket_factory()
    site = websocket_site(factory)
    client = await raw_client(await listen(kind, site))
    await client.opens()
    weak = ref(factory.built.pop())
    await client.closes()
    await patient(site.switched.when_empty())
    await turns()
    assert weak() is None
