"""What a site and a proxy allow, what they log, and what they ask back ends by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.interfaces import IReactorCore
from twisted.logger import LogLevel
from zope.interface import implementer

from tests.kit.backed import ASK, CHUNKED, GET, HOST, OK, SWITCH, Net, Place, Proxied, post
from tests.kit.harness import site_of
from tests.kit.streamed import Joined
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.proxy import UpgradeProxy

#: A 101 with fields that belong to it alone.
FIELDS = b"Sec-WebSocket-Accept: x\r\nSet-Cookie: sid=1\r\nX-Secret: y\r\n"
LONG_SWITCH = SWITCH[:-2] + FIELDS + b"\r\n"


# How many may be switched.


def test_full_before() -> None:
    """Where no more may switch, no back end is asked."""
    for limits in ({"max_switched": 1}, {"max_per_address": 1}):
        proxied = Proxied(site=limits)
        proxied.client(ASK)
        proxied.back.last.answer(SWITCH)
        client = proxied.client(ASK)
        assert client.statuses == [503 if "max_switched" in limits else 429]
        assert len(proxied.back) == 1
        # What does not switch passes.
        client.send(GET)
        proxied.back.last.answer(OK)
        assert client.statuses[1:] == [200]


@pytest.mark.parametrize("what", ["max_switched", "max_per_address", "drain"])
def test_full_meanwhile(what: str) -> None:
    """
    If no more may switch when the 101 comes, the client gets none of it, the back end's connection
    ends, and HTTP goes on.
    """
    proxied = Proxied(site={} if what == "drain" else {what: 1})
    first, second = proxied.client(ASK), proxied.client(ASK + b"early")
    if what == "drain":
        proxied.site.drain(5)
    else:
        proxied.back[0].answer(SWITCH)
        assert first.statuses == [101]
    proxied.back[1].answer(LONG_SWITCH + b"SECRET")
    code = 429 if what == "max_per_address" else 503
    assert second.statuses[:1] == [code]
    for field in (b"Accept", b"Cookie", b"Secret", b"SECRET", b"Upgrade: ", b"101"):
        assert field not in second.received
    assert b"Content-Type: text/html" in second.received
    assert proxied.back[1].is_over
    assert b"early" not in proxied.back[1].received
    assert proxied.active() == 1
    assert proxied.proxy.back_ends[0].errors == 0


def test_drained() -> None:
    """A draining site declines new upgrades, aborts the old in the end, and answers other requests."""
    proxied = Proxied()
    client = proxied.client(ASK)
    back = proxied.back.last.answer(SWITCH)
    drained = proxied.site.drain(5)
    assert proxied.client(ASK).statuses == [503]
    plain = proxied.client(GET)
    proxied.back.last.answer(OK)
    assert plain.statuses == [200]
    proxied.net.advance(6)
    proxied.net.pump()
    assert drained.called
    assert client.is_over
    assert back.is_over
    assert proxied.is_idle()


@pytest.mark.parametrize(
    "wrong",
    [
        {"connect_timeout": 0},
        {"connect_timeout": -1},
        {"response_timeout": -1},
        {"idle_timeout": "7"},
        {"idle_timeout": float("nan")},
        {"max_body": -1},
        {"max_body": 1.5},
    ],
)
def test_wrong_numbers(wrong: dict[str, Any]) -> None:
    """What is no time-out, or no size, is refused; without time, nothing could be connected to."""
    with pytest.raises(InvalidArgument):
        Proxied(**wrong)


# How much a request may bring.


def test_max_body() -> None:
    """A content that is known to be too long is a 413 before a back end is asked."""
    for expects in (b"Expect: 100-continue\r\n", b""):
        proxied = Proxied(max_body=10)
        client = proxied.client(post(11, expects))
        assert client.statuses == [413]
        assert not len(proxied.back)
        if expects:
            assert client.half_closed
            continue
        client.send(b"x" * 11 + GET)
        proxied.back.last.answer(OK)
        assert client.statuses == [413, 200]
    client = proxied.client(post(10) + b"x" * 10)
    proxied.back.last.answer(OK)
    assert client.statuses == [200]


def test_max_body_in_chunks() -> None:
    """One that turns out to be too long is a 413 then; no more than was allowed has been passed on."""
    proxied = Proxied(max_body=10)
    client = proxied.client(CHUNKED + b"6\r\nabcdef\r\n")
    back = proxied.back.last
    client.send(b"6\r\nabcdef\r\n")
    assert client.statuses == [413]
    assert back.is_over
    assert back.received.count(b"abcdef") == 1
    client.send(b"4\r\nGET \r\n0\r\n\r\n" + GET)
    assert client.statuses == [413]
    proxied.back.last.answer(OK)
    assert client.statuses == [413, 200]
    assert proxied.back.last.received.count(b"GET") == 1
    assert proxied.is_idle()
    # In one piece, before there is a connection.
    client = proxied.client(CHUNKED + b"b\r\nabcdefghijk\r\n0\r\n\r\n")
    assert client.statuses == [413]
    # A client that does not stop is stopped.
    client = proxied.client(CHUNKED)
    for _ in range(20):
        client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    proxied.net.advance(60)
    assert client.statuses == [413]
    assert client.is_over
    assert proxied.is_idle()


def test_max_body_behind_early_answer() -> None:
    """If the answer has begun, the connection ends."""
    proxied = Proxied(max_body=10)
    client = proxied.client(CHUNKED + b"6\r\nabcdef\r\n")
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    client.send(b"6\r\nabcdef\r\n")
    proxied.net.advance(10)
    assert client.statuses == [200]
    assert proxied.site.lines == [(200, b"/u/x")]
    assert client.is_over
    assert back.is_over
    assert proxied.is_idle()


def test_continue() -> None:
    """A 100 is the back end's to send, and comes once; what says no before it has no content."""
    proxied = Proxied()
    client = proxied.client(post(5, b"Expect: 100-continue\r\n"))
    assert client.received == b""
    back = proxied.back.last.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.statuses == [100]
    back.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"hello")
    back.answer(b"HTTP/1.1 100 Continue\r\n\r\n", OK)
    assert client.statuses == [100, 200]
    client = proxied.client(post(5, b"Expect: 100-continue\r\n"))
    proxied.back.last.answer(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
    assert client.statuses == [417]
    assert client.half_closed
    assert proxied.back.last.is_over
    # One that does not wait.
    client = proxied.client(post(5, b"Expect: 100-continue\r\n") + b"hello" + GET)
    back = proxied.back.last
    assert back.received.endswith(b"hello")
    back.answer(b"HTTP/1.1 100 Continue\r\n\r\n", OK)
    proxied.back.last.answer(OK)
    assert client.statuses == [200, 200]


def test_continue_among_others() -> None:
    """What else a client expects that waits for a 100 is the back end's to judge, too."""
    proxied = Proxied()
    client = proxied.client(post(5, b"Expect: other\r\nExpect: 100-continue\r\n"))
    back = proxied.back.last
    assert [line for line in back.received.split(b"\r\n") if line.startswith(b"Expect")] == [
        b"Expect: other",
        b"Expect: 100-continue",
    ]
    back.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.statuses == [100]
    client.send(b"hello")
    back.answer(OK)
    assert client.statuses == [100, 200]


# Heads that are too long.


@pytest.mark.parametrize(
    "head",
    [
        b"GET /u/" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /u/x HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /u/x HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /u/x HTTP/1.1\r\n" + HOST + b"X-%d: y\r\n" % 1 * 600 + b"\r\n",
    ],
)
def test_head_bombs(head: bytes) -> None:
    """A head that is too long is refused, and reaches no back end."""
    proxied = Proxied()
    client = proxied.client(head)
    assert all(400 <= code < 500 for code in client.statuses)
    assert client.is_over
    assert not len(proxied.back)


@pytest.mark.parametrize("name", [b"Via", b"X-Forwarded-For", b"Forwarded", b"Connection", b"Cookie"])
def test_long_fields(name: bytes) -> None:
    """Fields that a site takes, but of which a proxy makes longer ones, are passed on or refused."""
    proxied = Proxied(trusted=["127.0.0.0/8"])
    field = name + b": " + b"a, " * 1000 + b"b\r\n"
    client = proxied.client(b"GET /u/x HTTP/1.1\r\n" + HOST + field * 4 + b"\r\n")
    if len(proxied.back):
        proxied.back.last.answer(OK)
    assert client.statuses in ([200], [400], [431])


# The log.


def test_log(lines: list[Any]) -> None:
    """
    Whatever goes wrong, however often, is one line for each kind in a minute, without a traceback and
    with nothing of a stranger's in it that could be taken for a line.
    """
    proxied = Proxied()

    def fail(answer: bytes, request: bytes = GET) -> None:
        proxied.client(request)
        back = proxied.back.last.answer(answer)
        if not back.is_over:
            back.close()

    kinds = (
        (b"", GET),
        (b"no\x1b[31mHTTP\rhere\n", GET),
        (b"HTTP/1.1 426 No\r\nUpgrade: h2c\r\n\r\n", GET),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", GET),
        (b"HTTP/1.1 101 Go\r\nUpgrade: other\r\n\r\n", ASK),
        (b"HTTP/1.1 101 Go\r\n\r\n", GET),
        (OK, GET),
    )
    for _ in range(20):
        for answer, request in kinds:
            fail(answer, request)
    assert 1 <= len(lines) <= 5
    proxied.back.is_there = False
    for _ in range(20):
        proxied.client(GET)
    assert len(lines) <= 6
    proxied.net.advance(61)
    proxied.client(GET)
    assert len(lines) <= 7
    for event in lines:
        assert event["log_level"] is LogLevel.warn
        assert "log_failure" not in event
        text = event["log_format"].format(**event)
        assert text.isprintable(), text


def dies(proxied: Proxied) -> None:
    proxied.back.last.reset()


def is_silent(proxied: Proxied) -> None:
    proxied.net.advance(21)


def breaks_the_grammar(proxied: Proxied) -> None:
    proxied.back.last.answer(b"no chunk\r\n")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(
    ("framing", "go", "why"),
    [
        (b"Content-Length: 9\r\n\r\n", dies, "half an answer from unix:/0: "),
        (b"Transfer-Encoding: chunked\r\n\r\n", dies, "half an answer from unix:/0: "),
        (b"\r\n", dies, "half an answer from unix:/0: "),
        (b"Content-Length: 9\r\n\r\n", is_silent, ": the next part took too long"),
        (b"Transfer-Encoding: chunked\r\n\r\n", breaks_the_grammar, "the answer is not HTTP"),
    ],
)
def test_cut_off(framing: bytes, go: Any, why: str, version: bytes, lines: list[Any]) -> None:
    """An answer that is cut off has its line in the access log, and the log says why it was."""
    proxied = Proxied(idle_timeout=20)
    for _ in range(2):
        proxied.client(GET.replace(b"1.1", version))
        proxied.back.last.answer(b"HTTP/1.1 203 OK\r\n" + framing)
        go(proxied)
        proxied.net.advance(5)
    assert proxied.site.lines == [(203, b"/u/x")] * 2
    [event] = lines
    assert event["log_level"] is LogLevel.warn
    assert why in event["log_format"].format(**event)
    assert proxied.is_idle()


def test_nothing_strange_is_logged(lines: list[Any]) -> None:
    """What clients do wrong is not logged at all."""
    proxied = Proxied(max_body=10)
    for data in (
        GET[:-4],
        post(9) + b"abc",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"ff\r\n" + b"x" * 255 + b"\r\n",
        post(99),
        b"GET /u/.. HTTP/1.1\r\n" + HOST + b"\r\n",
        b"G(T /u/x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\r\n\r\n\0\0",
        ASK + b"x" * 100_000,
    ):
        for ending in ("loseConnection", "abortConnection"):
            client = proxied.client(data)
            getattr(client.wire.client, ending)()
            proxied.net.pump()
    assert lines == []
    # With so much that is read ahead, the end of a connection is seen when the answer is due.
    proxied.net.advance(61)
    assert proxied.is_idle()


# Health checks.


def test_health(lines: list[Any]) -> None:
    """Back ends are asked as long as the site runs; one that does not answer gets no requests."""
    proxied = Proxied(2, health="/health")
    proxied.client(GET)
    good, bad = proxied.places
    down = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    for _ in range(3):
        for place, answer in ((good, OK), (bad, down)):
            for back in place.accepted:
                if b"/health" in back.take():
                    back.answer(answer)
        proxied.net.advance(5)
        proxied.net.pump()
    assert [back_end.state for back_end in proxied.proxy.back_ends] == ["up", "down"]
    assert len(lines) == 1
    before = len(bad)
    for _ in range(5):
        proxied.client(GET)
    assert not any(b"/x" in back.received for back in bad.accepted[before:])
    assert proxied.site.stopFactory() is None
    asked = len(good) + len(bad)
    proxied.net.advance(100)
    proxied.net.pump()
    assert len(good) + len(bad) == asked


@implementer(IReactorCore)
class Core(Net):
    """A reactor that begins to run when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[Any] = []
        self.running = False

    def callWhenRunning(self, hook: Any) -> None:
        if self.running:
            hook()
        else:
            self.hooks.append(hook)

    def run(self) -> None:
        self.running = True
        for hook in self.hooks:
            hook()
        self.pump()


@pytest.mark.parametrize("is_running", [False, True])
def test_health_from_the_start(is_running: bool) -> None:
    """Back ends are asked before there is a request, from when the reactor runs, until close()."""
    net, place = Core(), Place()
    net.places = {"/0": place}
    if is_running:
        net.run()
    proxy = UpgradeProxy("unix:/0", net, health="/health")
    net.pump()
    if not is_running:
        assert not len(place)
        net.run()
    assert place.last.take().startswith(b"GET /health ")
    place.last.answer(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    assert proxy.back_ends[0].state == "down"
    net.advance(5)
    net.pump()
    assert b"GET /health " in place.last.received
    closed = proxy.close()
    net.pump()
    assert closed.called
    assert place.last.is_over
    assert not net.getDelayedCalls()
    # What still comes is served, without checks.
    site = site_of(proxy, reactor=net)
    site.doStart()
    client = Joined(site).send(GET)
    place.last.answer(OK)
    attempts = place.attempts
    assert client.statuses == [200]
    net.advance(20)
    assert place.attempts == attempts


def test_health_closed_before_the_start() -> None:
    """A proxy that is closed before the reactor runs asks nothing."""
    net, place = Core(), Place()
    net.places = {"/0": place}
    UpgradeProxy("unix:/0", net, health="/health").close()
    net.run()
    assert not place.attempts


def test_close() -> None:
    """close() ends the connections that rest, and not those that are in use."""
    proxied = Proxied()
    first, second = proxied.client(GET), proxied.client(GET)
    busy, resting = proxied.back.accepted
    resting.answer(OK)
    proxied.proxy.close()
    proxied.net.pump()
    assert resting.is_over
    busy.answer(OK)
    assert first.statuses == second.statuses == [200]


@pytest.mark.parametrize("state", ["refusing", "silent", "hanging", "dripping"])
def test_health_stops(state: str) -> None:
    """Wherever a check is when the site stops, it leaves no connection and no timer."""
    proxied = Proxied(health="/health")
    proxied.back.is_there = state != "refusing"
    proxied.back.is_silent = state == "silent"
    client = proxied.client(GET)
    client.wire.client.abortConnection()
    proxied.net.pump()
    if state == "dripping":
        for back in proxied.back.accepted:
            back.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
    proxied.net.advance(1)
    proxied.site.stopFactory()
    proxied.net.pump()
    assert all(back.is_over for back in proxied.back.accepted)
    assert not proxied.net.getDelayedCalls()


def test_health_timeout() -> None:
    """A check that takes too long says that the back end is down; the next one may say it is up."""
    proxied = Proxied(health="/health")
    proxied.client(GET)
    [check] = [back for back in proxied.back.accepted if b"/health" in back.received]
    proxied.net.advance(4.5)
    proxied.net.pump()
    assert proxied.proxy.back_ends[0].state == "down"
    assert check.is_over
    assert proxied.client(GET).statuses == [503]
    proxied.net.advance(1)
    proxied.net.pump()
    proxied.back.last.answer(OK)
    assert proxied.proxy.back_ends[0].state == "up"
    proxied.site.stopFactory()
