"""
The hand-over of a stream, as ``tests/core/test_takeover.py`` and ``test_handover.py`` have it for
HTTP/1.1's connections.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.protocols.portforward import ProxyFactory

from tests.kit.h2client import client_by, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    GET,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    Unread,
    data,
    headers,
    rst,
    settings,
    window_update,
)
from tests.kit.harness import (
    Acting,
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    no_collector,
    reactor,
)

WAYS = ("knowledge", "alpn")

TRAILING = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n\x00\xff\r\n\r\n"

ASKED = headers(1, CONNECT, end=False) + data(1, TRAILING[:5]) + data(1, TRAILING[5:], end=True)


def raw(upgrades: Any, **kwargs: Any) -> RawClient:
    """A client in memory of a site whose ``/u`` takes these."""
    cut = kwargs.pop("cut", None)
    seed = kwargs.pop("seed", None)
    site = h2c_site(upgrades, http2_connect=True, reactor=Clock(), **kwargs)
    return RawClient(site, cut, seed)


def bytes_of(client: RawClient, stream: int = 1) -> bytes:
    """What has come on a stream since the last time."""
    return b"".join(f.payload for f in client.take() if f.kind == DATA and f.stream == stream)


# Data before the answer, at every split.


@pytest.mark.parametrize("mode", ["now", "deferred", "late"])
def test_every_split(mode: str) -> None:
    """
    Wherever request, data and end are cut in two, every byte gets to the target, and then the end; also
    if it is decided between the two, or behind them.
    """
    targets: list[HalfCloseRecorder] = []
    decisions: list[Deferred[Any]] = []

    def accept(request: Any, token: Any) -> Any:
        targets.append(HalfCloseRecorder())
        if mode == "now":
            return targets[-1]
        decisions.append(Deferred())
        return decisions[-1]

    for cut in range(1, len(ASKED)):
        targets.clear()
        decisions.clear()
        client = raw({"echo": accept})
        client.send(ASKED[:cut])
        if mode == "deferred" and decisions:
            decisions[0].callback(targets[0])
            client.send()
        client.send(ASKED[cut:])
        if decisions and not decisions[0].called:
            decisions[0].callback(targets[0])
            client.send()
        (target,) = targets
        assert target.data == TRAILING, cut
        assert target.events[0] == "made"
        assert target.events[-1] == "read lost", cut
        target.transport.write(b"answer")
        target.transport.loseConnection()
        client.send()
        taken = client.take()
        assert b"".join(f.payload for f in taken if f.kind == DATA) == b"answer"
        assert target.events[-1] == "lost"
        assert target.reason is not None
        assert target.reason.check(ConnectionDone)
        assert RST_STREAM not in [f.kind for f in taken]
        client.leave()


@pytest.mark.parametrize("seed", range(20))
def test_random_splits(seed: int) -> None:
    """Several streams at the same time, cut at random, are not mixed up."""
    factory, targets = factory_of(EchoTarget)
    client = raw({"echo": factory}, seed=seed)
    streams = range(1, 20, 2)
    client.send(*(headers(stream, CONNECT, end=False) for stream in streams))
    for piece in range(5):
        client.send(*(data(stream, b"%d %d," % (stream, piece)) for stream in streams))
    got: dict[int, bytes] = {}
    for f in client.take():
        if f.kind == DATA:
            got[f.stream] = got.get(f.stream, b"") + f.payload
    assert got == {s: b"".join(b"%d %d," % (s, piece) for piece in range(5)) for s in streams}
    assert len(targets) == 10
    client.leave()


# Targets that do something in connectionMade.


def flicker(target: Any) -> None:
    target.transport.pauseProducing()
    target.transport.resumeProducing()


@pytest.mark.parametrize("decides", ["now", "late"])
def test_paused_in_connection_made(decides: str) -> None:
    """A target that pauses in connectionMade gets nothing until it resumes, then all in order."""
    target = Acting(lambda target: target.transport.pauseProducing())
    decision: Deferred[Any] = Deferred()
    client = raw({"echo": lambda request, token: target if decides == "now" else decision})
    client.send(headers(1, CONNECT, end=False), data(1, b"early"))
    if decides == "late":
        decision.callback(target)
    client.send(data(1, b"later", end=True))
    assert target.events == ["made"]
    target.transport.resumeProducing()
    client.send()
    assert target.data == b"earlylater"
    assert target.events[-1] == "lost"
    client.leave()


def test_flickers_in_connection_made() -> None:
    """A target that pauses and resumes within connectionMade gets its bytes after it."""
    target = Acting(flicker)
    client = raw({"echo": lambda request, token: target})
    client.send(headers(1, CONNECT, end=False), data(1, b"early"))
    assert target.events == ["made", b"early"]
    client.leave()


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_closed_in_connection_made(listen: Any, way: str, end: str) -> None:
    """A target that closes or aborts in connectionMade gets no bytes, and its end once."""
    factory, targets = factory_of(lambda: Acting(lambda target: getattr(target.transport, end)()))
    site = h2c_site({"echo": factory}, http2_connect=True)
    client = await client_by(way, await listen("tls" if way == "alpn" else "tcp", site))
    client.holds = True
    stream = client.begin_connect(b"echo")
    client.give(stream, b"early")
    client.holds = False
    client.flush()
    await client.until(lambda: bool(targets))
    (target,) = targets
    await target.is_lost()
    assert target.events == ["made", "lost"]
    assert target.reason.check(ConnectionDone if end == "loseConnection" else ConnectionAborted)
    if end == "loseConnection":
        await client.until(lambda: stream in client.ended)
        assert (await client.head_of(stream))[0] == 200
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200


@pytest.mark.parametrize("at", ["made", "data", "read", "lost"])
def test_target_that_raises(at: str, errors: Any) -> None:
    """What a target raises is logged, and costs its stream alone."""

    class Raising(HalfCloseRecorder):
        def _note(self, event: Any) -> None:
            super()._note(event)
            if (
                event
                in {"made": "made", "data": b"x", "read": "read lost", "lost": "lost"}[at : at + "x"]
            ):
                raise RuntimeError("a target's own bug")

    class Failing(HalfCloseRecorder):
        def _note(self, event: Any) -> None:
            super()._note(event)
            if event == {"made": "made", "data": b"x", "read": "read lost", "lost": "lost"}[at]:
                raise RuntimeError("a target's own bug")

    targets: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        targets.append(Failing())
        return targets[-1]

    client = raw({"echo": accept})
    client.send(headers(1, CONNECT, end=False))
    client.send(data(1, b"x"))
    client.send(data(1, end=True))
    if at == "lost":
        targets[0].transport.loseConnection()
        client.send()
    assert [type(error) for error in errors.take(1)] == [RuntimeError]
    assert targets[0].events.count("lost") == 1
    resets = {f.stream for f in client.take() if f.kind == RST_STREAM}
    assert resets == (set() if at == "lost" else {1})
    client.send(headers(3))
    assert [f.stream for f in client.take() if f.kind == HEADERS] == [3]
    assert len(client.site.switched) == 1  # the connection
    client.leave()


def test_target_that_never_reads() -> None:
    """What a target does not read waits in a window, and no byte more."""
    target = Acting(lambda target: target.transport.pauseProducing())
    client = raw({"echo": lambda request, token: target})
    client.send(headers(1, CONNECT, end=False))
    client.send(*[data(1, bytes(2**14))] * 3, data(1, bytes(2**14 - 1)))
    assert not [f for f in client.take() if f.kind == WINDOW_UPDATE and f.stream == 1]
    client.send(data(1, b"x"))
    # More than there is a window for (RFC 9113 §6.9.1).
    assert client.is_over


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_portforward(listen: Any, way: str) -> None:
    """Twisted's own portforward, which pauses until it is connected, loses nothing as a target."""
    backend_factory, backends = factory_of(EchoTarget)
    port = reactor.listenTCP(0, backend_factory, interface="127.0.0.1")
    forward = ProxyFactory("127.0.0.1", port.getHost().port)
    forward.noisy = False
    site = h2c_site({"echo": forward}, http2_connect=True)
    client = await client_by(way, await listen("tls" if way == "alpn" else "tcp", site))
    stream = client.begin_connect(b"echo")
    sent = b"early" * 3000
    client.give(stream, sent)
    await client.until(lambda: client.body_of(stream) == sent)
    client.give(stream, b"", end=True)
    await backends[0].is_lost()
    await port.stopListening()


