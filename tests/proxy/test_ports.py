"""Over sockets: ends, and what waits in buffers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from tests.kit.backed import ASK, GET, OK, SWITCH, post
from tests.kit.backed_live import KINDS, PAIRS, Timed
from tests.kit.farside import Collector
from tests.kit.harness import Flood, HalfCloseRecorder, eventually, turns
from tests.kit.polled import readers, writers
from tests.kit.scripted import HalfClosePeer, Peer
from upgrade_switch import _twisted

every_pair = pytest.mark.parametrize(("near", "far"), PAIRS)
every_end = pytest.mark.parametrize("how", ["close", "reset"])

MEGABYTE = 10**6


class Counter(HalfCloseRecorder):
    """A client that keeps the head only."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data if b"\r\n\r\n" not in self.data else b"")


class CountingPeer(Peer):
    """A server that keeps nothing."""

    def dataReceived(self, data: bytes) -> None:
        """Nobody wants it."""


def end(protocol: Any, how: str) -> None:
    if how == "close":
        protocol.transport.loseConnection()
    else:
        _twisted.bottom(protocol.transport).abortConnection()


def sockets_of(live: Any) -> list[Any]:
    """The site's sides of its connections."""
    channels = [channel() for channel in live.front.site.channels]
    return [_twisted.bottom(channel.transport) for channel in channels if channel is not None]


@every_end
@pytest.mark.parametrize("near", KINDS)
@pytest_twisted.ensureDeferred
async def test_cut_off_while_uploading(live: Any, near: str, how: str) -> None:
    """
    If the back end dies within an early answer, while it has not taken all of a content, the client's
    connection ends, and does so even if the client has gone by then.
    """
    for framing in (b"Content-Length: 9\r\n", b""):
        running = await live(near)
        client = await running.client(post(MEGABYTE) + b"x" * 1000)
        peer, _ = await running.server.asked()
        peer.transport.pauseProducing()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\nhello")
        await client.head()
        [socket] = sockets_of(running)
        back_end = running.back_end
        client.send(b"x" * (MEGABYTE - 1000))
        await turns(20)
        end(peer, "reset")
        await turns(5)
        end(client, how)
        await eventually(lambda back_end=back_end: not back_end.active)
        await eventually(lambda socket=socket: not socket.connected)


@pytest.mark.parametrize("near", KINDS)
@pytest_twisted.ensureDeferred
async def test_pipelined_to_one_that_does_not_read(live: Any, near: str) -> None:
    """For a client that asks for much and does not read, no more waits than an answer and a buffer."""
    running = await live(near)
    client = await running.client(GET, Collector)
    peer, _ = await running.server.asked()
    peer.send(OK)
    await client.until(lambda: b"hello" in client.data)
    client.transport.pauseProducing()
    transport = running.front.site.channels[0]().transport
    asked = 0

    def answer(data: bytes) -> None:
        nonlocal asked
        for _ in range(data.count(b"GET /")):
            asked += 1
            size = 60_000 if asked < 80 else 20 * MEGABYTE
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    peer.dataReceived = answer
    client.send(GET * 100)
    most, still, before = 0, 0, -1
    while still < 30:
        await turns(5)
        now = _twisted.unsent(transport)
        most, still, before = max(most, now), still + 1 if now == before else 0, now
    assert most < 400_000


@every_pair
@pytest_twisted.ensureDeferred
async def test_truncated(live: Any, near: str, far: str) -> None:
    """
    An answer that ends where its connection does is whole if that ends cleanly. If that is reset, the
    client's connection ends with an error, too, when all that has come has arrived.
    """
    # UNIX sockets have no reset.
    for how in ("close",) if far == "unix" else ("close", "reset"):
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            running = await live(near, far)
            client = await running.client(GET.replace(b"HTTP/1.1", version), Collector)
            peer, _ = await running.server.asked()
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000)
            await client.until(lambda client=client: client.data.count(b"x") > 199_990)
            if how == "reset":
                end(peer, "reset")
            else:
                end(peer, "close")
            await client.until(
                lambda client=client: (
                    client.data.endswith(b"0\r\n\r\n")
                    or "read lost" in client.events
                    or client.reason is not None
                )
            )
            assert client.data.count(b"x") >= 200_000
            is_whole = version == b"HTTP/1.0" or client.data.endswith(b"0\r\n\r\n")
            if how == "close":
                assert is_whole
            elif version == b"HTTP/1.1":
                assert not is_whole
            else:
                await client.is_lost()
                assert not client.reason.check(ConnectionDone)


