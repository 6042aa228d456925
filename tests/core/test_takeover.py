"""
The duties of the takeover, each on its own, the awkward ones first.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.interfaces import IHandshakeListener, ILoggingContext
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.portforward import ProxyFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import (
    EVERY_KIND,
    EVERY_SOCKET,
    EchoTarget,
    Flood,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    field,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from upgrade_switch import SwitchedConnection, UpgradeRequest, _twisted
from upgrade_switch.takeover import hand_over

BIG = b"0123456789abcdef" * 6400


class Target(Recorder):
    """A Recorder that does one thing at one of its events."""

    def __init__(self, at: str = "", do: Callable[[Any], object] = lambda _: None) -> None:
        super().__init__()
        self._at, self._do = at, do

    def _note(self, event: Any) -> None:
        super()._note(event)
        if self._at == (event if isinstance(event, str) else "data"):
            self._do(self)


def fail(_: Any) -> None:
    raise RuntimeError("a target's own bug")


async def switch(listening: Any, make: Callable[[], Any], trailing: bytes = b"") -> Any:
    """Switch one connection; the client and its target."""
    client = await listening.connect()
    client.send(upgrade_head() + trailing)
    assert status(await client.head()) == 101
    return client


# 1. Every trailing byte, once, in order, after connectionMade.


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_paused_in_connection_made(kind: str, listen: Any) -> None:
    """A target that pauses in connectionMade gets nothing until it resumes, then all in order."""
    factory, targets = factory_of(lambda: Target("made", lambda t: t.transport.pauseProducing()))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target, BIG)
    client.send(b"later")
    await turns(10)
    (target,) = targets
    assert target.events == ["made"]
    target.transport.resumeProducing()
    await target.until(lambda: target.amount >= len(BIG) + 5)
    assert target.data == BIG + b"later"
    is_wrapped = listening.kind in ("tls", "proxy")
    owner = target.transport.wrappedProtocol if is_wrapped else target.transport.protocol
    assert owner is target
    assert "resumeProducing" not in vars(target.transport)


@pytest_twisted.ensureDeferred
async def test_paused_in_connection_made_between_records(listen: Any) -> None:
    """
    A target that pauses in connectionMade gets nothing of the next TLS record either, which has been
    read together with the request's, until it resumes.
    """
    factory, targets = factory_of(lambda: Target("made", lambda t: t.transport.pauseProducing()))
    listening = await listen("tls", site_of({"echo": factory}))
    client = await listening.connect()
    client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.response()
    (channel,) = listening.site.channels
    paused = _twisted.bottom(channel().transport)
    paused.pauseProducing()
    client.transport.setTcpNoDelay(True)
    for record in (upgrade_head(), b"behind"):
        client.send(record)
        await turns(5)
    # Now both records are in the server's socket.
    assert not listening.site.switched
    paused.resumeProducing()
    assert status(await client.head()) == 101
    await turns()
    (target,) = targets
    assert target.events == ["made"]
    target.transport.resumeProducing()
    await target.receives(b"behind")
    assert target.data == b"behind"


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_paused_and_resumed_in_connection_made(kind: str, listen: Any) -> None:
    """A target that pauses and resumes within connectionMade gets its bytes after it."""

    def flicker(target: Any) -> None:
        target.transport.pauseProducing()
        target.transport.resumeProducing()
        assert target.data == b""

    factory, targets = factory_of(lambda: Target("made", flicker))
    listening = await listen(kind, site_of({"echo": factory}))
    await switch(listening, Target, b"trailing")
    await targets[0].receives(b"trailing")
    assert targets[0].events == ["made", b"trailing"]


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_lost_while_paused(kind: str, listen: Any) -> None:
    """A target whose connection ends while it pauses hears of the end, once, and gets no bytes."""
    factory, targets = factory_of(lambda: Target("made", lambda t: t.transport.pauseProducing()))
    listening = await listen(kind, site_of({"echo": factory}))
    await switch(listening, Target, BIG)
    (target,) = targets
    transport = target.transport
    transport.abortConnection()
    await target.is_lost()
    transport.resumeProducing()
    assert target.events == ["made", "lost"]


# Of TLS that is aborted, Twisted's own layer keeps a traceback that leads back to itself.
@pytest.mark.parametrize("kind", ["tcp", "unix", "proxy", "memory"])
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_who_pauses(kind: str, listen: Any) -> None:
    """A target whose connection ends while it pauses is freed by reference counting alone."""
    watched: list[Any] = []

    class Pausing(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.pauseProducing()

    def accept(request: Any, token: Any) -> Any:
        target = Pausing()
        watched.append(ref(target))
        return target

    listening = await listen(kind, site_of({"echo": accept}))
    await switch(listening, Target, b"trailing")
    (connection,) = listening.site.switched
    connection.abort()
    del connection
    await listening.site.switched.when_empty()
    await turns()
    assert watched[0]() is None


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_portforward(kind: str, listen: Any) -> None:
    """Twisted's own portforward, which pauses until it is connected, loses nothing as a target."""
    backend_factory, backends = factory_of(EchoTarget)
    port = reactor.listenTCP(0, backend_factory, interface="127.0.0.1")
    forward = ProxyFactory("127.0.0.1", port.getHost().port)
    forward.noisy = False
    listening = await listen(kind, site_of({"echo": forward}))
    client = await switch(listening, Target, BIG)
    client.send(b"later")
    await client.until(lambda: client.amount >= len(BIG) + 5)
    assert client.data == BIG + b"later"
    client.transport.loseConnection()
    await backends[0].is_lost()
    await port.stopListening()


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_closed_in_connection_made(kind: str, end: str, listen: Any) -> None:
    """A target that closes or aborts in connectionMade gets no bytes, and connectionLost once."""
    factory, targets = factory_of(lambda: Target("made", lambda t: getattr(t.transport, end)()))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect(Recorder())
    client.send(upgrade_head() + BIG)
    await client.is_lost()
    (target,) = targets
    await target.is_lost()
    assert target.events == ["made", "lost"]
    if end == "loseConnection":
        assert status(await client.head()) == 101