def test_second_takeover() -> None:
    """A target may give its stream to another protocol."""
    second = Recorder()

    class First(Recorder):
        def dataReceived(self, received: bytes) -> None:
            super().dataReceived(received)
            self.transport.protocol = second
            second.makeConnection(self.transport)

    client = raw({"echo": lambda request, token: First()})
    client.send(headers(1, CONNECT, end=False), data(1, b"first"))
    client.send(data(1, b"second"))
    assert second.data == b"second"
    client.send(rst(1))
    assert second.events[-1] == "lost"
    assert len(client.site.switched) == 1
    client.leave()


@pytest.mark.parametrize("end", ["END_STREAM", "RST_STREAM", "target", "abort", "connection"])
def test_nothing_is_left(end: str) -> None:
    """Stream, channel, request, target and connection are freed by reference counting alone."""
    refs: dict[str, Any] = {}

    def accept(request: Any, token: Any) -> Any:
        target = EchoTarget()
        refs.update(request=ref(request), channel=ref(request.channel), target=ref(target))
        refs["stream"] = ref(request.channel.transport)
        return target

    client = raw({"echo": accept})
    with no_collector():
        client.send(headers(1, CONNECT, end=False), data(1, b"hello"))
        assert bytes_of(client) == b"hello"
        if end == "END_STREAM":
            client.send(data(1, end=True))
        elif end == "RST_STREAM":
            client.send(rst(1))
        elif end == "target":
            refs["target"]().transport.loseConnection()
            client.send(data(1, end=True))
        elif end == "abort":
            refs["target"]().transport.abortConnection()
            client.send()
        else:
            client.leave()
        assert {name for name, weak in refs.items() if weak() is not None} == set()
        connection = ref(client.connection)
        del client.connection
        client.leave()
        assert connection() is None