@pytest.mark.parametrize("near", KINDS)
@pytest_twisted.ensureDeferred
async def test_tls_without_close_notify(live: Any, near: str) -> None:
    """TLS that ends with a FIN alone has cut its answer off."""
    running = await live(near, "tls")
    client = await running.client(GET, Collector)
    peer, _ = await running.server.asked()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    await client.until(lambda: b"hello" in client.data)
    _twisted.bottom(peer.transport).loseConnection()
    await client.sees_end()
    assert not client.data.endswith(b"0\r\n\r\n")
    await eventually(lambda: not running.back_end.active)
    assert running.back_end.errors == 1


@every_pair
@pytest_twisted.ensureDeferred
async def test_splice_ends(live: Any, near: str, far: str) -> None:
    """Behind all bytes, the end of a switched connection arrives as what it was, both ways."""
    # UNIX sockets have no reset.
    for how in ("close",) if far == "unix" else ("close", "reset"):
        for backwards in (False, True):
            running = await live(near, far)
            client = await running.client(ASK, Collector)
            peer, _ = await running.server.asked()
            peer.send(SWITCH)
            await client.until(lambda client=client: b"\r\n\r\n" in client.data)
            client.data = b""
            first, second = (peer, client) if backwards else (client, peer)
            first.send(b"x" * 300_000)
            await second.until(lambda second=second: second.amount >= 300_000)
            end(first, how)
            if how == "close":
                await second.until(
                    lambda second=second: "read lost" in second.events or second.reason is not None
                )
                end(second, "close")
            else:
                await second.is_lost()
                assert not second.reason.check(ConnectionDone), (how, backwards)
            await eventually(lambda running=running: not running.back_end.active)


@every_pair
@pytest_twisted.ensureDeferred
async def test_early_bytes(live: Any, near: str, far: str) -> None:
    """What either side sends before it can know of the switch arrives, once and in order."""
    running = await live(near, far)
    for size in (10, 100_000):
        client = await running.client(ASK + b"a" * size + b"b", Collector)
        peer, _ = await running.server.asked()
        peer.send(SWITCH + b"c" * size + b"d")
        await client.until(lambda client=client: client.data.endswith(b"d"))
        assert client.data.partition(b"\r\n\r\n")[2] == b"c" * size + b"d"
        await peer.until(lambda peer=peer: peer.data.endswith(b"b"))
        assert peer.data == b"a" * size + b"b"


@pytest.mark.parametrize(("near", "far"), [("tcp", "tcp"), ("unix", "unix")])
@pytest_twisted.ensureDeferred
async def test_half_close_before_101(live: Any, near: str, far: str) -> None:
    """
    What a client sends behind its request, and its half-close, arrive behind the 101; and what the back
    end says then arrives, too.
    """
    running = await live(near, far)
    running.server.site.peer = HalfClosePeer
    client = await running.client(ASK + b"early", HalfCloseRecorder)
    client.transport.loseWriteConnection()
    peer, _ = await running.server.asked()
    [socket] = sockets_of(running)
    # The end has been read.
    await eventually(lambda: socket not in readers())
    peer.send(SWITCH + b"hello")
    await client.receives(b"hello")
    await peer.receives(b"early")
    await peer.until(lambda: "read lost" in peer.events)
    peer.send(bytes(MEGABYTE))
    await client.until(lambda: client.data.endswith(bytes(MEGABYTE)))
    end(peer, "close")
    await client.until(lambda: "read lost" in client.events)
    await eventually(lambda: not running.back_end.active and not socket.connected)


