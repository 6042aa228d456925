"""
Exchanges with a back end on real ports: connections that are used again, ends of connections, switches,
and how much waits in memory.
"""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.resource import Resource

from tests.kit.exchanging import CHUNKED, GET, OK, SWITCH, UPGRADE, Heard, Reacting, post
from tests.kit.farside import LARGE, MEGABYTE, Collector, Servers, Source, send_buffers, settled
from tests.kit.harness import Recorder, no_collector, patient, reactor, site_of, turns
from tests.kit.scripted import CLIENT_KINDS, playing
from tests.kit.waiting import eventually
from upgrade_switch import UpgradePool, _twisted
from upgrade_switch.client.exchange import Exchange
from upgrade_switch.client.exchange_interfaces import ExchangeHead
from upgrade_switch.sending import remaining

every_kind = pytest.mark.parametrize("kind", CLIENT_KINDS)

#: How many times a megabyte is sent where memory is looked at.
MANY = 64

#: Bytes that may wait in this process for one direction of a connection: what a transport holds before
#: it pauses, what is read at once, and what TLS makes of either.
MOST_WAITING = 400_000


async def begin(
    pool: UpgradePool, endpoint: Any, head: ExchangeHead, heard: Heard, **kwargs: Any
) -> tuple[Any, Exchange]:
    client = await patient(pool.exchange_client("key", endpoint, **kwargs))
    return client, client.exchange(head, heard)


async def ask(pool: UpgradePool, endpoint: Any, head: ExchangeHead = GET, body: bytes = b"") -> Any:
    """A whole exchange, of which nothing is kept here."""
    heard = Heard()
    client, exchange = await begin(pool, endpoint, head, heard)
    if body:
        exchange.write(body)
    exchange.end()
    await heard.over()
    return heard, client


@every_kind
@pytest_twisted.ensureDeferred
async def test_site(kind: str, listen: Any) -> None:
    """Many exchanges with a twisted.web site go over one connection."""
    site = site_of(Resource())
    listening = await listen(kind, site)
    pool = UpgradePool(reactor)
    page = GET._replace(target=b"/page")
    for number in range(5):
        body = b"x" * number
        heard, _ = await ask(pool, listening.endpoint, page)
        assert heard.body == b"page GET "
        heard, _ = await ask(pool, listening.endpoint, post(number)._replace(target=b"/page"), body)
        assert heard.body == b"page POST " + body
        heard, _ = await ask(pool, listening.endpoint, CHUNKED._replace(target=b"/page"), body)
        assert heard.body == b"page POST " + body
        heard, _ = await ask(pool, listening.endpoint, page._replace(method=b"HEAD"))
        assert (heard.names, heard.body) == (["response", "ended"], b"")
    assert len(site.channels) == 1
    await patient(pool.closeCachedConnections())


@every_kind
@pytest_twisted.ensureDeferred
async def test_expect(kind: str, listen: Any) -> None:
    """A 100 is told, and the body goes then."""
    listening = await listen(kind, site_of(Resource()))
    pool = UpgradePool(reactor)
    head = post(4, (b"Expect", b"100-continue"))._replace(target=b"/page")
    heard = Reacting()
    _, exchange = await begin(pool, listening.endpoint, head, heard)
    exchange.flush()

    def go() -> None:
        exchange.write(b"body")
        exchange.end()

    heard.reactions = {"informational": go}
    await heard.over()
    assert heard.body == b"page POST body"
    await patient(pool.closeCachedConnections())


@every_kind
@pytest_twisted.ensureDeferred
async def test_server_closes_a_resting_connection(kind: str) -> None:
    """A connection that its server closes while it rests is not used again."""
    async with playing(kind) as server:
        for number in (1, 2):
            heard = Heard()
            client, exchange = await begin(server.pool, server.client, GET, heard)
            exchange.end()
            assert not client.was_used
            peer, _ = await server.asked()
            peer.send(OK)
            await heard.over()
            peer.transport.loseConnection()
            await server.client.is_closed()
            assert server.count == number
        assert len(server.pool._idle) == 0


@every_kind
@pytest_twisted.ensureDeferred
async def test_answer_in_front_of_a_reset(kind: str) -> None:
    """
    A server that answers, and closes without having read the content, resets the connection; the
    answer has come before that, and is told, though nothing was read when the writing failed.
    """
    async with playing(kind) as server:
        heard = Heard()
        client, exchange = await begin(server.pool, server.endpoint, CHUNKED, heard)
        exchange.write(MEGABYTE * 20)
        peer, _ = await server.asked()
        peer.transport.pauseProducing()
        # As it is when answer and reset come after the reactor has seen that there is nothing to read.
        socket = _twisted.bottom(client.transport)
        socket.stopReading()
        peer.send(OK)
        # TLS collects what is written in one turn.
        await turns(2)
        await eventually(lambda: not remaining(peer.transport))
        _twisted.bottom(peer.transport).abortConnection()
        await heard.over()
        assert heard.names == ["response", "data", "ended"]
        await eventually(lambda: not socket.connected)


