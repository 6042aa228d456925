"""
The plain way of a request, and of its answer: it must make no difference to the general one, wherever
it is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import GzipEncoderFactory

from tests.kit.backed import GET, HOST, Proxied, post
from upgrade_switch import UpgradeRequest
from upgrade_switch.proxy.fields import Rules, Tokens, request_fields
from upgrade_switch.proxy.forwarded import Client, Trusted
from upgrade_switch.proxy.passage import Passage
from upgrade_switch.proxy.plain_heads import plain_lines

DATE = b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
OK = (
    b"HTTP/1.1 200 Fine\r\nserver: back\r\n"
    + DATE
    + b"Content-Length: 5\r\nX-y: z\r\nX-y: w\r\n\r\nhello"
)
HEAD = GET.replace(b"GET", b"HEAD")
BODY = b"content of ten bytes" * 10

REQUESTS = {
    "GET": GET,
    "HEAD": HEAD,
    "DELETE": GET.replace(b"GET", b"DELETE"),
    "query": GET.replace(b"/x", b"/x?%2e%2e&b"),
    "encoded": GET.replace(b"/x", b"/x%2fy;z"),
    "fields": GET.replace(
        HOST,
        HOST
        + b"cookie: a=b\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-%s: %d\r\nVia\x21: x\r\n",
    ),
    "last": GET.replace(HOST, HOST + b"Connection: close\r\n"),
    "twice": GET.replace(HOST, HOST + b"X-a: 1\r\nX-a: 2\r\n"),
    "no content": post(0),
    "POST": post(len(BODY)) + BODY,
    "PUT": post(len(BODY), method=b"PUT") + BODY,
    "GET with content": post(len(BODY), method=b"GET") + BODY,
    "HEAD with content": post(len(BODY), method=b"HEAD") + BODY,
    "HEAD without": post(0, method=b"HEAD"),
    "1.0": GET.replace(b"1.1", b"1.0"),
    "OPTIONS": GET.replace(b"GET", b"OPTIONS").replace(HOST, HOST + b"Max-Forwards: 3\r\n"),
    "via": GET.replace(HOST, HOST + b"Via: 1.1 front\r\n"),
    "forwarded": GET.replace(HOST, HOST + b"Forwarded: for=x\r\nX-Forwarded-For: y\r\n"),
}

# Those that are not plain.
OTHERS = ("1.0", "HEAD with content", "OPTIONS", "via", "twice")

ANSWERS = {
    "plain": OK,
    "empty": OK.replace(b": 5", b": 0")[:-5],
    "no phrase": OK.replace(b" Fine", b" "),
    "404": OK.replace(b"200 Fine", b"404 Not Found"),
    "no date": OK.replace(DATE, b""),
    "no server": OK.replace(b"server: back\r\n", b""),
    "204": b"HTTP/1.1 204 Nothing\r\n" + DATE + b"\r\n",
    "204 with a length": b"HTTP/1.1 204 Nothing\r\n" + DATE + b"Content-Length: 0\r\n\r\n",
    "304": b"HTTP/1.1 304 Same\r\n" + DATE + b"Content-Length: 5\r\nETag: x\r\n\r\n",
    "426": OK.replace(b"200 Fine", b"426 Up"),
    "chunks": OK.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")[:-5]
    + b"5\r\nhello\r\n0\r\n\r\n",
    "informational": b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + OK,
    "kept": OK.replace(b"server", b"Connection: keep-alive\r\nserver"),
    "kept for long": OK.replace(
        b"server", b"Keep-alive: timeout=5\r\nconnection: Keep-Alive\r\nserver"
    ).replace(DATE, b""),
    "closed": OK.replace(b"server", b"Connection: close\r\nserver"),
    "hop": OK.replace(b"server", b"Connection: x-y\r\nserver"),
    "via": OK.replace(b"server", b"Via: 1.1 x\r\nserver"),
    "location": OK.replace(b"server", b"Location: http://back/x\r\nserver"),
    "cookie": OK.replace(b"server", b"Set-Cookie: a=b; Path=/x\r\nserver"),
    "1.0": OK.replace(b"1.1", b"1.0"),
    "white space": OK.replace(b": back", b":  back \t"),
    "bare line feeds": OK.replace(b"\r\n", b"\n"),
    "folded": OK.replace(b": back", b": back\r\n x"),
    "two lengths": OK.replace(b"server", b"Content-Length: 6\r\nserver"),
    "one length twice": OK.replace(b"server", b"Content-Length: 5\r\nserver"),
    "a bad length": OK.replace(b": 5", b": +5"),
    "both framings": OK.replace(b"server", b"Transfer-Encoding: chunked\r\nserver"),
    "a bad name": OK.replace(b"server", b"ser ver"),
    "a NUL": OK.replace(b"back", b"b\0ck"),
    "no HTTP": b"SSH-2.0-x\r\n",
    "unasked 101": b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    "more": OK + b"!",
    "twice": OK + OK,
}

WHOLE = ("plain", "empty", "no phrase", "404", "no server", "no date", "kept", "kept for long")


class Ways:
    """How often the plain way has been begun, and gone to its end."""

    def __init__(self) -> None:
        self.begun = self.gone = 0


@contextmanager
def watched(is_open: bool) -> Iterator[Ways]:
    """:param is_open: whether the plain way may be gone."""
    ways = Ways()
    ask, answered = Passage._ask, Passage.answered

    def note_ask(self: Any, client: Any) -> bool:
        asks = is_open and ask(self, client)
        ways.begun += asks
        return asks

    def note_answered(self: Any, answer: Any) -> None:
        ways.gone += 1
        answered(self, answer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passage, "_ask", note_ask)
        patch.setattr(Passage, "answered", note_answered)
        yield ways


def normal(message: bytes) -> tuple[bytes, list[bytes], bytes]:
    """First line, fields without regard to order and spelling, and what follows."""
    # Via has a random name in it, and the date of an answer without one is this server's.
    message = re.sub(rb"upgrade_switch-[0-9a-f]{8}|(?<=\nDate: )[^\r]*", b"", message)
    head, _, rest = message.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    parts = [field.partition(b":") for field in fields]
    pairs = sorted(name.lower() + b":" + value.strip() for name, _, value in parts)
    return first, pairs, rest


def outcome(
    request: list[bytes], answer: list[bytes], end: str = "", second: bool = True, **kwargs: Any
) -> list[Any]:
    """
    What a request and its answer come to, each in these parts, on connections that were used before,
    and what a second request comes to.

    :param end: what the back end does then.
    """
    proxied = Proxied(**kwargs)
    proxied.client(GET)
    proxied.back[0].answer(OK)
    proxied.back[0].take()
    client = proxied.client()
    for part in request:
        client.send(part)
    sent = proxied.back.last.take()
    proxied.back.last.answer(*answer)
    if end:
        getattr(proxied.back.last, end)()
        proxied.net.pump()
    told: list[Any] = [normal(sent), normal(client.received), client.is_over]
    told += [
        [back.is_over for back in proxied.back.accepted],
        [normal(each.take()) for each in proxied.back.accepted],
    ]
    if second and not client.is_over:
        client.received = b""
        client.send(GET)
        told.append([normal(back.take()) for back in proxied.back.accepted])
        proxied.back.last.answer(OK)
        told.append(normal(client.received))
    back_end = proxied.proxy.back_ends[0]
    told += [back_end.requests, back_end.errors, back_end.failures, back_end.active, proxied.site.lines]
    told += [proxied.is_idle(), len(proxied.net.getDelayedCalls())]
    return told


def both(*args: Any, **kwargs: Any) -> Ways:
    """Assert that the ways make no difference, and say which was gone."""
    with watched(False):
        general = outcome(*args, **kwargs)
    with watched(True) as ways:
        assert outcome(*args, **kwargs) == general
    return ways


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    """Each answer comes to the same, in one piece, and cut anywhere."""
    answer = ANSWERS[name]
    for kind in ("GET", "HEAD", "POST"):
        said = answer.removesuffix(b"hello") if kind == "HEAD" else answer
        ways = both([REQUESTS[kind]], [said])
        if name in WHOLE:
            assert ways.gone == 3
        for cut in range(1, len(said), 1 if name == "plain" else len(said) // 9):
            both([REQUESTS[kind]], [said[:cut], said[cut:]])


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("end", ["close", "reset"])
def test_ends(name: str, end: str) -> None:
    """The same where the back end ends anywhere in its answer, or before it."""
    answer = ANSWERS[name]
    for cut in [0, 1, len(answer) // 3, len(answer) - 1, len(answer)]:
        for kind in ("GET", "PUT"):
            both([REQUESTS[kind]], [answer[:cut]] if cut else [], end)


@pytest.mark.parametrize("kind", REQUESTS)
def test_requests(kind: str) -> None:
    """Each request comes to the same, in one piece, and cut anywhere, and so does its answer."""
    request = REQUESTS[kind]
    said = OK.removesuffix(b"hello") if kind.startswith("HEAD") else OK
    ways = both([request], [said])
    # The first of them, this one, and another one on its connection.
    assert ways.begun == 1 + (kind not in OTHERS) + (kind not in ("1.0", "last"))
    for cut in range(1, len(request), 1 if kind == "POST" else len(request) // 5):
        both([request[:cut], request[cut:]], [said])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"rewrite_location": False},
        {"rewrite_cookies": True},
        {"trusted": ["unix", "127.0.0.1", "10.0.0.0/8"]},
        {"preserve_host": False},
        {"strip_authorization": True},
        {"sticky": "a", "count": 2},
        {"sticky": "address"},
        {"base": "/base/"},
        {"max_body": 10},
        {"response_timeout": 0},
    ],
)
def test_settings(kwargs: dict[str, Any]) -> None:
    """Whatever the proxy has been told to do."""
    for kind in ("GET", "POST", "fields"):
        request = REQUESTS[kind].replace(HOST, HOST + b"Authorization: Basic eDp5\r\n")
        for name in ("plain", "location", "cookie"):
            both([request], [ANSWERS[name]], **kwargs)


def test_pipelined() -> None:
    """A request that came with the one before is asked on the connection that has just come to rest."""
    with watched(True) as ways:
        proxied = Proxied()
        client = proxied.client(GET * 3)
        for _ in range(3):
            proxied.back.last.answer(OK)
        assert client.statuses == [200] * 3
        assert len(proxied.back) == 1
        assert ways.gone == 3


def test_time_out() -> None:
    """A back end that does not answer in time, or not all, is timed out when it would be."""
    for said, status in ((b"", 504), (OK[:9], 504), (OK[:-2], 200)):
        for kind in ("GET", "POST"):
            told = []
            for is_open in (False, True):
                with watched(is_open) as ways:
                    proxied = Proxied(response_timeout=3, idle_timeout=5)
                    client = proxied.client(REQUESTS[kind])
                    proxied.net.advance(2)
                    if said:
                        proxied.back.last.answer(said)
                    moments = []
                    for _ in range(12):
                        proxied.net.advance(0.5)
                        proxied.net.pump()
                        moments.append((len(client.received), client.is_over, proxied.active()))
                    told.append(moments)
                    assert client.statuses == [status]
                    assert ways.begun == is_open
                    assert proxied.back.last.is_over
            assert told[0] == told[1]


def test_client_leaves() -> None:
    """A client that leaves before the answer ends the connection to the back end, and all that ran."""
    for kind in ("GET", "POST"):
        with watched(True) as ways:
            proxied = Proxied()
            client = proxied.client(REQUESTS[kind])
            assert ways.begun == 1
            client.wire.client.abortConnection()
            client.wire.pump()
            assert proxied.back.last.is_over
            assert proxied.is_idle()


def test_retried_once() -> None:
    """A connection that had been closed is not taken for an answer: once more, and no more often."""
    with watched(True) as ways:
        proxied = Proxied()
        proxied.client(GET)
        proxied.back[0].answer(OK)
        client = proxied.client(GET)
        proxied.back[0].close()
        proxied.net.pump()
        assert len(proxied.back) == 2
        proxied.back[1].close()
        proxied.net.pump()
        assert client.statuses == [502]
        assert ways.begun == 3


def test_not_retried() -> None:
    """A request whose content has gone is not sent again, and neither is a POST."""
    for kind in ("PUT", "no content"):
        with watched(True) as ways:
            proxied = Proxied()
            proxied.client(GET)
            proxied.back[0].answer(OK)
            client = proxied.client(REQUESTS[kind])
            proxied.back[0].close()
            proxied.net.pump()
            assert client.statuses == [502]
            assert len(proxied.back) == 1
            assert ways.begun == 2


class Around(Resource):
    """Does something to a request on its way to the proxy."""

    def __init__(self, inner: Any, act: Callable[[Any], object]) -> None:
        super().__init__()
        self.inner, self.act = inner, act

    def getChild(self, path: bytes, request: Any) -> Any:
        self.act(request)
        return self.inner


@pytest.mark.parametrize(
    "act",
    [
        lambda request: request.setHeader(b"x-from-here", b"1"),
        lambda request: request.setHeader(b"date", b"never"),
        lambda request: request.responseHeaders.setRawHeaders(b"date", []),
        lambda request: request.responseHeaders.setRawHeaders(b"date", [b"never", b"ever"]),
        lambda request: request.addCookie(b"a", b"b"),
        lambda request: request.setETag(b"x"),
        lambda request: request.setLastModified(5),
        lambda request: request.requestHeaders.setRawHeaders(b"X-Mine", [b"y"]),
        lambda request: request.responseHeaders.removeHeader(b"server"),
    ],
)
def test_something_said(act: Callable[[Any], object]) -> None:
    """What is said on the way to the proxy counts as it always did."""

    def told() -> list[Any]:
        proxied = Proxied()
        root = proxied.site.resource
        root.putChild(b"u", Around(proxied.proxy, act))
        client = proxied.client(GET)
        sent: list[Any] = [normal(proxied.back.last.take())]
        for answer in (OK, OK.replace(DATE, b"")):
            proxied.back.last.answer(answer)
            sent += normal(client.received)
            client.received = b""
            client.send(GET)
        return sent

    with watched(False):
        general = told()
    with watched(True):
        assert told() == general


def test_encoder() -> None:
    """An answer that is to be encoded is."""
    with watched(True) as ways:
        proxied = Proxied()
        encoded = EncodingResourceWrapper(proxied.proxy, [GzipEncoderFactory()])
        proxied.site.resource.putChild(b"u", encoded)
        client = proxied.client(GET.replace(HOST, HOST + b"Accept-Encoding: gzip\r\n"))
        proxied.back.last.answer(OK)
        assert b"gzip" in client.received
        assert not client.received.endswith(b"hello")
        assert ways.gone == 0


def test_own_request_class() -> None:
    """A request class that has its say in answers has it."""
    written = []

    class Own(UpgradeRequest):
        def write(self, data: bytes) -> None:
            written.append(data)
            super().write(data)

    with watched(True) as ways:
        proxied = Proxied()
        proxied.site.requestFactory = Own  # type: ignore[assignment]
        client = proxied.client(GET)
        proxied.back.last.answer(OK)
        assert client.received.endswith(b"hello")
        assert b"".join(written) == b"hello"
        assert ways.begun == 1
        assert ways.gone == 0


@pytest.mark.parametrize(
    "owner_and_name",
    [
        (lambda request: request, "write"),
        (lambda request: request, "finish"),
        (lambda request: request, "setResponseCode"),
        (lambda request: request.channel, "write"),
        (lambda request: request.channel, "writeHeaders"),
    ],
    ids=["write", "finish", "setResponseCode", "channel.write", "channel.writeHeaders"],
)
def test_replaced(owner_and_name: tuple[Callable[[Any], Any], str]) -> None:
    """What somebody has put in place of a method of this one request is called."""
    owner_of, name = owner_and_name
    calls = []

    def replace(request: Any) -> None:
        owner = owner_of(request)
        original = getattr(owner, name)

        def note(*args: Any) -> Any:
            calls.append(args)
            return original(*args)

        setattr(owner, name, note)

    with watched(True) as ways:
        proxied = Proxied()
        proxied.site.resource.putChild(b"u", Around(proxied.proxy, replace))
        client = proxied.client(GET)
        proxied.back.last.answer(OK)
        assert client.received.endswith(b"hello")
        assert ways.begun == 1
        assert calls


def test_slow_client() -> None:
    """A client that takes nothing gets its answer when it does, and the next one behind it."""
    with watched(True) as ways:
        proxied = Proxied()
        client = proxied.client()
        client.wire.client.pauseProducing()
        big = OK.replace(b": 5", b": 300000")[:-5] + bytes(300_000)
        client.wire.client.write(GET * 2)
        client.wire.pump()
        proxied.back.last.answer(big)
        client.wire.client.resumeProducing()
        client.wire.pump()
        proxied.back.last.answer(OK)
        assert client.received.endswith(b"hello")
        assert client.received.count(b"HTTP/1.1 200 ") == 2
        assert ways.begun == 2


def test_what_is_logged() -> None:
    """Who asks a request for the fields of its answer, for a log say, gets those that were sent."""
    seen = []
    with watched(True) as ways:
        proxied = Proxied()
        log = proxied.site.log

        def note(request: Any) -> None:
            fields = request.responseHeaders
            seen.append((request.code, request.code_message, request.sentLength))
            seen.append((fields.getRawHeaders(b"x-y"), fields.getRawHeaders(b"server")))
            log(request)

        proxied.site.log = note  # type: ignore[method-assign]
        proxied.client(GET)
        proxied.back.last.answer(OK)
        assert ways.gone == 1
    assert seen == [(200, b"Fine", 5), ([b"z", b"w"], [b"back"])]


names = st.sampled_from(
    [
        b"Host",
        b"Cookie",
        b"Connection",
        b"X-Hop",
        b"Te",
        b"Via",
        b"Accept",
        b"X_Forwarded_For",
        b"Expect",
        b"Forwarded",
        b"Authorization",
        b"Content-Length",
        b"X-%d",
        b"Upgrade",
        b"Proxy",
        b"Max-Forwards",
    ]
)
values = st.sampled_from(
    [b"", b"a", b"close", b"x-hop", b"keep-alive, te", b" a", b"a\t", b"a\r\nb: c", b"\0"]
)


@given(
    st.dictionaries(names, st.lists(values, min_size=1, max_size=2), max_size=8),
    st.sampled_from(["10.0.0.1", "::1", None]),
    st.sampled_from([b"a.test", b"a b", None]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2"]),
    st.sampled_from([None, 0, 7]),
    st.booleans(),
    st.booleans(),
)
def test_plain_lines(
    headers: dict[bytes, list[bytes]],
    address: str | None,
    authority: bytes | None,
    version: bytes,
    length: int | None,
    preserves: bool,
    strips: bool,
) -> None:
    """A plain request's fields are those that it has when each is looked at."""
    client = Client(address, False, authority, version)
    rules = Rules(Tokens(["echo"]), Trusted(["::1"]), preserves, strips)
    framed = {"length": length, "authority": b"back.test"}
    lines = plain_lines(headers, client, rules, **framed)  # type: ignore[arg-type]
    fields = [(name, value) for name, found in headers.items() for value in found]
    expected = request_fields(fields, client, rules, method=b"GET", **framed)  # type: ignore[arg-type]
    assert lines is None or lines == expected.lines
