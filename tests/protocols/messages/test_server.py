"""
``message_stream``: a coroutine function for each WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.web.pages import forbidden
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as LibraryFrame
from websockets.frames import Opcode

from tests.kit.handlers import Held, echo, listening_with
from tests.kit.harness import eventually, field, patient, reactor, site_of, status, turns
from tests.kit.prefaced import every_kind, splits
from tests.kit.wscodec import BINARY, CONTINUATION, MASK, PING, PONG, TEXT, Frame, build
from tests.kit.wsstream import WebSocketByHand, close, frame, next_frame, switched
from upgrade_switch.errors import InvalidArgument, InvalidUpgrades, StreamClosed
from upgrade_switch.protocols import MessageStream, broadcast, message_stream


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(handler, kind)``: a listening site with a handler at ``/u``."""
    return partial(listening_with, listen)


@every_kind
@pytest_twisted.ensureDeferred
async def test_there_and_back(serve: Any, kind: str) -> None:
    """Text and binary messages come back as they were; what came with the request is the first."""
    listening = await serve(echo, kind)
    client = await switched(listening, behind=frame(TEXT, "é".encode(), masked=True))
    assert await next_frame(client) == (TEXT, "é".encode(), True)
    client.send_frame(BINARY, b"\0\xff")
    assert await next_frame(client) == (BINARY, b"\0\xff", True)
    client.send(close(masked=True))
    assert (await next_frame(client)).code == 1000
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_every_split(serve: Any) -> None:
    """However frames are cut, messages are whole and in order, and pings are answered between."""
    data = (
        frame(BINARY, b"one", masked=True)
        + frame(TEXT, b"t", fin=False, masked=True)
        + frame(PING, b"?", masked=True)
        + frame(CONTINUATION, b"wo", masked=True)
    )
    listening = await serve(echo)
    for pieces in splits(data):
        client = await switched(listening)
        for piece in pieces:
            client.send(piece)
        frames = [await next_frame(client) for _ in range(3)]
        assert sorted(frames) == [(TEXT, b"two", True), (BINARY, b"one", True), (PONG, b"?", True)]
        client.send(close(masked=True))
        await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_what_the_handler_knows(serve: Any) -> None:
    """The request, the subprotocol, the other end; an iteration ends when the client closes."""
    held = Held()
    listening = await serve(held, subprotocols=["b", "a"])
    client = await switched(listening, b"Sec-WebSocket-Protocol: x, a, b\r\nCookie: c=1\r\n")
    assert field(client.answer, b"sec-websocket-protocol") == b"a"
    stream = held.stream
    assert stream.request is not None
    assert stream.request.getCookie(b"c") == b"1"
    assert (stream.subprotocol, stream.close_code, stream.is_open) == ("a", None, True)
    assert stream.peer.port == client.transport.getHost().port  # type: ignore[attr-defined]
    assert "open" in repr(stream)
    client.send(close(4321, masked=True))
    await patient(stream.wait_closed())
    assert (stream.close_code, stream.is_open) == (4321, False)
    assert "closed (4321)" in repr(stream)
    held.go_on.callback(None)


@pytest_twisted.ensureDeferred
async def test_a_handler_that_returns(serve: Any) -> None:
    """The stream closes with 1000, behind what was sent."""

    async def greet(stream: MessageStream) -> None:
        await stream.send("hello")

    client = await switched(await serve(greet))
    assert await next_frame(client) == (TEXT, b"hello", True)
    assert (await next_frame(client)).code == 1000
    client.send(close(masked=True))
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_a_handler_that_raises(serve: Any, errors: Any) -> None:
    """The stream closes with 1011, and the error is logged."""

    async def fail(stream: MessageStream) -> None:
        raise ZeroDivisionError

    client = await switched(await serve(fail))
    assert (await next_frame(client)).code == 1011
    client.send(close(1011, masked=True))
    await client.is_lost()
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


@pytest_twisted.ensureDeferred
async def test_a_handler_that_expects_no_end(serve: Any) -> None:
    """A client that closes, or is gone, is no error: ``StreamClosed`` says which, and is not logged."""
    ends: list[StreamClosed] = []

    async def receive(stream: MessageStream) -> None:
        try:
            await stream.receive()
        except StreamClosed as closed:
            ends.append(closed)
            raise

    listening = await serve(receive)
    client = await switched(listening)
    client.send(close(4000, masked=True))
    await client.is_lost()
    client = await switched(listening)
    client.transport.abortConnection()
    await client.is_lost()
    await eventually(lambda: len(ends) == 2)
    assert [(end.code, str(end)) for end in ends] == [
        (4000, "the WebSocket is closed (4000)"),
        (1006, "the WebSocket is closed (1006)"),
    ]