@every_kind
@pytest_twisted.ensureDeferred
async def test_too_late(kind: str) -> None:
    """A request that meets the server's closing may be sent again, over a fresh connection."""
    async with playing(kind) as server:
        first = Heard()
        _, exchange = await begin(server.pool, server.client, GET, first)
        exchange.end()
        peer, _ = await server.asked()
        peer.send(OK)
        await first.over()
        peer.transport.loseConnection()
        # Nobody has read the end yet.
        second = Heard()
        client, exchange = await begin(server.pool, server.client, GET, second)
        exchange.end()
        assert client.was_used
        await second.over()
        assert isinstance(second.reason, ResponseNeverReceived)
        assert second.may_retry
        third = Heard()
        client, exchange = await begin(server.pool, server.client, GET, third, fresh=True)
        exchange.end()
        peer, _ = await server.asked()
        peer.send(OK)
        await third.over()
        assert third.last == "ended"


async def unframed(server: Any) -> tuple[Any, Heard]:
    heard = Heard()
    _, exchange = await begin(server.pool, server.client, GET, heard)
    exchange.end()
    peer, _ = await server.asked()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    await heard.until("data")
    return peer, heard


@every_kind
@pytest_twisted.ensureDeferred
async def test_until_close(kind: str) -> None:
    """A body without framing is complete when the server closes; over TLS, with close_notify."""
    async with playing(kind) as server:
        peer, heard = await unframed(server)
        peer.transport.loseConnection()
        await heard.over()
        assert (bytes(heard.body), heard.last) == (b"hello", "ended")


@every_kind
@pytest_twisted.ensureDeferred
async def test_until_reset(kind: str) -> None:
    """A reset, or TLS that ends without close_notify, has cut a body without framing off."""
    async with playing(kind) as server:
        peer, heard = await unframed(server)
        beneath = _twisted.bottom(peer.transport)
        if kind == "tls":
            beneath.loseConnection()
        else:
            # Of what it has not read, a UNIX socket makes a reset.
            server.client.transports[-1].write(b"never read")
            beneath.pauseProducing()
            await turns()
            beneath.abortConnection()
        await heard.over()
        assert isinstance(heard.reason, ResponseFailed)
        assert not heard.may_retry


@every_kind
@pytest_twisted.ensureDeferred
async def test_complete_before_the_cut(kind: str) -> None:
    """A framed body that is complete has ended, however the connection does; while paused, too."""
    for paused in (False, True):
        async with playing(kind) as server:
            heard = Reacting()
            _, exchange = await begin(server.pool, server.client, GET, heard)
            if paused:
                heard.reactions = {"response": exchange.pauseProducing}
            exchange.end()
            peer, _ = await server.asked()
            peer.send(OK)
            _twisted.bottom(peer.transport).loseConnection()
            await heard.until("response")
            await turns()
            if paused:
                assert heard.names == ["response"]
                exchange.resumeProducing()
            await heard.over()
            assert (bytes(heard.body), heard.last) == (b"hello", "ended")
            await server.client.is_closed()


@every_kind
@pytest_twisted.ensureDeferred
async def test_switch(kind: str) -> None:
    """A 101 gives the connection away, with what came behind it, and what comes later."""
    async with playing(kind) as server:
        heard = Heard()
        _, exchange = await begin(server.pool, server.client, UPGRADE, heard, fresh=True)
        exchange.end()
        peer, _ = await server.asked()
        peer.send(SWITCH + b"trailing")
        await heard.over()
        peer.send(b", and more")
        await turns()
        target = Recorder()
        heard.connection.install(target)
        await target.receives(b"trailing, and more")
        target.send(b"back")
        await peer.receives(b"back")
        peer.transport.loseConnection()
        await target.is_lost()
        assert len(server.pool._idle) == 0


@every_kind
@pytest_twisted.ensureDeferred
async def test_switch_behind_a_content(kind: str) -> None:
    """Nothing of an upgrade with a content is left on the transport, which is somebody else's then."""
    async with playing(kind) as server:
        heard = Heard()
        head = ExchangeHead(b"POST", b"/", [*UPGRADE.fields, (b"Content-Length", b"4")])
        client, exchange = await begin(server.pool, server.endpoint, head, heard, fresh=True)
        transport = client.transport
        exchange.write(b"body")
        exchange.end()
        peer, _ = await server.asked()
        peer.send(SWITCH)
        await heard.over()
        assert _twisted.watcher(transport) is None
        target = Recorder()
        heard.connection.install(target)
        peer.transport.loseConnection()
        await target.is_lost()