@pytest.mark.parametrize("end", ["answer", "RST_STREAM", "connection"])
def test_nothing_is_left_of_a_request(end: str) -> None:
    """The same for an ordinary request."""
    client = raw({})
    with no_collector():
        if end == "answer":
            client.send(headers(1))
        else:
            client.send(headers(1, [(b":method", b"POST"), *CONNECT[2:]], end=False), data(1, b"x"))
            client.send(rst(1)) if end == "RST_STREAM" else client.leave()
        assert [weak() for weak in client.site.requests if weak() is not None] == []


# What is decided, and when.


def test_reset_cancels() -> None:
    """A reset cancels the acceptor."""
    cancelled: list[Any] = []
    decision: Deferred[Any] = Deferred(cancelled.append)
    client = raw({"echo": lambda request, token: decision})
    client.send(headers(1, CONNECT, end=False), data(1, b"early"))
    client.send(rst(1))
    assert cancelled == [decision]
    assert not client.site.deciding
    client.leave()


def test_accept_timeout() -> None:
    """An acceptor that takes too long is answered for with a 503."""
    cancelled: list[Any] = []
    client = raw({"echo": lambda request, token: Deferred(cancelled.append)}, accept_timeout=3)
    client.send(headers(1, CONNECT, end=False))
    client.site.reactor.advance(4)
    client.send()
    taken = client.take()
    assert [client.fields(f)[b":status"] for f in taken if f.kind == HEADERS] == [b"503"]
    assert len(cancelled) == 1
    client.leave()


def test_max_unsent() -> None:
    """A client that opens no window for what it asked for is cut off past max_unsent, alone."""
    factory, targets = factory_of(EchoTarget)
    client = raw({"echo": factory}, max_unsent=100_000)
    client.send(headers(1, CONNECT, end=False), headers(3, CONNECT, end=False))
    targets[0].transport.write(b"x" * 200_000)
    client.send(window_update(0, 2**20))
    client.take()
    client.site.reactor.advance(1)
    client.send(data(3, b"still here"))
    assert targets[0].reason.check(ConnectionAborted)
    assert bytes_of(client, 3) == b"still here"
    client.leave()