@pytest_twisted.ensureDeferred
async def test_iteration(serve: Any) -> None:
    """Iteration ends at a clean close, and raises where the connection was cut off."""
    results: list[object] = []

    async def iterate(stream: MessageStream) -> None:
        try:
            async for _ in stream:
                pass
            results.append(stream.close_code)
        except StreamClosed as closed:
            results.append(closed)

    listening = await serve(iterate)
    for code in (1000, 1001):
        client = await switched(listening)
        client.send(close(code, masked=True))
        await client.is_lost()
    client = await switched(listening)
    client.send(close(1002, masked=True))
    await client.is_lost()
    await eventually(lambda: len(results) == 3)
    assert results[:2] == [1000, 1001]
    assert isinstance(results[2], StreamClosed)


@pytest_twisted.ensureDeferred
async def test_receive(serve: Any) -> None:
    """Several may wait; one that is cancelled takes no message with it."""
    held = Held()
    client = await switched(await serve(held))
    first, second, third = (held.stream.receive() for _ in range(3))
    second.cancel()
    client.send_frame(TEXT, b"1")
    client.send_frame(TEXT, b"2")
    assert [await patient(first), await patient(third)] == ["1", "2"]
    with pytest.raises(CancelledError):
        await second
    client.send_frame(TEXT, b"3")
    await eventually(lambda: held.stream.waiting == 1)
    assert await held.stream.receive() == "3"
    held.go_on.callback(None)
    await next_frame(client)
    client.send(close(masked=True))
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_a_queue_with_a_limit(serve: Any) -> None:
    """Messages that nobody takes stop the reading, and it goes on when they are taken."""
    held = Held()
    client = await switched(await serve(held, max_queue=3))
    for number in range(3):
        client.send_frame(TEXT, b"%d" % number)
    await eventually(lambda: held.stream.waiting == 3)
    protocol: Any = held.stream._connection
    assert protocol.is_reading_paused
    client.send_frame(TEXT, b"3")
    assert [await held.stream.receive() for _ in range(3)] == ["0", "1", "2"]
    assert not protocol.is_reading_paused
    assert await patient(held.stream.receive()) == "3"
    held.go_on.callback(None)
    await next_frame(client)
    client.send(close(masked=True))
    await client.is_lost()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read(serve: Any, kind: str) -> None:
    """Sending waits for room: what waits is bounded; and nothing is read meanwhile."""
    sent: list[int] = []

    async def flood(stream: MessageStream) -> None:
        for number in range(400):
            await stream.send(bytes(65536))
            sent.append(number)
        await stream.receive()

    client = await switched(await serve(flood, kind))
    client.transport.pauseProducing()
    for _ in range(50):
        await turns()
    assert 0 < len(sent) < 390
    client.transport.resumeProducing()
    await eventually(lambda: len(sent) == 400)
    client.transport.abortConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_sending_when_closed(serve: Any) -> None:
    """It fails, also if it waits for room when the connection ends."""
    held = Held()
    client = await switched(await serve(held))
    client.transport.pauseProducing()
    sending = held.stream.send(b"")
    while sending.called:
        sending = held.stream.send(bytes(1 << 20))
    client.transport.abortConnection()
    await client.is_lost()
    with pytest.raises(StreamClosed):
        await patient(sending)
    with pytest.raises(StreamClosed):
        await held.stream.send("late")
    with pytest.raises(StreamClosed):
        await held.stream.receive()
    await held.stream.close()
    held.go_on.callback(None)


