"""
``byte_stream``: any protocol of Twisted's as the target, its bytes in binary messages.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from tests.kit.asking import is_http
from tests.kit.farside import MEGABYTE, Collector, Source, settled
from tests.kit.harness import (
    EchoTarget,
    Recorder,
    factory_of,
    field,
    patient,
    site_of,
    status,
    turns,
)
from tests.kit.prefaced import every_kind, splits
from tests.kit.wscodec import BINARY, CONTINUATION, MASK, PING, PONG, TEXT
from tests.kit.wsstream import WebSocketByHand, close, frame, next_frame, switched
from upgrade_switch import _twisted
from upgrade_switch.errors import UpgradeError
from upgrade_switch.protocols import byte_stream
from upgrade_switch.server.pages import StatusPage


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(kind, make)``: a listening site, whose targets are remembered."""

    async def start(kind: str, make: Any = EchoTarget, **kwargs: Any) -> Any:
        factory, built = factory_of(make)
        listening = await listen(kind, site_of({"websocket": byte_stream(factory)}, **kwargs))
        listening.built = built
        return listening

    return start


async def goodbye(client: Any) -> None:
    """The client's end of the closing handshake; the server closes the connection."""
    client.send(close(masked=True))
    await client.is_lost()


@every_kind
@pytest_twisted.ensureDeferred
async def test_there_and_back(serve: Any, kind: str) -> None:
    """A target gets the payload of binary messages, and what it writes goes in binary messages."""
    listening = await serve(kind)
    client = await switched(listening, behind=frame(BINARY, b"early", masked=True))
    assert await next_frame(client) == (BINARY, b"early", True)
    client.send_frame(BINARY, b"more")
    assert await next_frame(client) == (BINARY, b"more", True)
    (target,) = listening.built
    assert target.events == ["made", b"early", b"more"]
    client.send(close(masked=True))
    assert (await next_frame(client)).code == 1000
    await client.is_lost()
    await target.is_lost()
    assert target.events[-1] == "lost"
    assert target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_every_split(serve: Any) -> None:
    """However frames are cut, the target gets their bytes in order, and pings are answered."""
    data = (
        frame(BINARY, b"one", masked=True)
        + frame(BINARY, masked=True)
        + frame(BINARY, b"t", fin=False, masked=True)
        + frame(PING, b"?", masked=True)
        + frame(CONTINUATION, fin=False, masked=True)
        + frame(CONTINUATION, b"wo", masked=True)
        + frame(BINARY, b"x" * 130, masked=True)
    )
    listening = await serve("tcp", Recorder)
    for pieces in splits(data):
        client = await switched(listening)
        target = listening.built[-1]
        for piece in pieces:
            client.send(piece)
            await turns(2)
        await target.receives(b"x" * 130)
        assert target.data == b"onetwo" + b"x" * 130
        assert b"" not in target.events
        assert await next_frame(client) == (PONG, b"?", True)
        await goodbye(client)


@pytest.mark.parametrize("text", [b"hello", b"", b"x" * 70_000, b"\xff"])
@pytest_twisted.ensureDeferred
async def test_text(serve: Any, text: bytes) -> None:
    """A text message ends the connection with 1003, and the target gets nothing of it or behind it."""
    listening = await serve("tcp", Recorder)
    client = await switched(listening)
    client.send_frame(BINARY, b"before")
    client.send(frame(TEXT, text, masked=True) + frame(BINARY, b"behind", masked=True))
    assert (await next_frame(client)).code == 1003
    client.send(close(1003, masked=True))
    await client.is_lost()
    (target,) = listening.built
    await target.is_lost()
    assert target.data == b"before"
    assert target.events.count("lost") == 1


