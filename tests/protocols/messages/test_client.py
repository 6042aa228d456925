"""
``MessageEndpoint``: WebSockets as messages on a client, by ``ClientService`` too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from tests.kit.handlers import Streams, echo
from tests.kit.harness import Recorder, eventually, patient, reactor, site_of, turns
from tests.kit.scripted import playing, trusting_agent
from tests.kit.wscodec import CLOSE, PING, PONG, TEXT
from tests.kit.wsstream import answer, close, frame
from upgrade_switch import NotSwitched
from upgrade_switch.errors import InvalidArgument, InvalidResponse, StreamClosed
from upgrade_switch.protocols import MessageEndpoint, MessageFactory, MessageStream, message_stream


def endpoint_to(url: str, **kwargs: Any) -> MessageEndpoint:
    kwargs.setdefault("agent", trusting_agent())
    return MessageEndpoint(reactor, url.replace("http", "ws", 1), **kwargs)


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "tls", "http2"])
@pytest_twisted.ensureDeferred
async def test_there_and_back(listen: Any, kind: str, compression: bool) -> None:
    """Messages come back as they were, and the close code is the other side's, too."""
    accept = message_stream(echo, subprotocols=["chat"], compression=compression)
    is_http2 = kind == "http2"
    site = site_of({"websocket": accept}, http2_connect=is_http2)
    listening = await listen("tls" if is_http2 else kind, site)
    agent = trusting_agent(http2=is_http2)
    options = {"agent": agent, "subprotocols": ["chat"], "compression": compression}
    endpoint = endpoint_to(listening.url + "/u", **options)
    assert repr(endpoint).startswith("<MessageEndpoint http")
    handler = Streams()
    protocol: Any = await patient(endpoint.connect(MessageFactory(handler)))
    stream = protocol.stream
    assert (stream.subprotocol, stream.request) == ("chat", None)
    for message in ("text", b"bytes", "é" * 100_000, b"\0" * 1_000_000, ""):
        await patient(stream.send(message))
        assert await patient(stream.receive()) == message
    await patient(stream.close(3000, "done"))
    assert (stream.close_code, stream.close_reason) == (3000, "done")
    assert bool(listening.site.http2_connections) is is_http2
    await patient(agent._pool.closeCachedConnections())


@asynccontextmanager
async def connected_by(
    kind: str, listen: Any, **kwargs: Any
) -> AsyncIterator[tuple[MessageStream, MessageStream, Any]]:
    """Both ends of a WebSocket, and the site."""
    served, is_http2 = Streams(), kind == "http2"
    accept = message_stream(served, **kwargs)
    site = site_of({"websocket": accept}, http2_connect=is_http2)
    listening = await listen("tls" if is_http2 else kind, site)
    agent = trusting_agent(http2=is_http2)
    opening = endpoint_to(listening.url + "/u", agent=agent, max_queue=1, **kwargs)
    opened: Any = patient(opening.connect(MessageFactory(Streams())))
    stream: MessageStream = (await opened).stream
    del opened
    await eventually(lambda: served.streams != [])
    yield stream, served.streams[0], listening.site
    await patient(agent._pool.closeCachedConnections())


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "tls", "http2"])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader(listen: Any, kind: str, compression: bool) -> None:
    """What waits is bounded, and what was sent in front of the close is received, and its code."""
    async with connected_by(kind, listen, compression=compression) as (client, server, site):
        await turns()
        message, sent = os.urandom(1 << 16), 0
        while (sending := server.send(message)).called or not await still_waits(sending):
            sent += 1
        assert sent < 1000
        closing = server.close(4000, "enough")
        with pytest.raises(StreamClosed):
            await server.send("late")
        for _ in range(sent + 1):
            assert await patient(client.receive()) == message
        with pytest.raises(StreamClosed, match="4000 enough"):
            await patient(client.receive())
        await patient(closing)
        await patient(client.wait_closed())
        await patient(site.switched.when_empty())
        assert (server.close_code, client.close_code) == (4000, 4000)


async def still_waits(sending: Deferred[None]) -> bool:
    """Whether something waits though the reactor has turned some times."""
    for _ in range(20):
        await turns()
    return not sending.called