# 2. No timer of HTTP's; not its producer; the transport reads.


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_no_timer(kind: str, listen: Any) -> None:
    """A switched connection outlives HTTP's idle timeout."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, timeout=3600))
    before = set(reactor.getDelayedCalls())
    client = await switch(listening, Target)
    idle = {call for call in reactor.getDelayedCalls() if call.getTime() > reactor.seconds() + 600}
    assert not idle - before
    client.send(b"still here")
    await client.receives(b"still here")
    assert targets[0].data == b"still here"


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_target_may_produce(kind: str, listen: Any) -> None:
    """A target can register a producer of its own, which the transport then pauses and resumes."""

    class Producer(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.flood = Flood(self.transport)

    factory, targets = factory_of(Producer)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target)
    client.transport.pauseProducing()
    flood = None
    while flood != targets[0].flood.sent:
        # It stops when the kernel's buffers and Twisted's are full.
        flood = targets[0].flood.sent
        await turns(20)
    targets[0].transport.unregisterProducer()
    targets[0].transport.write(b"end")
    client.transport.resumeProducing()
    await client.until(lambda: client.amount == flood + 3)
    assert client.data.endswith(b"xend")
    assert flood < 20_000_000


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_target_that_never_reads(kind: str, listen: Any) -> None:
    """A client that never stops cannot fill the memory of a target that never reads."""
    factory, targets = factory_of(lambda: Target("made", lambda t: t.transport.pauseProducing()))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target)
    flood = Flood(client.transport)
    sent = -1
    while sent != flood.sent:
        sent = flood.sent
        await turns(20)
    assert sent < 20_000_000
    assert targets[0].data == b""
    client.transport.unregisterProducer()


# 3. connectionLost exactly once; HTTPChannel's never.


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_connection_lost_once(kind: str, listen: Any) -> None:
    """The end is told to the target, once, and not to the channel."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target)
    client.transport.loseConnection()
    await targets[0].is_lost()
    await turns()
    assert targets[0].events == ["made", "lost"]
    assert [ref() for ref in listening.site.channels if ref() is not None] == []


# 4. The request is finished first.


@pytest_twisted.ensureDeferred
async def test_request_is_finished_first(listen: Any) -> None:
    """Before the target is connected: access log, notifyFinish, content closed, off the channel."""
    seen: list[Any] = []

    def accept(request: UpgradeRequest, token: object) -> Protocol:
        content, channel = request.content, request.channel
        request.notifyFinish().addCallback(lambda _: seen.append("finished"))

        def made(_: Any) -> None:
            seen.extend([content.closed, list(channel.requests), list(listening.site.lines), "made"])

        return Target("made", made)

    listening = await listen("tcp", site_of({"echo": accept}))
    await switch(listening, Target)
    assert seen == ["finished", True, [], [(101, b"/u")], "made"]