@every_kind
@pytest_twisted.ensureDeferred
async def test_huge_frame(serve: Any, kind: str) -> None:
    """A frame that says that it is huge is passed on as it comes, and does not fill the memory."""
    listening = await serve(kind, Collector)
    client = await switched(listening)
    (target,) = listening.built
    client.send(frame(BINARY, masked=True, announced=2**50))
    (connection,) = listening.site.switched
    for part in range(10):
        client.send(MASK * 25_000)
        await target.has(100_000 * (part + 1))
    assert target.data == b"\0" * 1_000_000
    assert len(connection.target.data) == 0
    assert max(len(event) for event in target.events if isinstance(event, bytes)) <= 100_000
    client.transport.abortConnection()
    await target.is_lost()
    assert target.reason.check(ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_many_fragments(serve: Any) -> None:
    """A message that never ends is passed on fragment by fragment."""
    listening = await serve("tcp", Collector)
    client = await switched(listening)
    (target,) = listening.built
    client.send_frame(BINARY, b"0", fin=False)
    for count in range(1, 300):
        client.send_frame(CONTINUATION, b"%d" % (count % 10), fin=False)
    await target.has(300)
    assert target.data == b"0123456789" * 30


@every_kind
@pytest_twisted.ensureDeferred
async def test_target_closes_after_much(serve: Any, kind: str) -> None:
    """What a target has written before loseConnection arrives, all of it, and then the close."""

    class Giving(Recorder):
        def connectionMade(self) -> None:
            for at in range(0, len(MEGABYTE), 100_000):
                self.transport.write(MEGABYTE[at : at + 100_000])
            self.transport.writeSequence([b"the ", b"end"])
            self.transport.loseConnection()
            self.transport.write(b"too late")
            self.transport.loseConnection()

    listening = await serve(kind, Giving)
    client = await switched(listening)
    received = bytearray()
    while (got := await next_frame(client)).opcode == BINARY:
        received += got.payload
    assert received == MEGABYTE + b"the end"
    assert got.code == 1000
    assert client.reason is None
    await goodbye(client)
    (target,) = listening.built
    await target.is_lost()
    assert target.reason.check(ConnectionDone)


@every_kind
@pytest_twisted.ensureDeferred
async def test_client_closes_after_much(serve: Any, kind: str) -> None:
    """What a client has sent before its close frame arrives, all of it; then the end, a clean one."""
    listening = await serve(kind, Collector)
    client = await switched(listening)
    client.send_frame(BINARY, MEGABYTE)
    client.send(close(masked=True))
    (target,) = listening.built
    await target.is_lost()
    assert target.data == MEGABYTE
    assert target.reason.check(ConnectionDone)
    assert (await next_frame(client)).code == 1000


@every_kind
@pytest_twisted.ensureDeferred
async def test_unclean_ends(serve: Any, kind: str) -> None:
    """A client that leaves without a close frame, and a target that aborts: the end is not clean."""
    listening = await serve(kind, Recorder)
    for aborting in (False, True):
        client = await switched(listening)
        target = listening.built[-1]
        (target if aborting else client).transport.abortConnection()
        await target.is_lost()
        assert target.reason.check(ConnectionLost)
        await client.is_lost()
        assert client.data == b""
        assert target.events == ["made", "lost"]


@every_kind
@pytest_twisted.ensureDeferred
async def test_fin_without_close(serve: Any, kind: str) -> None:
    """A connection that is closed without a close frame is an end that is not clean."""
    listening = await serve(kind, Recorder)
    client = await switched(listening)
    client.send_frame(BINARY, b"bye")
    client.transport.loseConnection()
    (target,) = listening.built
    await target.is_lost()
    assert target.events == ["made", b"bye", "lost"]
    assert target.reason.check(ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_drain(serve: Any) -> None:
    """A site that drains closes with 1001: a stream that ends like that has been cut off."""
    listening = await serve("tcp", Recorder)
    client = await switched(listening)
    (target,) = listening.built
    listening.site.reactor = clock = Clock()
    drained = listening.site.drain(30)
    clock.advance(29)
    assert (await next_frame(client)).code == 1001
    await goodbye(client)
    await patient(drained)
    assert target.reason.check(ConnectionLost)


# What the target's transport can do.


@every_kind
@pytest_twisted.ensureDeferred
async def test_addresses(serve: Any, kind: str) -> None:
    """The target's transport knows the addresses of the connection."""
    listening = await serve(kind, Recorder)
    await switched(listening)
    (target,) = listening.built
    (connection,) = listening.site.switched
    assert target.transport.getPeer() == connection.peer
    assert target.transport.getHost() is not None


@every_kind
@pytest.mark.parametrize("streaming", [False, True])
@pytest_twisted.ensureDeferred
async def test_producer(serve: Any, kind: str, streaming: bool) -> None:
    """A producer is only asked for as much as the client reads."""

    class Producing(Recorder):
        def connectionMade(self) -> None:
            if streaming:
                self.transport.registerProducer(self, True)
                self.sent, self.stopped = 0, False
                self.resumeProducing()
            else:
                self.source = Source(self.transport, MEGABYTE * 20)

        def resumeProducing(self) -> None:
            self.stopped = False
            while not self.stopped and self.sent < 20_000_000:
                self.sent += 32768
                self.transport.write(b"y" * 32768)

        def pauseProducing(self) -> None:
            self.stopped = True

        def stopProducing(self) -> None:
            self.stopped = True

    listening = await serve(kind, Producing)
    client = await switched(listening)
    client.transport.pauseProducing()
    (target,) = listening.built
    source = target if streaming else target.source
    await settled(lambda: source.sent)
    assert 0 < source.sent < 20_000_000
    client.transport.resumeProducing()
    before = source.sent
    await client.until(lambda: source.sent > before)


@every_kind
@pytest_twisted.ensureDeferred
async def test_echo_to_one_who_does_not_read(serve: Any, kind: str) -> None:
    """A client that sends without reading what comes back is not read any more."""
    listening = await serve(kind, lambda: EchoingCollector())
    client = await switched(listening)
    client.transport.pauseProducing()
    (target,) = listening.built
    for _ in range(20):
        client.send_frame(BINARY, MEGABYTE)
    await settled(lambda: len(target.data))
    assert len(target.data) < 20_000_000
    client.transport.abortConnection()
    await target.is_lost()


class EchoingCollector(Collector):
    """Sends back what comes, without a producer."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


@pytest_twisted.ensureDeferred
async def test_paused_target(serve: Any) -> None:
    """A target that pauses its transport gets nothing until it resumes, what came at once included."""

    class Pausing(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.pauseProducing()

    listening = await serve("tcp", Pausing)
    client = await switched(listening, behind=frame(BINARY, b"early", masked=True))
    client.send_frame(BINARY, b"later")
    (target,) = listening.built
    await turns(5)
    assert target.events == ["made"]
    target.transport.resumeProducing()
    await target.receives(b"earlylater")


@pytest.mark.parametrize("then", ["resume", "close"])
@pytest_twisted.ensureDeferred
async def test_target_that_pauses_for_each_piece(serve: Any, then: str) -> None:
    """
    A target that pauses and resumes while it is given a piece gets the next one afterwards, however
    many wait: its calls are not nested.
    """
    depths: list[int] = []

    class Pausing(Recorder):
        is_ready = False
        depth = 0

        def dataReceived(self, data: bytes) -> None:
            self.depth += 1
            depths.append(self.depth)
            self.transport.pauseProducing()
            if self.is_ready:
                self.transport.resumeProducing()
            super().dataReceived(data)
            self.depth -= 1

    listening = await serve("tcp", Pausing)
    client = await switched(listening)
    (target,) = listening.built
    pieces = [b"%d," % number for number in range(2000)]
    client.send(b"".join(frame(BINARY, piece, masked=True) for piece in pieces))
    await target.receives(b"0,")
    await turns(2)
    assert depths == [1]
    target.is_ready = True
    if then == "close":
        # It is given what is held when the connection ends.
        client.transport.abortConnection()
        _twisted.bottom(target.transport.carrier).resumeProducing()
        await target.is_lost()
    else:
        target.transport.resumeProducing()
    await target.until(lambda: target.data == b"".join(pieces))
    assert set(depths) == {1}


# Who decides.


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (None, None),
        (b"binary", b"binary"),
        (b"chat, binary", b"binary"),
        (b"base64", None),
        (b"Binary", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_subprotocol(serve: Any, asked: bytes | None, answered: bytes | None) -> None:
    """``binary`` is chosen where it is offered, and nothing else; the stream works either way."""
    listening = await serve("tcp")
    fields = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    if asked is not None:
        fields += b"Sec-WebSocket-Protocol: " + asked + b"\r\n"
    client = await switched(listening, fields)
    assert field(client.answer, b"sec-websocket-protocol") == answered
    assert field(client.answer, b"sec-websocket-extensions") is None
    client.send_frame(BINARY, b"hello")
    assert await next_frame(client) == (BINARY, b"hello", True)


async def coroutine(request: Any, token: Any) -> Any:
    await turns(2)
    return EchoTarget()


@pytest.mark.parametrize(
    "acceptor",
    [
        lambda request, token: EchoTarget(),
        lambda request, token: succeed(EchoTarget()),
        coroutine,
    ],
    ids=["function", "Deferred", "coroutine"],
)
@pytest_twisted.ensureDeferred
async def test_acceptor(listen: Any, acceptor: Any) -> None:
    """The target may come from a function, a Deferred or a coroutine."""
    listening = await listen("tcp", site_of({"websocket": byte_stream(acceptor)}))
    client = await switched(listening, behind=frame(BINARY, b"early", masked=True))
    assert await next_frame(client) == (BINARY, b"early", True)


@pytest.mark.parametrize("later", [False, True])
@pytest_twisted.ensureDeferred
async def test_acceptor_declines(listen: Any, later: bool) -> None:
    """A resource is the answer, and None is a 503; the connection stays HTTP's."""
    results: list[Any] = [None, StatusPage(401, "Unauthorized", "Who?")]

    def decline(request: Any, token: Any) -> Any:
        assert str(token) == "websocket"
        assert request.uri == b"/u"
        return succeed(results.pop()) if later else results.pop()

    listening = await listen("tcp", site_of({"websocket": byte_stream(decline)}))
    client = await listening.connect(WebSocketByHand())
    for code in (401, 503):
        client.ask()
        assert status((await client.response())[0]) == code
        await is_http(client)


@pytest_twisted.ensureDeferred
async def test_factory_declines(serve: Any) -> None:
    """A factory that builds nothing is a 503."""
    listening = await serve("tcp", lambda: None)
    client = await listening.connect(WebSocketByHand())
    client.ask()
    assert status((await client.response())[0]) == 503
    await is_http(client)


@pytest.mark.parametrize("result", [7, EchoTarget, b"page"])
@pytest_twisted.ensureDeferred
async def test_nonsense(listen: Any, errors: Any, result: Any) -> None:
    """An acceptor that results in something else is a 500, logged."""
    site = site_of({"websocket": byte_stream(lambda request, token: result)})
    client = await (await listen("tcp", site)).connect(WebSocketByHand())
    client.ask()
    assert status((await client.response())[0]) == 500
    assert isinstance(errors.take(1)[0], UpgradeError)


@pytest_twisted.ensureDeferred
async def test_client_leaves_while_deciding(listen: Any) -> None:
    """A client that leaves while the acceptor is deciding cancels it."""
    cancelled: list[Any] = []
    deciding: Deferred[Any] = Deferred(cancelled.append)
    site = site_of({"websocket": byte_stream(lambda request, token: deciding)})
    client = await (await listen("tcp", site)).connect(WebSocketByHand())
    client.ask()
    await site.has_received(1)
    await turns()
    client.transport.abortConnection()
    await client.is_lost()
    await turns()
    assert cancelled == [deciding]


@pytest_twisted.ensureDeferred
async def test_bad_handshake_asks_nobody(listen: Any) -> None:
    """The acceptor is asked about good handshakes only, and from allowed origins only."""
    asked: list[Any] = []
    site = site_of({"websocket": byte_stream(lambda *args: asked.append(args), ["https://page.test"])})
    client = await (await listen("tcp", site)).connect(WebSocketByHand())
    client.ask(b"Origin: https://other.test\r\n")
    assert status((await client.response())[0]) == 403
    client.ask(b"Sec-WebSocket-Key: second\r\n")
    assert status((await client.response())[0]) == 400
    assert asked == []
    client.ask(b"Origin: https://page.test\r\n")
    assert status((await client.response())[0]) == 503
    assert len(asked) == 1


@pytest_twisted.ensureDeferred
async def test_size(listen: Any) -> None:
    """The bytes of a message are passed on as they come; if there is a limit, one more is 1009."""
    factory, targets = factory_of(Recorder)
    acceptor = byte_stream(factory, max_message_size=1000)
    listening = await listen("tcp", site_of({"websocket": acceptor}))
    client = await switched(listening)
    client.send(frame(BINARY, b"x" * 1000, masked=True))
    client.send(frame(BINARY, b"y" * 1001, masked=True))
    assert (await next_frame(client)).code == 1009
    assert targets[0].data.startswith(b"x" * 1000)
