"""
Exchanges with a back end, in memory: what is told of an answer, wherever its bytes are cut, and what
becomes of the connection.
"""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseFailed, ResponseNeverReceived

from tests.kit.exchanging import CHUNKED, GET, HOST, OK, SWITCH, UPGRADE, Heard, Line, Reacting, post
from upgrade_switch import _twisted
from upgrade_switch.client.exchange_interfaces import ExchangeHead
from upgrade_switch.errors import InvalidArgument, InvalidResponse
from upgrade_switch.testing import Recording

HEAD = GET._replace(method=b"HEAD")
LENGTH_5 = [(b"Content-Length", b"5")]
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: t\r\n\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\n\r\nhello"

# What an answer tells: the code, the body, and what is told last. And whether the connection rests.
ANSWERS: dict[str, tuple[ExchangeHead, bytes, int, bytes, bool]] = {
    "length": (GET, OK, 200, b"hello", True),
    "chunks": (GET, CHUNKS, 200, b"hello", True),
    "empty": (GET, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "informational": (GET, CONTINUE + EARLY_HINTS + OK, 200, b"hello", True),
    "head": (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, b"", True),
    "head, chunked": (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b"", True),
    "204": (GET, b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304": (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", True),
    "close": (GET, OK.replace(b"OK\r\n", b"OK\r\nconnection: Close\r\n"), 200, b"hello", False),
    "we close": (GET._replace(fields=[HOST, (b"Connection", b"close")]), OK, 200, b"hello", False),
    "1.0": (GET, OK.replace(b"1.1", b"1.0"), 200, b"hello", False),
    "refused upgrade": (UPGRADE, OK, 200, b"hello", False),
    "bare line feeds": (GET, b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 200, b"x", True),
    "folded": (GET, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
}


def splits(data: bytes) -> list[list[int]]:
    """Every cut in two; and single bytes."""
    return [[cut] for cut in range(1, len(data) + 1)] + [[1] * len(data)]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    """Wherever an answer is cut, the same is told of it, and the connection rests if it may."""
    head, data, code, body, rests = ANSWERS[name]
    for cut in splits(data):
        line = Line(cut)
        _, heard = line.ask(head)
        line.answer(data)
        (response,) = [event for event in heard.events if event[0] == "response"]
        assert response[1] == code
        assert (bytes(heard.body), heard.last) == (body, "ended")
        assert (line.rests, line.is_closed) == (rests, not rests)
        assert not line.wire.client.complaints


def test_head_as_sent() -> None:
    """A head is told as it was sent: spelling, order and repetitions, Connection and Upgrade too."""
    line = Line()
    _, heard = line.ask()
    line.answer(
        EARLY_HINTS,
        b"HTTP/1.0 426 Up\xe9 grade\r\nset-COOKIE: a\r\nX:\r\nSet-Cookie: b \r\n"
        b"Upgrade: h2c\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n",
    )
    assert heard.events == [
        ("informational", 103, b"Early Hints", [(b"Link", b"</a>")]),
        (
            "response",
            426,
            b"Up\xe9 grade",
            [
                (b"set-COOKIE", b"a"),
                (b"X", b""),
                (b"Set-Cookie", b"b"),
                (b"Upgrade", b"h2c"),
                (b"Connection", b"x, close"),
                (b"Content-Length", b"0"),
            ],
            b"1.0",
        ),
        ("ended",),
    ]


@pytest.mark.parametrize(
    ("head", "body", "sent"),
    [
        (GET, b"", b"GET /x?y HTTP/1.1\r\nHost: back.test\r\n\r\n"),
        (post(3), b"abc", b"POST /x HTTP/1.1\r\nHost: back.test\r\nContent-Length: 3\r\n\r\nabc"),
        (
            CHUNKED,
            b"abc",
            b"POST /x HTTP/1.1\r\nHost: back.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            ExchangeHead(b"x-Y", b"*", [(b"a-B", b"1"), (b"hOST", b"h"), (b"A-b", b"\xff 2")]),
            b"",
            b"x-Y * HTTP/1.1\r\nhOST: h\r\na-B: 1\r\nA-b: \xff 2\r\n\r\n",
        ),
    ],
)
def test_request(head: ExchangeHead, body: bytes, sent: bytes) -> None:
    """A request is sent as it was given, Host first."""
    line = Line()
    line.ask(head, body=body)
    assert line.server.received == sent
    assert line.wire.client.no_delay


@pytest.mark.parametrize(
    "head",
    [
        GET._replace(target=b"/ x"),
        GET._replace(target=b"/\xe9"),
        GET._replace(method=b"G T"),
        GET._replace(method=b"CONNECT", target=b"h:1"),
        GET._replace(fields=[]),
        GET._replace(fields=[HOST, HOST]),
        GET._replace(fields=[HOST, (b"a", b"b\r\nc: d")]),
        GET._replace(fields=[HOST, (b"a b", b"")]),
        GET._replace(fields=[HOST, (b"Content-Length", b"x")]),
        post(1, (b"Transfer-Encoding", b"chunked")),
    ],
)
def test_invalid_request(head: ExchangeHead) -> None:
    """A head that breaks the rules is refused; nothing has been sent, and the connection rests."""
    line = Line()
    with pytest.raises(InvalidArgument):
        line.client.exchange(head, Heard())
    assert line.rests
    _, heard = line.ask()
    line.answer(OK)
    assert heard.last == "ended"
    assert line.server.received.startswith(b"GET /x?y")


INVALID = {
    "not HTTP": b"220 mail.test ESMTP\r\n",
    "TLS": b"\x15\x03\x01\x00\x02",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "code": b"HTTP/1.1 099 Low\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "other coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "two framings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    "unasked 101": SWITCH,
    "long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 17000,
    "long head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3000,
    "for ever": CONTINUE * 101,
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_answers(name: str) -> None:
    """A head that breaks the rules fails the exchange however it is cut, and nothing of it is told."""
    data = INVALID[name]
    for cut in (None, [len(data) - 1], [20, 1000], 7):
        line = Line(cut)
        _, heard = line.ask()
        line.answer(data)
        assert set(heard.names[:-1]) <= {"informational"}
        assert len(heard.events) <= 101
        assert isinstance(heard.reason, InvalidResponse)
        assert str(heard.reason)
        assert ("nobody asked for" in str(heard.reason)) is (name == "unasked 101")
        assert not heard.may_retry
        assert line.is_closed
        assert not line.rests


@pytest.mark.parametrize("longer", [False, True])
def test_longest_head(longer: bool) -> None:
    """A head may have 16 KiB, however it is cut, and whatever comes with it."""
    begin, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\nY: y\r\nContent-Length: 50000\r\n\r\n"
    head = begin + b"x" * (16 * 1024 - len(begin + end) + longer) + end
    for cut in ([], [1000], [len(head)], [len(head) - 1]):
        line = Line(cut)
        _, heard = line.ask()
        line.answer(head + b"x" * 50000)
        assert heard.last == ("failed" if longer else "ended")


@pytest.mark.parametrize("name", ["length", "chunks"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_cut_off(name: str, how: str) -> None:
    """An answer that is cut off has failed, wherever that is, and never ended."""
    _, data, _, body, _ = ANSWERS[name]
    for cut in range(len(data)):
        line = Line()
        _, heard = line.ask()
        line.answer(data[:cut])
        getattr(line, how)()
        assert heard.last == "failed"
        assert body.startswith(heard.body)
        expected = ResponseFailed if cut else ResponseNeverReceived
        assert isinstance(heard.reason, expected)
        # A connection's first request was surely not too late.
        assert not heard.may_retry


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_until_close(version: bytes) -> None:
    """A body without framing ends where the connection is closed; a reset has cut it off."""
    for how, last in (("close", "ended"), ("reset", "failed")):
        line = Line()
        _, heard = line.ask()
        line.answer(UNFRAMED.replace(b"1.1", version))
        assert heard.names == ["response", "data"]
        getattr(line, how)()
        assert (bytes(heard.body), heard.last) == (b"hello", last)
        assert not line.rests


def test_one_after_another() -> None:
    """A connection is used again and again."""
    line = Line()
    for method in (b"GET", b"HEAD", b"GET", b"POST", b"GET"):
        before = len(line.server.received)
        body = b"body" if method == b"POST" else b""
        head = post(4) if body else GET._replace(method=method)
        _, heard = line.ask(head, body=body)
        assert line.server.received[before:].startswith(method)
        line.answer(OK[:-5] if method == b"HEAD" else OK)
        assert heard.last == "ended"
        assert line.rests


def test_next_within_the_end() -> None:
    """A connection already rests when its listener hears of the end, which may begin the next."""
    line = Line()
    second = Heard()
    first = Reacting(ended=lambda: line.ask(heard=second))
    line.ask(heard=first)
    line.answer(OK)
    assert line.server.received.count(b"GET") == 2
    line.answer(OK)
    assert second.last == "ended"
    assert line.rests


def test_one_at_a_time() -> None:
    """There is one exchange on a connection at a time."""
    line = Line()
    line.ask()
    with pytest.raises(RuntimeError):
        line.client.exchange(GET, Heard())


@pytest.mark.parametrize("extra", [b"\r\n", b"x", OK, b"HTTP/1.1 408 Late\r\n\r\n"])
def test_more_than_was_asked_for(extra: bytes) -> None:
    """A server that says more than it was asked for is not asked again, and nothing of that is told."""
    for parts in ((OK + extra,), (OK, extra)):
        line = Line()
        _, heard = line.ask()
        line.answer(*parts)
        assert heard.names == ["response", "data", "ended"]
        assert line.is_closed
        assert not line.rests
    # Somebody may have taken it out before that.
    _, late = line.ask()
    assert late.names == ["failed"]
    assert late.may_retry


def test_speaks_first() -> None:
    """A server that speaks before it is asked fails the request, and is not asked again."""
    line = Line()
    line.answer(b"220 mail.test ESMTP\r\n")
    assert line.is_closed
    _, heard = line.ask()
    assert isinstance(heard.reason, InvalidResponse)
    assert not heard.may_retry


def test_retry() -> None:
    """A request may be sent again if the connection had been used, and nothing has been answered."""
    for begun in (b"", b"H"):
        for how in ("close", "reset"):
            line = Line()
            line.ask()
            line.answer(OK)
            _, heard = line.ask()
            line.answer(begun)
            getattr(line, how)()
            assert heard.names == ["failed"]
            assert heard.may_retry is (not begun)


def test_client_aborted() -> None:
    """A connection that is aborted takes its exchange with it, which is told nothing."""
    line = Line()
    exchange, heard = line.ask(CHUNKED, body=None)
    source = Source()
    exchange.registerProducer(source, True)  # type: ignore[arg-type]
    ended: list[Any] = []
    line.client.abort().addCallback(ended.append)
    assert source.calls == ["stop"]
    line.wire.pump()
    assert ended == [None]
    exchange.write(b"x")
    exchange.end()
    assert not heard.events
    assert not line.wire.client.complaints


def test_closed_before_use() -> None:
    """A connection that ends before it is given a request fails it, within the call."""
    for used in (False, True):
        line = Line()
        if used:
            line.ask()
            line.answer(OK)
        line.close()
        assert not line.rests
        exchange, heard = line.ask(body=None)
        assert heard.names == ["failed"]
        assert isinstance(heard.reason, ResponseNeverReceived)
        assert heard.may_retry is used
        exchange.write(b"x")
        exchange.end()
        exchange.abort()
        assert heard.names == ["failed"]


# Bodies of requests.


def test_head_and_body() -> None:
    """A head is sent with the first of the body, or when it is flushed, once."""
    line = Line(cut=None)
    head = b"POST /x HTTP/1.1\r\nHost: back.test\r\nContent-Length: 6\r\n\r\n"
    line.keeper.remove(line.client)
    exchange = line.client.exchange(post(6), Heard())
    line.wire.pump()
    assert line.server.received == b""
    exchange.write(b"abc")
    line.wire.pump()
    assert line.server.received == head + b"abc"
    exchange.flush()
    exchange.write(b"def")
    exchange.end()
    line.answer(OK)
    exchange = line.client.exchange(post(6), Heard())
    exchange.flush()
    exchange.flush()
    line.wire.pump()
    assert line.server.received == head + b"abcdef" + head
    exchange.abort()
    exchange = Line().client.exchange(post(6), Heard())
    exchange.abort()
    exchange.flush()


@pytest.mark.parametrize("parts", [[b"abcd"], [b"ab"], [b"abc", b"d"], []])
def test_wrong_length(parts: list[bytes]) -> None:
    """A body that is not as long as its head says fails the exchange."""
    line = Line()
    exchange, heard = line.ask(post(3), body=None)
    for part in parts:
        exchange.write(part)
    exchange.end()
    line.wire.pump()
    assert isinstance(heard.reason, RequestGenerationFailed)
    assert not heard.may_retry
    assert line.is_closed


def test_early_answer() -> None:
    """If an answer ends before its request, what is still written is ignored, and all is closed."""
    line = Line()
    exchange, heard = line.ask(CHUNKED, body=None)
    exchange.write(b"one")
    line.answer(OK[:-1])
    assert heard.last == "data"
    exchange.write(b"two")
    line.wire.pump()
    assert line.server.received.endswith(b"3\r\ntwo\r\n")
    line.answer(OK[-1:])
    assert heard.last == "ended"
    exchange.write(b"three")
    exchange.end()
    line.wire.pump()
    assert not line.wire.client.complaints
    assert line.is_closed
    assert not line.rests


def test_early_answer_to_what_is_not_read() -> None:
    """A server that answers and does not read the request is not asked again, nor waited for."""
    line = Line()
    line.wire.server.pauseProducing()
    _, heard = line.ask(post(300_000), body=b"x" * 300_000)
    line.answer(OK)
    assert heard.last == "ended"
    assert line.is_closed
    assert not line.rests


def test_early_head() -> None:
    """An answer may begin before its request ends: the connection rests when both have."""
    line = Line()
    exchange, heard = line.ask(post(3), body=None)
    line.answer(OK[:-1])
    exchange.write(b"abc")
    exchange.end()
    line.answer(OK[-1:])
    assert heard.last == "ended"
    assert line.rests


class Source:
    """A producer that notes what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


@pytest.mark.parametrize("how", ["ended", "close", "reset", "invalid", "abort", "too long"])
def test_producer_is_stopped(how: str) -> None:
    """The producer of a request is told to stop, once, if the exchange is over before it."""
    line = Line()
    exchange, _ = line.ask(post(3), body=None)
    source = Source()
    exchange.registerProducer(source, True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        exchange.registerProducer(Source(), True)  # type: ignore[arg-type]
    if how in ("close", "reset"):
        getattr(line, how)()
    elif how == "abort":
        exchange.abort()
    elif how == "too long":
        exchange.write(b"abcd")
    else:
        line.answer(OK if how == "ended" else b"nonsense\r\n")
    assert source.calls == ["stop"]
    assert line.wire.client.producer is None
    late = Source()
    exchange.registerProducer(late, True)  # type: ignore[arg-type]
    assert late.calls == ["stop"]
    exchange.unregisterProducer()


def test_producer_is_paused() -> None:
    """A server that does not read pauses the producer, and resumes it when it does."""
    line = Line()
    exchange, _ = line.ask(CHUNKED, body=None)
    source = Source()
    exchange.registerProducer(source, True)  # type: ignore[arg-type]
    line.wire.server.pauseProducing()
    exchange.write(b"x" * 200_000)
    line.wire.pump()
    assert source.calls == ["pause"]
    line.wire.server.resumeProducing()
    line.wire.pump()
    assert source.calls == ["pause", "resume"]
    exchange.end()
    assert line.wire.client.producer is None
    line.wire.pump()
    line.answer(OK)
    assert line.rests
    assert source.calls == ["pause", "resume"]


# Pauses.


def test_paused_at_every_event() -> None:
    """What pauses at every event gets everything all the same, in its order."""
    stream = CONTINUE + EARLY_HINTS + CHUNKS
    for cut in (None, 1, 30):
        line = Line(cut)
        heard = Reacting()
        exchange, _ = line.ask(heard=heard, body=None)
        heard.reactions = dict.fromkeys(("informational", "response", "data"), exchange.pauseProducing)
        exchange.end()
        line.answer(stream)
        for _ in range(200):
            if heard.is_over:
                break
            before = len(heard.events), len(heard.body)
            line.wire.pump()
            assert (len(heard.events), len(heard.body)) == before
            exchange.resumeProducing()
            line.wire.pump()
        assert [n for n in heard.names if n != "data"] == [
            "informational",
            "informational",
            "response",
            "ended",
        ]
        assert heard.body == b"hello"
        assert line.rests
        # It reads again.
        _, second = line.ask()
        line.answer(OK)
        assert second.last == "ended"


@pytest.mark.parametrize("answer", [CHUNKS, OK, UNFRAMED, CONTINUE + OK])
def test_paused_and_delivered(answer: bytes) -> None:
    """
    A TLS layer delivers what it has read, and the end, to a transport that is paused: all is told when
    it is resumed, however much of it had come before.
    """
    for cut in range(len(answer) + 1):
        line = Line()
        exchange, heard = line.ask()
        line.answer(answer[:cut])
        before = list(heard.events)
        exchange.pauseProducing()
        if before and before[-1] == ("ended",):
            continue
        for number in range(cut, len(answer)):
            line.client.dataReceived(answer[number : number + 1])
        line.close()
        line.wire.client.connectionLost(_done())
        assert heard.events == before
        exchange.resumeProducing()
        assert (bytes(heard.body), heard.last) == (b"hello", "ended")
        assert not line.rests


def test_paused_and_cut_off() -> None:
    """What was cut off while its reader paused has failed, behind what had come."""
    line = Line()
    exchange, heard = line.ask(CHUNKED, body=None)
    line.answer(OK[:-3])
    exchange.pauseProducing()
    line.client.dataReceived(b"l")
    line.wire.client.connectionLost(_done())
    exchange.write(b"not sent any more")
    exchange.end()
    assert not line.wire.client.complaints
    exchange.resumeProducing()
    assert heard.body == b"hel"
    assert isinstance(heard.reason, InvalidResponse)
    assert "cut off" in str(heard.reason)


def _done() -> Failure:
    return Failure(ConnectionDone())


def test_resumed_within() -> None:
    """A listener may pause and resume within each call, any number of times."""
    line = Line()
    heard = Reacting()
    exchange, _ = line.ask(heard=heard, body=None)

    def toggle() -> None:
        before = list(heard.events)
        for _ in range(3):
            exchange.pauseProducing()
            exchange.resumeProducing()
        # Nothing is told within what is told.
        assert heard.events == before

    heard.reactions = dict.fromkeys(("informational", "response", "data", "ended"), toggle)
    exchange.end()
    line.answer(CONTINUE * 100 + CHUNKS)
    assert heard.names == ["informational"] * 100 + ["response", "data", "ended"]
    assert line.rests


@pytest.mark.parametrize("at", ["informational", "response", "data"])
def test_aborted_within(at: str) -> None:
    """A listener that aborts hears nothing more."""
    line = Line()
    heard = Reacting()
    exchange, _ = line.ask(heard=heard, body=None)
    heard.reactions = {at: exchange.stopProducing}
    exchange.end()
    line.answer(CONTINUE + CHUNKS)
    assert heard.last == at
    assert line.is_closed
    assert not line.rests


# Upgrades.


def test_switch() -> None:
    """A 101 gives the connection away, with what comes behind it, wherever it is cut."""
    data = CONTINUE + SWITCH + b"trailing"
    for cut in splits(data):
        line = Line(cut)
        _, heard = line.ask(UPGRADE)
        line.answer(data)
        assert heard.names == ["informational", "switched"]
        assert heard.events[-1] == (
            "switched",
            101,
            b"Go",
            [(b"Upgrade", b"echo"), (b"Connection", b"Upgrade")],
        )
        connection = heard.connection
        assert (str(connection.token), connection.path) == ("echo", b"/x")
        assert not line.rests
        target = Recording()
        connection.install(target)
        line.wire.pump()
        assert target.received == b"trailing"
        target.transport.write(b"back")
        line.wire.pump()
        assert line.server.received.endswith(b"\r\n\r\nback")
        line.close()
        assert target.half_closed


def test_switch_waits() -> None:
    """Until a switched connection has its target, little of what comes waits in memory."""
    line = Line()
    _, heard = line.ask(UPGRADE)
    line.answer(SWITCH, b"x" * 1_000_000)
    assert _twisted.unsent(line.wire.server)
    target = Recording()
    heard.connection.install(target)
    line.wire.pump()
    assert target.received == b"x" * 1_000_000


def test_switch_dropped() -> None:
    """A switched connection that is dropped is aborted."""
    line = Line()
    _, heard = line.ask(UPGRADE)
    line.answer(SWITCH)
    heard.connection = None
    line.wire.pump()
    assert line.is_closed


@pytest.mark.parametrize(
    ("switch", "token"),
    [
        (SWITCH.replace(b"echo", b"ECHO"), "ECHO"),
        (SWITCH.replace(b"echo", b"chat/2, HTTP/1.1"), "chat/2"),
        (SWITCH.replace(b"echo", b"chat"), None),
        (SWITCH.replace(b"echo", b"chat/2.0"), None),
        (SWITCH.replace(b"echo", b"other"), None),
        (SWITCH.replace(b"Upgrade: echo\r\n", b""), None),
        (SWITCH.replace(b"Connection: Upgrade", b"Connection: x"), None),
    ],
)
def test_tokens(switch: bytes, token: str | None) -> None:
    """A 101 names a token that was offered: names compare without case, versions exactly."""
    line = Line()
    _, heard = line.ask(UPGRADE)
    line.answer(switch)
    if token is None:
        assert isinstance(heard.reason, InvalidResponse)
        assert line.is_closed
    else:
        assert str(heard.connection.token) == token


def test_lenient() -> None:
    """A lenient client takes a 101 without Connection."""
    line = Line(lenient=True)
    _, heard = line.ask(UPGRADE)
    line.answer(SWITCH.replace(b"Connection: Upgrade\r\n", b""))
    assert heard.last == "switched"


def test_early_switch() -> None:
    """A 101 before its request's end waits for that; what comes meanwhile is the target's."""
    head = ExchangeHead(b"POST", b"/x", [*UPGRADE.fields, (b"Content-Length", b"3")])
    line = Line()
    exchange, heard = line.ask(head, body=None)
    exchange.write(b"ab")
    line.answer(SWITCH + b"tra")
    line.client.dataReceived(b"il")
    exchange.pauseProducing()
    exchange.resumeProducing()
    line.answer(b"ing" * 100_000)
    assert _twisted.unsent(line.wire.server)
    assert not heard.events
    exchange.write(b"c")
    exchange.end()
    assert heard.last == "switched"
    target = Recording()
    heard.connection.install(target)
    line.wire.pump()
    assert target.received == b"trail" + b"ing" * 100_000
    assert line.server.received.endswith(b"\r\n\r\nabc")


def test_early_switch_lost() -> None:
    """A connection that ends while its 101 waits has failed, also if its reader has paused."""
    for paused in (False, True):
        line = Line()
        exchange, heard = line.ask(
            ExchangeHead(b"POST", b"/x", [*UPGRADE.fields, (b"Content-Length", b"3")]), body=None
        )
        line.answer(SWITCH)
        if paused:
            exchange.pauseProducing()
        line.wire.client.connectionLost(_done())
        assert heard.names == ["failed"]


def test_switch_of_an_ended_connection() -> None:
    """A 101 that is read when its connection has ended gives the target all that there was."""
    line = Line()
    exchange, heard = line.ask(UPGRADE)
    exchange.pauseProducing()
    line.client.dataReceived(SWITCH + b"last words")
    line.wire.client.connectionLost(_done())
    exchange.resumeProducing()
    target = Recording()
    heard.connection.install(target)
    assert target.received == b"last words"
    assert target.lost is not None


def test_refused_with_body() -> None:
    """An upgrade with a body that is refused early: the refusal is told, and the body may go on."""
    head = ExchangeHead(b"POST", b"/x", [*UPGRADE.fields, (b"Content-Length", b"6")])
    for end_first in (False, True):
        line = Line()
        exchange, heard = line.ask(head, body=None)
        exchange.write(b"abc")
        line.answer(OK[:-1])
        assert heard.last == "data"
        if end_first:
            exchange.write(b"def")
            exchange.end()
        line.answer(OK[-1:])
        assert heard.last == "ended"
        assert line.is_closed
        assert not line.rests


# Chance.

PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 X\r\n",
    b"HTTP/1.1 100\r\n",
    b"HTTP/1.1 204 X\r\n",
    b"HTTP/1.0 200\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Upgrade: echo\r\nConnection: upgrade\r\n",
    b"\r\n",
    b"\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffffff\r\n",
    b"\x00",
    b":",
]


def outcome(stream: bytes, sizes: Any, head: ExchangeHead, pausing: bool, reset: bool) -> Any:
    """What comes of these bytes, cut like this, and then the connection's end."""
    line = Line(sizes)
    heard = Reacting()
    exchange, _ = line.ask(head, heard=heard, body=None)
    if pausing:
        heard.reactions = dict.fromkeys(("informational", "response", "data"), exchange.pauseProducing)
    exchange.end()
    line.answer(stream)
    (line.reset if reset else line.close)()
    for _ in range(len(stream) + 5):
        if heard.is_over:
            break
        exchange.resumeProducing()
        line.wire.pump()
    assert heard.is_over
    if heard.connection is None:
        assert line.is_closed
        assert not line.rests
    else:
        target = Recording()
        heard.connection.install(target)
        line.wire.pump()
        heard.body += target.received
        heard.connection = None
    assert not line.wire.client.complaints
    assert not line.wire.clock.getDelayedCalls()
    return heard


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.data())
def test_any_bytes(pieces: list[bytes], data: Any) -> None:
    """Whatever a server sends, in whatever cut: the same end, and the same before it."""
    stream = b"".join(pieces)
    head = data.draw(st.sampled_from([GET, HEAD, UPGRADE]))
    sizes = data.draw(st.one_of(st.integers(1, 9), st.lists(st.integers(1, 40), max_size=5)))
    reset = data.draw(st.booleans())
    pausing = data.draw(st.booleans())
    whole = outcome(stream, None, head, False, reset=False)
    cut = outcome(stream, sizes, head, pausing, reset=reset)
    heads = [event for event in whole.events if event[0] in ("informational", "response")]
    if not reset:
        assert cut.events[-1] == whole.events[-1]
    if not reset and whole.last != "failed":
        assert cut.body == whole.body
        assert [e for e in cut.events if e[0] in ("informational", "response")] == heads
    elif whole.last == "failed":
        assert cut.last == "failed" or reset
    if whole.last == "ended" and head is not UPGRADE:
        assert _as_h11_reads(stream, head) == bytes(whole.body)


def _as_h11_reads(stream: bytes, head: ExchangeHead) -> bytes:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=head.method, target="/", headers=[("Host", "h")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(stream)
    parser.receive_data(b"")
    body = b""
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
    return body


STEPS = (
    "write",
    "write",
    "end",
    "answer",
    "answer",
    "pause",
    "resume",
    "resume",
    "abort",
    "close",
    "reset",
)


class Chance:
    """
    One exchange after another on one connection, whose owner and whose server do what they like.

    :ivar said: the body that the server has sent of its answer so far.
    """

    def __init__(self, cut: Any) -> None:
        self.line = Line(cut)
        self.begin()

    def begin(self) -> None:
        self.line.keeper.remove(self.line.client)
        self.heard = Heard()
        self.begun = len(self.line.server.received)
        self.exchange = self.line.client.exchange(CHUNKED, self.heard)
        self.line.wire.pump()
        self.written, self.said, self.answers = b"", b"", [CONTINUE, CHUNKS.partition(b"3\r\n")[0]]
        self.answers += [b"2\r\nab\r\n", b"1\r\nc\r\n4\r\ndefg\r\n", b"0\r\n\r\n"]
        self.is_paused = self.is_ended = self.is_cut = self.is_aborted = False

    def do(self, step: str) -> None:
        before = list(self.heard.events)
        was_paused = self.is_paused
        getattr(self, step)()
        self.line.wire.pump()
        if self.is_aborted or (was_paused and self.is_paused and not self.heard.is_over):
            assert self.heard.events == before
        self.check()

    def write(self) -> None:
        self.exchange.write(b"body")
        if not (self.is_ended or self.heard.is_over or self.is_aborted):
            self.written += b"4\r\nbody\r\n"

    def end(self) -> None:
        self.exchange.end()
        if not (self.is_ended or self.heard.is_over or self.is_aborted):
            self.written += b"0\r\n\r\n"
            self.is_ended = True

    def answer(self) -> None:
        if self.answers and not self.is_cut:
            self.line.wire.server.write(self.answers.pop(0))
            self.said = (b"", b"ab", b"abcdefg", b"abcdefg")[max(0, 3 - len(self.answers))]

    def pause(self) -> None:
        self.exchange.pauseProducing()
        self.is_paused = True

    def resume(self) -> None:
        self.exchange.resumeProducing()
        self.is_paused = False

    def abort(self) -> None:
        self.is_aborted = self.is_aborted or not self.heard.is_over
        self.exchange.abort()

    def close(self) -> None:
        self.is_cut = True
        self.line.wire.server.loseConnection()

    def reset(self) -> None:
        self.is_cut = True
        self.line.wire.server.abortConnection()

    def check(self) -> None:
        heard, line = self.heard, self.line
        sent = line.server.received[self.begun :].partition(b"\r\n\r\n")[2]
        assert self.written.startswith(sent)
        assert self.said.startswith(bytes(heard.body))
        if heard.last == "ended":
            assert not self.answers
            assert line.rests or line.is_closed
            assert self.is_ended or line.is_closed
        elif heard.last == "failed":
            assert self.is_cut
            assert line.is_closed
        elif not (self.is_paused or self.is_cut or self.is_aborted):
            assert bytes(heard.body) == self.said
            assert self.answers
            assert sent == self.written
        if self.is_aborted:
            assert line.is_closed
        assert not line.wire.client.complaints


@given(
    st.one_of(st.none(), st.integers(1, 9)),
    st.lists(st.lists(st.sampled_from(STEPS), max_size=25), min_size=1, max_size=4),
)
def test_any_order(cut: Any, rounds: list[list[str]]) -> None:
    """Whatever owner and server do, in whatever order: what one writes, the other gets, and one end."""
    chance = Chance(cut)
    for steps in rounds:
        for step in steps:
            chance.do(step)
        for step in ("resume", "end", *["answer"] * 5):
            chance.do(step)
        assert chance.heard.is_over or chance.is_aborted or chance.is_cut
        if not chance.line.rests:
            break
        chance.begin()
    chance.do("abort")
    assert not chance.line.wire.clock.getDelayedCalls()


@given(st.binary(max_size=60), st.integers(1, 9))
def test_any_bytes_behind_a_head(noise: bytes, size: int) -> None:
    """Noise in a chunked body never raises, and never ends as something complete that is not."""
    for begin in (b"", b"3\r\nabc\r\n"):
        heard = outcome(CHUNKS.partition(b"3\r\n")[0] + begin + noise, size, GET, False, reset=False)
        if heard.last == "ended":
            assert b"0" in noise


def test_any_bytes_of_noise() -> None:
    """Every single byte in place of every single byte of an answer leaves an end, and one only."""
    for data in (OK, CHUNKS, SWITCH):
        for number in range(len(data)):
            for byte in (0, 9, 10, 13, 32, 48, 58, 255):
                broken = data[:number] + bytes([byte]) + data[number + 1 :]
                outcome(broken, None, UPGRADE, False, reset=False)


@pytest.mark.parametrize("answer", [OK, CHUNKS], ids=["length", "chunks"])
def test_caught_up(answer: bytes) -> None:
    """The listener hears that there is no more for now, but not behind the end."""

    class Counting(Heard):
        caught = 0

        def caught_up(self) -> None:
            super().caught_up()
            self.caught += 1

    head, end, body = answer.partition(b"\r\n\r\n")
    for parts, caught in (
        ([answer], 0),
        ([head, end + body], 0),
        ([head, end, body[:-1], body[-1:]], 2),
        ([CONTINUE, answer], 1),
        ([CONTINUE + answer], 0),
    ):
        line, heard = Line(), Counting()
        line.ask(GET, heard)
        line.answer(*parts)
        assert (heard.last, heard.caught) == ("ended", caught)