@pytest.mark.parametrize("near", ["tcp", "unix"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest_twisted.ensureDeferred
async def test_gone_behind_half_close(live: Any, near: str) -> None:
    """A client that has half-closed, and is reset then, is noticed, however long answers may take."""
    clock = Timed()
    running = await live(
        near, "tcp", clock=clock, site={"reactor": clock}, response_timeout=0, idle_timeout=0
    )
    client = await running.client(ASK + b"early", HalfCloseRecorder)
    client.transport.loseWriteConnection()
    peer, _ = await running.server.asked()
    [socket] = sockets_of(running)
    await eventually(lambda: socket not in readers())
    clock.pump([10] * 20)
    assert running.back_end.active
    client.transport.abortConnection()
    await eventually(lambda: clock.advance(10) or not running.back_end.active)
    await peer.is_lost()
    assert not socket.connected
    running.front.site.stopFactory()
    assert not clock.getDelayedCalls()


def waits(running: Any, *protocols: Any) -> int:
    """How many bytes wait in all transports of this process."""
    transports = [*readers(), *writers()]
    found = {id(each): each for each in transports if hasattr(each, "dataBuffer")}
    kept = {id(_twisted.bottom(protocol.transport)) for protocol in protocols}
    return sum(_twisted.unsent(each) for number, each in found.items() if number not in kept)


async def pour(running: Any, source: Any, sink: Any, size: int, slowly: bool = False) -> int:
    """
    Send so much, as fast as it is taken, to one that does not read at first.

    :return: how many bytes have waited at most, but for the source's own.
    """
    flood = Flood(source.transport, b"x" * 65536)
    most, still, before = 0, 0, -1
    while still < 30:
        await turns(2)
        now = waits(running, source, sink)
        most = max(most, now)
        still, before = (still + 1, before) if flood.sent == before else (0, flood.sent)
    sent_before = flood.sent
    assert sent_before < size
    while flood.sent < size:
        sink.transport.resumeProducing()
        await turns(1)
        if slowly:
            sink.transport.pauseProducing()
            await turns(1)
        most = max(most, waits(running, source, sink))
    source.transport.unregisterProducer()
    sink.transport.resumeProducing()
    return most


#: Bytes that may wait in the proxy's transports: a buffer and a read each, and TLS's records.
MOST = 600_000


@every_pair
@pytest_twisted.ensureDeferred
async def test_bounded(live: Any, near: str, far: str) -> None:
    """
    To a reader that does not read, or does slowly, no more waits than some buffers hold: through a
    switched connection, both ways, as a content, and as an answer.
    """
    size = 64 * MEGABYTE
    for what in ("down", "up", "content", "answer"):
        running = await live(near, far)
        head = ASK if what in ("down", "up") else GET if what == "answer" else post(2 * size)
        client = await running.client(head, Counter)
        peer, _ = await running.server.asked()
        peer.__class__ = CountingPeer
        if what in ("down", "up"):
            peer.send(SWITCH)
            await client.until(lambda client=client: b"\r\n\r\n" in client.data)
        elif what == "answer":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * size))
            await client.until(lambda client=client: b"\r\n\r\n" in client.data)
        is_down = what in ("down", "answer")
        source, sink = (peer, client) if is_down else (client, peer)
        sink.transport.pauseProducing()
        most = await pour(running, source, sink, size, slowly=True)
        assert most < MOST, what
        end(source, "reset")
        end(sink, "reset")
        await eventually(lambda running=running: not running.back_end.active)


@every_pair
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(live: Any, near: str, far: str, no_gc: None) -> None:
    """Reference counting alone frees channels and requests, however their connections end."""
    running = await live(near, far)
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"
    for request, answer, is_cut in (
        (GET, OK, False),
        (GET, cut, True),
        (GET, b"HTTP/1.1 200 OK\r\n\r\nhello", True),
        (GET, b"", True),
        (post(MEGABYTE) + b"x" * 100_000, cut, True),
        (post(5) + b"hello", OK, False),
        (ASK, SWITCH + b"hello", False),
        (ASK, SWITCH + b"hello", True),
        (ASK, OK, False),
    ):
        if far == "unix" and is_cut and answer.startswith(b"HTTP/1.1 200 OK\r\n\r\n"):
            continue
        client = await running.client(request)
        # It may come on a connection that has been used.
        await eventually(lambda: any(b"HTTP/1.1\r\n" in p.data for p in running.server.site.built))
        [peer] = [p for p in running.server.site.built if b"HTTP/1.1\r\n" in p.data]
        peer.data = b""
        if answer:
            peer.send(answer)
            await client.until(lambda client=client: b"hello" in client.data)
        if is_cut:
            end(peer, "reset")
            await turns(5)
        end(client, "reset")
        await eventually(lambda: not running.back_end.active)
        peer.data = b""
    await eventually(lambda: not any(channel() for channel in running.front.site.channels))
    assert not any(request() for request in running.front.site.requests)