# 5. The transport's bytes go to the target and to nothing in between.


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_half_close(kind: str, listen: Any) -> None:
    """A target that takes half-closes hears of the client's, and can still answer."""
    factory, targets = factory_of(HalfCloseRecorder)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target, b"trailing")
    client.transport.loseWriteConnection()
    (target,) = targets
    await target.until(lambda: "read lost" in target.events)
    target.send(b"answer")
    target.transport.loseWriteConnection()
    await client.until(lambda: "read lost" in client.events)
    assert client.data == b"answer"
    await target.until(lambda: "write lost" in target.events)
    assert target.events == ["made", b"trailing", "read lost", "write lost"]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_half_close_while_paused(kind: str, listen: Any) -> None:
    """A target that pauses in connectionMade may half-close before it resumes."""

    class Closes(HalfCloseRecorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.pauseProducing()
            self.transport.loseWriteConnection()

    factory, targets = factory_of(Closes)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target, b"trailing")
    await client.until(lambda: "read lost" in client.events)
    (target,) = targets
    assert target.events == ["made", "write lost"]
    target.transport.resumeProducing()
    assert target.events == ["made", "write lost", b"trailing"]


@pytest_twisted.ensureDeferred
async def test_not_half_closeable(listen: Any) -> None:
    """For a target that takes no half-closes, the client's FIN is the end."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen("tcp", site_of({"echo": factory}))
    client = await switch(listening, Target)
    client.transport.loseWriteConnection()
    await targets[0].is_lost()
    assert len(listening.site.switched) == 0


@implementer(IHandshakeListener)
class StartsTLS(EchoTarget):
    """A target that puts TLS beneath itself at once."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.startTLS(SERVER.options())

    def handshakeCompleted(self) -> None:
        self._note("handshake")


@pytest.mark.parametrize("optimistic", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "proxy"])
@pytest_twisted.ensureDeferred
async def test_start_tls(kind: str, optimistic: bool, listen: Any) -> None:
    """
    startTLS in connectionMade works, also when the client's ClientHello came with its request.
    """
    factory, targets = factory_of(StartsTLS)
    listening = await listen(kind, site_of({"echo": factory}))

    class Client(HalfCloseRecorder):
        def upgrade(self) -> None:
            options = optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
            self.transport.startTLS(options)
            self.transport.write(b"secret")

    client = await listening.connect(Client())
    if optimistic:
        client.send(upgrade_head() + _client_hello())
        # The server goes on with the handshake: its first flight is TLS, behind the 101.
        await client.until(lambda: client.data.partition(b"\r\n\r\n")[2][:1] == b"\x16")
        return
    client.send(upgrade_head())
    assert status(await client.head()) == 101
    client.upgrade()
    await client.receives(b"secret")
    (target,) = targets
    # Twisted tells only who is directly above its TLS layer.
    assert ("handshake" in target.events) is (kind == "tcp")
    assert target.data == b"secret"
    assert [c.target for c in listening.site.switched] == [target]
    client.transport.loseConnection()
    await target.is_lost()
    assert len(listening.site.switched) == 0


def _client_hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_second_takeover(kind: str, listen: Any) -> None:
    """A target can be taken over from in its turn; the connection stays one entry until its end."""
    second = EchoTarget()

    def give_away(target: Any) -> None:
        hand_over(target.transport, _twisted.slot_of(target.transport, target), second, b"")

    factory, targets = factory_of(lambda: Target("data", give_away))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target, b"first")
    client.send(b"second")
    await client.receives(b"second")
    assert targets[0].events == ["made", b"first"]
    assert len(listening.site.switched) == 1
    client.transport.loseConnection()
    await second.is_lost()
    assert second.events == ["made", b"second", "lost"]
    assert len(listening.site.switched) == 0


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_taken_over_in_connection_made(kind: str, listen: Any) -> None:
    """Who takes over in connectionMade gets the trailing data."""
    second = EchoTarget()

    def give_away(target: Any) -> None:
        hand_over(target.transport, _twisted.slot_of(target.transport, target), second, b"")

    factory, targets = factory_of(lambda: Target("made", give_away))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target, b"trailing")
    await client.receives(b"trailing")
    assert targets[0].events == ["made"]
    assert second.events == ["made", b"trailing"]


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_nested_switch(kind: str, listen: Any) -> None:
    """
    HTTP may be switched to, and from there on to something else: still one entry, which tells of the
    latest switch, and which max_switched counts once.
    """

    def http_again(request: UpgradeRequest, token: object) -> Any:
        return request.site.buildProtocol(None)

    factory, targets = factory_of(EchoTarget)
    site = site_of({"http": http_again, "echo/2": factory}, max_switched=1)
    listening = await listen(kind, site)
    client = await listening.connect()
    client.send(upgrade_head(b"http") + upgrade_head(b"echo/2") + b"trailing")
    assert status(await client.head()) == 101
    assert field(await client.head(), b"upgrade") == b"echo/2"
    await client.receives(b"trailing")
    (connection,) = site.switched
    assert isinstance(connection, SwitchedConnection)
    assert (str(connection.token), connection.target) == ("echo/2", targets[0])
    connection.abort()
    await targets[0].is_lost()
    assert len(site.switched) == 0