@every_kind
@pytest_twisted.ensureDeferred
async def test_refused_with_a_body(kind: str) -> None:
    """An upgrade with a body that is refused: all is told, and the connection is closed."""
    async with playing(kind) as server:
        heard = Heard()
        head = ExchangeHead(b"POST", b"/", [*UPGRADE.fields, (b"Content-Length", b"4")])
        _, exchange = await begin(server.pool, server.client, head, heard, fresh=True)
        exchange.write(b"body")
        exchange.end()
        peer, _ = await server.asked()
        await peer.receives(b"body")
        peer.send(OK)
        await heard.over()
        assert (bytes(heard.body), heard.last) == (b"hello", "ended")
        await server.client.is_closed()


@every_kind
@pytest.mark.parametrize("stage", ["connected", "sending", "waiting", "reading", "paused"])
@pytest_twisted.ensureDeferred
async def test_abort(kind: str, stage: str) -> None:
    """An exchange that is aborted is told nothing more, and both ends of the connection are closed."""
    async with playing(kind) as server:
        heard = Heard()
        client, exchange = await begin(server.pool, server.client, post(1_000_000), heard)
        exchange.flush()
        if stage != "connected":
            peer, _ = await server.asked()
            exchange.write(b"x" * 1000)
        if stage in ("waiting", "reading", "paused"):
            exchange.write(b"x" * 999_000)
            exchange.end()
        if stage in ("reading", "paused"):
            peer.send(OK[:-1])
            await heard.until("data")
        if stage == "paused":
            exchange.pauseProducing()
        before = list(heard.events)
        exchange.abort()
        await server.client.is_closed()
        await (await server.accepted() if stage == "connected" else peer).is_lost()
        assert heard.events == before
        await patient(client.abort())


@pytest_twisted.ensureDeferred
async def test_no_tls() -> None:
    """A server that does not speak TLS fails the exchange, and the reason says what it looks like."""
    async with playing("tcp") as server:
        endpoint = wrapClientTLS(optionsForClientTLS("localhost"), server.endpoint)
        heard = Heard()
        _, exchange = await begin(server.pool, endpoint, GET, heard)
        exchange.end()
        peer = await server.accepted()
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await heard.over()
        assert isinstance(heard.reason, ResponseNeverReceived)
        assert "does not seem to speak TLS" in str(heard.reason.reasons[0].value)
        assert not heard.may_retry


# Memory.


class Measuring(Heard):
    """
    Does not keep the body.

    :ivar count: how much of it has come; ``digest``: what that was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.digest = hashlib.sha256()
        self.is_paused = False

    def data(self, chunk: bytes) -> None:
        assert not self.is_paused
        self.count += len(chunk)
        self.digest.update(chunk)
        if self.last != "data":
            self._note("data")
        self.waiters.look()


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@every_kind
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest_twisted.ensureDeferred
async def test_large_answer(kind: str, framing: str, listen: Any) -> None:
    """Of a large answer to a reader that pauses, little waits in memory, and all of it comes."""
    servers = Servers(listen)
    listening = await servers(kind)
    pool = UpgradePool(reactor, persistent=False)
    heard = Measuring()
    client, exchange = await begin(pool, listening.endpoint, GET, heard)
    exchange.end()
    peer = await listening.site.next()
    send_buffers(LARGE, peer.transport, client.transport)
    data = MEGABYTE * MANY
    if framing == "length":
        begun = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    else:
        begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        data = b"".join(b"3e8\r\n%b\r\n" % MEGABYTE[at : at + 1000] for at in range(0, 10**6, 1000))
        data = data * MANY + b"0\r\n\r\n"
    peer.send(begun)
    source = Source(peer.transport, data)
    for _ in range(3):
        await heard.waiters.until(lambda before=heard.count: heard.count > before)
        heard.is_paused = True
        exchange.pauseProducing()
        await settled(lambda: (source.sent, heard.count))
        assert source.sent < len(data)
        assert client.messages.unread <= MOST_WAITING
        heard.is_paused = False
        exchange.resumeProducing()
    await heard.over()
    assert heard.count == MANY * len(MEGABYTE)
    assert heard.digest.digest() == digest_of(MEGABYTE * MANY)
    await eventually(lambda: not client.transport.connected)
    await servers.stop()


class Upload:
    """Sends a body as fast as it is taken, and ends it."""

    def __init__(self, exchange: Exchange, data: bytes, is_streaming: bool) -> None:
        self.sent = 0
        self.is_paused = False
        self._exchange = exchange
        self._data = data
        self._is_streaming = is_streaming
        exchange.registerProducer(self, is_streaming)  # type: ignore[arg-type]
        if is_streaming:
            self.resumeProducing()

    def resumeProducing(self) -> None:
        self.is_paused = False
        while not self.is_paused and self.sent < len(self._data):
            chunk = self._data[self.sent : self.sent + 50_000]
            self.sent += len(chunk)
            self._exchange.write(chunk)
            if not self._is_streaming:
                break
        if self.sent == len(self._data) and self._exchange is not None:
            exchange, self._exchange = self._exchange, None  # type: ignore[assignment]
            exchange.unregisterProducer()
            exchange.end()

    def pauseProducing(self) -> None:
        self.is_paused = True

    def stopProducing(self) -> None:
        raise AssertionError("stopped")


class HashingCollector(Collector):
    """Counts what it gets behind the head."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.digest = hashlib.sha256()

    def dataReceived(self, data: bytes) -> None:
        if b"\r\n\r\n" not in self.data:
            super().dataReceived(data)
            _, _, data = bytes(self.data).partition(b"\r\n\r\n")
        self.count += len(data)
        self.digest.update(data)
        self.waiters.look()