@pytest_twisted.ensureDeferred
async def test_an_end_behind_what_nobody_reads(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stream of HTTP/2, too, a handler that does not receive hears of the end."""
    monkeypatch.setattr("upgrade_switch.protocols._messages.protocol._LOOK_INTERVAL", 0.01)
    async with connected_by("http2", listen) as (client, server, site):
        for _ in range(20):
            client.send("unread")
        connection: Any = client._connection
        connection.transport.loseWriteConnection()
        await patient(server.wait_closed())
        assert (server.waiting, server.close_code) == (20, 1006)
        await patient(site.switched.when_empty())


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("kind", ["tcp", "tls", "http2"])
@pytest_twisted.ensureDeferred
async def test_reset_in_the_middle(listen: Any, kind: str, who: str) -> None:
    """Both ends are told, whatever they wait for; nothing is left on the site."""
    async with connected_by(kind, listen) as (client, server, site):
        ends = (client, server) if who == "client" else (server, client)
        waiting = [end.receive() for end in ends]
        while (sending := server.send(bytes(1 << 16))).called:
            pass
        ends[0].abort()
        for deferred in (*waiting, sending):
            await patient(deferred.addBoth(lambda _: None))
        for end in ends:
            await patient(end.wait_closed())
            assert end.close_code == 1006
        await patient(site.switched.when_empty())


@pytest.mark.parametrize("kind", ["tcp", "tls", "http2"])
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, kind: str) -> None:
    """The protocols of both ends are freed at the end, by counting alone."""
    async with connected_by(kind, listen, compression=True) as (client, server, site):
        watched = [ref(end._connection) for end in (client, server)]
        watched += [ref(weak()._frames) for weak in watched]
        await patient(client.close())
        await patient(server.wait_closed())
        await patient(site.switched.when_empty())
        await eventually(lambda: not any(weak() for weak in watched))


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_client_service(listen: Any, kind: str) -> None:
    """
    A ClientService opens another one whenever the connection is lost, until it is stopped: then it
    closes the one that it has.
    """
    served = Streams()
    listening = await listen(kind, site_of({"websocket": message_stream(served)}))
    client = Streams()
    service = ClientService(
        endpoint_to(listening.url + "/u"), MessageFactory(client), retryPolicy=lambda attempt: 0
    )
    opened = client.next()
    service.startService()
    stream = await opened
    for _ in range(2):
        opened = client.next()
        served.streams[-1].abort()
        await patient(stream.wait_closed())
        assert stream.close_code == 1006
        stream = await opened
    stopped = service.stopService()
    await patient(stopped)
    assert not stream.is_open
    await patient(served.streams[-1].wait_closed())
    assert served.streams[-1].close_code == stream.close_code == 1000


@pytest_twisted.ensureDeferred
async def test_client_service_without_end(listen: Any) -> None:
    """A ClientService stops though its handler does not read, and sends."""
    served = Streams()
    listening = await listen("tls", site_of({"websocket": message_stream(served)}))
    client = Streams()
    service = ClientService(endpoint_to(listening.url + "/u", max_queue=1), MessageFactory(client))
    opened = client.next()
    service.startService()
    stream = await opened
    await served.streams[-1].send("unread")
    await served.streams[-1].send("unread")
    for _ in range(5):
        stream.send(bytes(1 << 16))
    await patient(service.stopService())
    assert stream.close_code == 1000


@pytest.mark.parametrize("when", ["before", "in the handshake", "in the handler"])
@pytest_twisted.ensureDeferred
async def test_stopped_at_any_time(when: str) -> None:
    """A ClientService that is stopped before the connection, in the handshake or in the handler."""
    stopped: list[Deferred[None]] = []
    closed: list[int] = []

    async def handler(stream: MessageStream) -> None:
        stopped.append(service.stopService())
        try:
            await stream.receive()
        except StreamClosed as error:
            closed.append(error.code)
            raise

    async with playing("tcp") as server:
        service = ClientService(
            endpoint_to(server.url, agent=server.agent), MessageFactory(handler), lambda attempt: 0
        )
        service.startService()
        if when == "before":
            await patient(service.stopService())
            return
        peer, head = await server.asked()
        if when == "in the handshake":
            await patient(service.stopService())
            await peer.is_lost()
            return
        peer.send(answer(head))
        await peer.until(lambda: peer.amount >= 8)
        assert peer.data[0] & 0x0F == CLOSE
        peer.send(close())
        peer.transport.loseConnection()
        await patient(stopped[0])
        assert closed == [1000]


@pytest_twisted.ensureDeferred
async def test_what_comes_with_the_answer() -> None:
    """A message in the 101's segment is the first; pings are answered, and frames are masked."""
    async with playing("tcp") as server:
        handler = Streams()
        opening = endpoint_to(server.url, agent=server.agent).connect(MessageFactory(handler))
        peer, head = await server.asked()
        peer.send(answer(head) + frame(TEXT, b"early") + frame(PING, b"?"))
        protocol: Any = await patient(opening)
        stream = protocol.stream
        assert await patient(stream.receive()) == "early"
        await peer.until(lambda: peer.amount >= 7)
        assert peer.data[0] & 0x0F == PONG
        assert peer.data[1] & 0x80
        peer.send(close(1012))
        with pytest.raises(StreamClosed, match="1012"):
            await patient(stream.receive())
        peer.transport.loseConnection()
        await patient(stream.wait_closed())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (b"Sec-WebSocket-Protocol: other\r\n", "not offered"),
        (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", "not offered"),
        (b"Sec-WebSocket-Extensions: ;\r\n", "not valid"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_answers(fields: bytes, match: str) -> None:
    """A 101 that breaks the rules fails, and the connection ends."""
    async with playing("tcp") as server:
        opening = endpoint_to(server.url, agent=server.agent).connect(MessageFactory(echo))
        peer, head = await server.asked()
        peer.send(answer(head, fields))
        with pytest.raises(InvalidResponse, match=match):
            await patient(opening)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_a_wrong_key() -> None:
    """The server has to know what was asked."""
    async with playing("tcp") as server:
        opening = endpoint_to(server.url, agent=server.agent).connect(MessageFactory(echo))
        peer, _ = await server.asked()
        peer.send(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        with pytest.raises(InvalidResponse, match="Sec-WebSocket-Accept"):
            await patient(opening)
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_refused(listen: Any) -> None:
    """A server that does not switch."""
    listening = await listen("tcp", site_of({"echo": Factory()}))
    with pytest.raises(NotSwitched):
        await patient(endpoint_to(listening.url + "/u").connect(MessageFactory(echo)))


@pytest_twisted.ensureDeferred
async def test_too_late() -> None:
    """A server that does not answer in time; cancelling closes the connection, too."""
    clock = Clock()
    async with playing("tcp") as server:
        endpoint = MessageEndpoint(clock, server.url, agent=server.agent, timeout=3)
        opening = endpoint.connect(MessageFactory(echo))
        peer, _ = await server.asked()
        clock.advance(3)
        with pytest.raises(InternetTimeoutError):
            await opening
        await peer.is_lost()
        opening = endpoint.connect(MessageFactory(echo))
        peer, _ = await server.asked()
        opening.cancel()
        with pytest.raises((CancelledError, ConnectError)):
            await opening
        await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_another_factory(listen: Any) -> None:
    """Only a MessageFactory can be connected."""
    listening = await listen("tcp", site_of({"websocket": message_stream(echo)}))
    with pytest.raises(InvalidArgument, match="connects a MessageFactory"):
        await patient(endpoint_to(listening.url + "/u").connect(Factory.forProtocol(Recorder)))
    await turns()


def test_options() -> None:
    """What cannot be meant is said at once."""
    headers = Headers({b"Sec-WebSocket-Protocol": [b"x"]})
    with pytest.raises(ValueError, match="the endpoint sets"):
        MessageEndpoint(reactor, "ws://h/", headers)
    with pytest.raises(ValueError, match="not a ws or wss URL"):
        MessageEndpoint(reactor, "ftp://h/")
    with pytest.raises(InvalidArgument, match="a handler is a coroutine function"):
        MessageFactory(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="called with a stream alone"):
        MessageFactory(lambda stream, more: None)  # type: ignore[arg-type,misc]