def test_max_per_address() -> None:
    """Streams count for their client's address."""
    factory, _targets = factory_of(EchoTarget)
    client = raw({"echo": factory}, max_per_address=2)
    client.send(*(headers(stream, CONNECT, end=False) for stream in (1, 3)))
    taken = client.take()
    statuses = [client.fields(f)[b":status"] for f in taken if f.kind == HEADERS]
    # One place is the connection's, which has switched to h2c's protocol.
    assert statuses == [b"200", b"429"]
    client.leave()


# A stalled stream beside others.


@pytest.mark.parametrize("who", ["client", "target"])
def test_stalled_beside_busy_streams(who: str) -> None:
    """One stream that nobody reads stops none of a hundred others."""
    factory, targets = factory_of(EchoTarget)
    stalled = Acting(lambda target: target.transport.pauseProducing())

    def accept(request: Any, token: Any) -> Any:
        return stalled if not targets and not stalled.events else factory.buildProtocol(None)

    client = raw({"echo": accept})
    streams = range(3, 203, 2)
    client.send(headers(1, CONNECT, end=False))
    if who == "client":
        stalled.transport.write(b"x" * 1_000_000)
    else:
        client.send(*[data(1, bytes(2**14 - 1))] * 4)
    client.send(*(headers(stream, CONNECT, end=False) for stream in streams))
    client.send(window_update(0, 2**24))
    client.take()
    for _ in range(3):
        client.send(*(data(stream, b"x" * 1000) for stream in streams))
    busy = {f.stream for f in client.take() if f.kind == DATA and f.stream != 1}
    assert busy == set(streams)
    assert all(len(target.data) == 3000 for target in targets)
    client.leave()


# Time-outs.


def test_idle_content() -> None:
    """A content that does not come on, on a connection that is busy otherwise, is given up."""
    client = raw({}, timeout=60)
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/page"), (b":authority", b"a")]
    client.send(headers(1, fields, end=False), data(1, b"half of it"))
    for number in range(7):
        client.site.reactor.advance(10)
        client.send(headers(2 * number + 3), data(1, b"x"))
    assert [f.stream for f in client.take() if f.kind == RST_STREAM][:1] == [1]
    assert not client.is_over
    client.leave()


def test_busy_connection_is_not_in_a_head() -> None:
    """A client whose segments end within frames is not taken for one that never ends its head."""
    client = raw({}, head_timeout=60, timeout=3600)
    whole = b"".join(headers(2 * number + 1) for number in range(100))
    size = len(whole) // 100
    client.send(whole[:5])
    for start in range(5, len(whole), size):
        client.send(whole[start : start + size])
        client.site.reactor.advance(5)
    assert not client.is_over
    assert len([f for f in client.take() if f.kind == HEADERS]) == 100
    client.leave()


def test_head_that_drips() -> None:
    """A head of which a byte comes now and then ends the connection at head_timeout."""
    client = raw({}, head_timeout=60, timeout=3600)
    for byte in headers(1)[:10]:
        client.send(bytes([byte]))
        client.site.reactor.advance(10)
    assert client.is_over


def test_unread_answer_is_given_up() -> None:
    """
    A client that reads nothing any more, though all of its windows are open, holds its answers no
    longer than an idle one holds its connection.
    """
    from tests.kit.asking import ByHand

    site = h2c_site(http2_connect=True, reactor=Clock(), timeout=60)
    site.resource.putChild(b"large", ByHand(lambda request: b"x" * 1_000_000))
    client = Unread(site)
    fields = [(name, b"/large" if name == b":path" else value) for name, value in GET]
    client.send(settings(_4=2**31 - 1), window_update(0, 2**30))
    client.send(*(headers(2 * number + 1, fields) for number in range(3)))
    for _ in range(300):
        site.reactor.advance(1)
    assert client.is_over