@every_kind
@pytest.mark.parametrize("is_streaming", [True, False])
@pytest_twisted.ensureDeferred
async def test_large_request(kind: str, is_streaming: bool, listen: Any) -> None:
    """Of a large request to a server that does not read, little waits in memory, and all arrives."""
    servers = Servers(listen)
    listening = await servers(kind, HashingCollector)
    pool = UpgradePool(reactor, persistent=False)
    heard = Heard()
    data = MEGABYTE * MANY
    client, exchange = await begin(pool, listening.endpoint, post(len(data)), heard)
    peer = await listening.site.next()
    send_buffers(LARGE, peer.transport, client.transport)
    upload = Upload(exchange, data, is_streaming)
    for share in (0.1, 0.5):
        enough = share * len(data)
        await peer.until(lambda enough=enough: peer.count > enough)
        peer.transport.pauseProducing()
        await settled(lambda: (upload.sent, peer.count))
        assert upload.sent < len(data)
        assert _twisted.unsent(client.transport) <= MOST_WAITING
        peer.transport.resumeProducing()
    await peer.until(lambda: peer.count == len(data))
    assert peer.digest.digest() == digest_of(data)
    peer.send(OK)
    await heard.over()
    assert heard.last == "ended"
    await eventually(lambda: not client.transport.connected)
    await servers.stop()


# What is left.


@every_kind
@pytest.mark.parametrize("how", ["ended", "failed", "cut off", "invalid", "aborted", "switched"])
@pytest_twisted.ensureDeferred
async def test_freed(kind: str, how: str, listen: Any) -> None:
    """An exchange that is over, its listener, and its connection that has ended, leave no cycles."""
    servers = Servers(listen)
    listening = await servers(kind)
    endpoint = listening.endpoint
    with no_collector():
        weak = await exchanged(how, endpoint, listening)
        await turns(5)
        assert [thing() for thing in weak] == [None] * len(weak)
    await servers.stop()


async def exchanged(how: str, endpoint: Any, listening: Any) -> list[Any]:
    """
    An exchange. It is waited for without ``patient``, whose timer and closures are a cycle that would
    keep it.

    :return: weak references to all of it.
    """
    pool = UpgradePool(reactor)
    heard = Heard()
    clients: list[Any] = []
    pool.exchange_client("key", endpoint).addCallback(clients.append)
    await eventually(lambda: bool(clients))
    client = clients.pop()
    exchange = client.exchange(UPGRADE if how == "switched" else GET, heard)
    exchange.end()
    peer = await listening.site.next()
    weak = [ref(client), ref(exchange), ref(heard), ref(client.messages)]
    told = {"ended": OK, "cut off": OK[:-1], "invalid": b"nonsense\r\n", "switched": SWITCH}
    if how == "aborted":
        exchange.abort()
    elif how == "failed":
        peer.transport.loseConnection()
    else:
        peer.send(told[how])
    if how == "cut off":
        await eventually(lambda: heard.last == "data")
        peer.transport.abortConnection()
    if how != "aborted":
        await eventually(lambda: heard.is_over)
    pool.closeCachedConnections()
    if how == "switched":
        target = Recorder()
        heard.connection.install(target)
        target.transport.loseConnection()
    await peer.sees_end()
    peer.transport.loseConnection()
    await peer.is_lost()
    return weak


@every_kind
@pytest_twisted.ensureDeferred
async def test_freed_while_its_connection_rests(kind: str, listen: Any) -> None:
    """A connection that rests knows nothing of its last exchange."""
    listening = await listen(kind, site_of(Resource()))
    pool = UpgradePool(reactor)
    with no_collector():
        heard: Any = Heard()
        pool.exchange_client("key", listening.endpoint).addCallback(
            lambda client: client.exchange(GET, heard).end()
        )
        await eventually(lambda: heard.is_over)
        weak = ref(heard)
        heard = None
        await turns()
        assert weak() is None
    assert len(pool._idle) == 1
    await patient(pool.closeCachedConnections())