@pytest_twisted.ensureDeferred
async def test_closing(serve: Any) -> None:
    """``close`` says why, and waits for the other end; codes that are not sent are refused."""
    held = Held()
    client = await switched(await serve(held))
    for code, reason in [(1005, ""), (999, ""), (1000, "x" * 124)]:
        with pytest.raises(InvalidArgument, match="cannot be closed with"):
            held.stream.close(code, reason)
    closing = held.stream.close(4000, "enough")
    assert not closing.called
    end = await next_frame(client)
    assert (end.code, end.payload[2:]) == (4000, b"enough")
    client.send_frame(TEXT, b"too late")
    client.send(close(4000, masked=True))
    await patient(closing)
    await client.is_lost()
    assert held.stream.close_code == 4000
    held.go_on.callback(None)


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_close(serve: Any) -> None:
    """It has ten seconds."""
    clock, held = Clock(), Held()
    client = await switched(await serve(held, reactor=clock, heartbeat=None))
    closing = held.stream.close()
    await next_frame(client)
    # What was sent is acknowledged: only then do the seconds begin.
    for _ in range(10):
        clock.advance(0.01)
        await turns()
    assert not closing.called
    clock.advance(10)
    await client.is_lost()
    await patient(closing)
    assert held.stream.close_code == 1006
    held.go_on.callback(None)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"\xff", masked=True), 1007),
        (frame(BINARY, b"x"), 1002),
        (frame(CONTINUATION, b"x", masked=True), 1002),
        (frame(BINARY, bytes(101), masked=True), 1009),
        (
            frame(BINARY, bytes(60), fin=False, masked=True)
            + frame(CONTINUATION, bytes(60), masked=True),
            1009,
        ),
        (frame(3, b"", masked=True), 1002),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_broken_frames(serve: Any, bad: bytes, code: int, kind: str) -> None:
    """What breaks the rules is told, and ends the connection."""
    client = await switched(await serve(echo, kind, max_message_size=100))
    client.send(bad)
    assert (await next_frame(client)).code == code
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_compression(serve: Any) -> None:
    """Where the client offers it, messages are compressed, and a bomb is no larger than a message."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    client = await switched(await serve(echo, compression=True, max_message_size=1000), offer)
    assert field(client.answer, b"sec-websocket-extensions").startswith(b"permessage-deflate")
    deflate = PerMessageDeflate(False, False, 15, 15)

    def compressed(data: bytes) -> bytes:
        packed = deflate.encode(LibraryFrame(Opcode.TEXT, data))
        return build(Frame(TEXT, bytes(packed.data), True, 4), MASK)

    client.send(compressed(b"a" * 900))
    answer = await next_frame(client)
    assert len(answer.payload) < 100
    client.send(compressed(b"a" * 100_000))
    assert (await next_frame(client)).code == 1009
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_without_compression(serve: Any) -> None:
    """What is not asked for, or breaks the grammar, is not answered."""
    for fields in (b"Sec-WebSocket-Extensions: x-other\r\n", b"Sec-WebSocket-Extensions: ;;\r\n", b""):
        client = await switched(await serve(echo, compression=True), fields)
        assert b"sec-websocket-extensions" not in client.answer.lower()
        client.transport.abortConnection()
        await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_heartbeat(serve: Any) -> None:
    """A client from which nothing comes is pinged, and then given up."""
    clock, held = Clock(), Held()
    client = await switched(await serve(held, reactor=clock, heartbeat=30))
    clock.advance(30)
    assert await next_frame(client) == (PING, b"", True)
    client.send_frame(PONG)
    await turns()
    clock.advance(30)
    await turns()
    clock.advance(30)
    clock.advance(30)
    await client.is_lost()
    await patient(held.stream.wait_closed())
    assert held.stream.close_code == 1006
    held.go_on.callback(None)


@pytest_twisted.ensureDeferred
async def test_drain(serve: Any) -> None:
    """When the site goes down, the stream closes with 1001, and iteration ends."""
    listening = await serve(echo)
    client = await switched(listening)
    draining = listening.site.drain(10)
    assert (await next_frame(client)).code == 1001
    client.send(close(1001, masked=True))
    await client.is_lost()
    await patient(draining)


@pytest_twisted.ensureDeferred
async def test_broadcast(serve: Any) -> None:
    """All that are open get it; one that is closed is skipped."""
    held = Held()
    listening = await serve(held)
    clients = [await switched(listening) for _ in range(3)]
    clients[0].transport.abortConnection()
    await clients[0].is_lost()
    await patient(held.streams[0].wait_closed())
    broadcast(held.streams, "news")
    for client in clients[1:]:
        assert await next_frame(client) == (TEXT, b"news", True)
        client.transport.abortConnection()
        await client.is_lost()
    held.go_on.callback(None)


@pytest.mark.parametrize(
    ("fields", "code"),
    [(b"Origin: http://evil.example\r\n", 403), (b"Sec-WebSocket-Protocol: a, a\r\n", 400)],
)
@pytest_twisted.ensureDeferred
async def test_refused(serve: Any, fields: bytes, code: int) -> None:
    """A handshake that is not valid, or not from here, is answered in HTTP."""
    listening = await serve(echo)
    client = await listening.connect(WebSocketByHand())
    client.ask(fields)
    assert status(await client.head()) == code
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_an_acceptor_of_your_own(listen: Any) -> None:
    """It decides, and calls this one."""
    accept: Callable[..., Any] = message_stream(echo)

    async def decide(request: Any, token: Any) -> Any:
        return accept(request, token) if request.getHeader(b"x-key") else forbidden()

    listening = await listen("tcp", site_of({"websocket": decide}))
    client = await switched(listening, b"X-Key: 1\r\n")
    client.transport.abortConnection()
    await client.is_lost()


@pytest.mark.parametrize("message", [None, 1, ["a"]])
@pytest_twisted.ensureDeferred
async def test_no_message(serve: Any, message: Any) -> None:
    """Only strings and bytes are messages."""
    held = Held()
    client = await switched(await serve(held))
    with pytest.raises(InvalidArgument, match="a message is a str or bytes"):
        held.stream.send(message)
    held.stream.abort()
    await client.is_lost()
    held.go_on.callback(None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"handler": 1}, InvalidArgument),
        ({"handler": lambda: None}, InvalidArgument),
        ({"handler": lambda request, token: None}, InvalidArgument),
        ({"max_queue": 0}, InvalidArgument),
        ({"max_queue": True}, InvalidArgument),
        ({"max_message_size": 0}, InvalidArgument),
        ({"heartbeat": 0}, InvalidArgument),
        ({"subprotocols": "abc"}, InvalidArgument),
        ({"allowed_origins": ["not an origin"]}, InvalidUpgrades),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception]) -> None:
    """What cannot be meant is said at once."""
    with pytest.raises(error):
        message_stream(**{"handler": echo, **options})


@pytest_twisted.ensureDeferred
async def test_kinds_of_handlers(serve: Any, errors: Any) -> None:
    """A plain function is over when it returns, or when its Deferred fires; it may raise at once."""
    waiting: Deferred[None] = Deferred()

    def later(stream: MessageStream) -> Deferred[None]:
        stream.send("here")
        return waiting

    def at_once(stream: MessageStream) -> None:
        stream.send("here")

    def wrong(stream: MessageStream) -> None:
        stream.send("here")
        raise ZeroDivisionError

    for handler, code in ((at_once, 1000), (wrong, 1011), (later, 1000)):
        client = await switched(await serve(handler))
        assert await next_frame(client) == (TEXT, b"here", True)
        if handler is later:
            await turns()
            assert client.data == b""
            waiting.callback(None)
        assert (await next_frame(client)).code == code
        client.send(close(code, masked=True))
        await client.is_lost()
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


@pytest_twisted.ensureDeferred
async def test_a_handler_that_aborts(serve: Any) -> None:
    """A stream may be closed, or end, before its handler has returned for the first time."""

    def abort(stream: MessageStream) -> None:
        stream.abort()
        stream.abort()
        stream.send("lost")
        stream.close()

    listening = await serve(abort)
    client = await listening.connect(WebSocketByHand())
    client.ask()
    await client.is_lost()
    await patient(listening.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_closing_twice(serve: Any) -> None:
    """The first one counts, and each waits for the end; the handler's return adds nothing."""

    async def close_twice(stream: MessageStream) -> None:
        first = stream.close(4000)
        await stream.close(4001)
        assert first.called

    client = await switched(await serve(close_twice))
    assert (await next_frame(client)).code == 4000
    client.send(close(4000, masked=True))
    await client.is_lost()
    assert client.data == b""