@implementer(ILoggingContext)
class Named(EchoTarget):
    def logPrefix(self) -> str:
        return "my-protocol"


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_log_prefix(kind: str, listen: Any) -> None:
    """What the reactor logs for a switched connection names the target."""
    factory, targets = factory_of(Named)
    listening = await listen(kind, site_of({"echo": factory}))
    await switch(listening, Target)
    prefix = _twisted.bottom(targets[0].transport).logPrefix()
    assert prefix.startswith("my-protocol,")
    assert "HTTP" not in prefix


# 6. What the target raises.


@pytest.mark.parametrize("at", ["made", "data"])
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_target_that_raises(kind: str, at: str, listen: Any, errors: Any) -> None:
    """What a target raises is logged once, ends its connection, and never becomes a 500."""
    factory, targets = factory_of(lambda: Target(at, fail))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect(Recorder())
    client.send(upgrade_head() + b"trailing")
    await client.is_lost()
    (target,) = targets
    await target.is_lost()
    assert b"500" not in client.data
    assert target.events.count("lost") == 1
    assert len(listening.site.switched) == 0
    (error,) = errors.take(1)
    assert isinstance(error, RuntimeError)


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_target_that_raises_in_connection_lost(kind: str, listen: Any, errors: Any) -> None:
    """What a target raises in connectionLost is logged, and its entry is gone nevertheless."""
    factory, targets = factory_of(lambda: Target("lost", fail))
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target)
    client.transport.loseConnection()
    await targets[0].is_lost()
    await turns()
    assert len(listening.site.switched) == 0
    assert all(isinstance(error, RuntimeError) for error in errors.take(len(errors)))


@pytest.mark.parametrize("render", ["returns", "raises", "writes"])
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest_twisted.ensureDeferred
async def test_render_after_the_switch(kind: str, render: str, listen: Any, errors: Any) -> None:
    """Nothing that a render method does after switch_to reaches the wire, or harms the connection."""

    class ByHand(Resource):
        isLeaf = True

        def render_GET(self, request: UpgradeRequest) -> Any:
            request.switch_to("echo", EchoTarget())
            if render == "raises":
                raise RuntimeError("render's own bug")
            if render == "writes":
                request.write(b"poison")
                request.finish()
                request.write(b"poison")
                return NOT_DONE_YET
            return b"poison"

    listening = await listen(kind, site_of(ByHand()))
    client = await switch(listening, Target, b"trailing")
    client.send(b" and more")
    await client.receives(b"trailing and more")
    assert client.data == b"trailing and more"
    assert len(errors.take(1 if render == "raises" else 0)) == (render == "raises")


# 8. The registry learns of the end from the transport.


@pytest.mark.parametrize("end", ["fin", "rst", "abort", "close"])
@pytest.mark.parametrize("kind", EVERY_SOCKET)
@pytest_twisted.ensureDeferred
async def test_every_end_is_noticed(kind: str, end: str, listen: Any) -> None:
    """However a connection ends, its entry goes, and its target hears of it once."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await switch(listening, Target)
    (connection,) = listening.site.switched
    assert connection in listening.site.switched
    if end == "fin":
        client.transport.loseConnection()
    elif end == "rst":
        reset(client.transport)
    elif end == "abort":
        connection.abort()
        connection.abort()
    else:
        targets[0].transport.loseConnection()
    await targets[0].is_lost()
    await turns()
    assert len(listening.site.switched) == 0
    assert targets[0].events == ["made", "lost"]
    connection.abort()


def reset(transport: Any) -> None:
    """End a connection with a RST."""
    handle = _twisted.bottom(transport).socket
    if handle.family != socket.AF_UNIX:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_tcp_keepalive(listen: Any) -> None:
    """Switched TCP connections get TCP's keep-alive, unless the site says no."""
    for wanted in (True, False):
        factory, targets = factory_of(EchoTarget)
        listening = await listen("tcp", site_of({"echo": factory}, tcp_keepalive=wanted))
        await switch(listening, Target)
        assert targets[0].transport.getTcpKeepAlive() is wanted