@pytest_twisted.ensureDeferred
async def test_drain_of_one_that_sends(serve: Any) -> None:
    """A handler that goes on sending is ended by what ``send`` raises, which is not logged."""
    ends: list[StreamClosed] = []

    async def feed(stream: MessageStream) -> None:
        try:
            while True:
                await stream.send("tick")
                await deferLater(reactor, 0)
        except StreamClosed as closed:
            ends.append(closed)
            raise

    listening = await serve(feed)
    client = await switched(listening)
    await next_frame(client)
    draining = listening.site.drain(10)
    while (found := await next_frame(client)).opcode == TEXT:
        pass
    assert found.code == 1001
    client.send(close(1001, masked=True))
    await patient(draining)
    await eventually(lambda: len(ends) == 1)
    assert ends[0].code == 1001


@pytest_twisted.ensureDeferred
async def test_cut_off_between_two(serve: Any) -> None:
    """A client that is gone while the handler waits for something else: it hears of that next."""
    held = Held()
    listening = await serve(held)
    client = await switched(listening)
    client.send_frame(TEXT, b"last")
    await eventually(lambda: held.stream.waiting == 1)
    client.transport.abortConnection()
    await patient(listening.site.switched.when_empty())
    assert await held.stream.receive() == "last"
    with pytest.raises(StreamClosed, match="1006"):
        await held.stream.receive()
    with pytest.raises(StreamClosed, match="1006"):
        await held.stream.send("late")
    held.go_on.callback(None)
