"""
Malformed requests: answered 400 or hung up on, quietly, and never a switch. And answers that
somebody tries to break out of: CR, LF and NUL do not reach the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import PAGE, Accepting, client_of, echoes, is_http
from tests.kit.harness import EchoTarget, Page, Recorder, field, site_of, status, upgrade_head
from upgrade_switch import UpgradeResource


@pytest.fixture
def loud() -> Iterator[list[Any]]:
    """What is logged as a warning or worse."""
    logged: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_level"] >= LogLevel.warn:
            logged.append(event)

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


def with_field(line: bytes, body: bytes = b"") -> bytes:
    """An upgrade request with one more field, which is not its last."""
    return upgrade_head(method=b"POST", fields=line + b"\r\nX-Last: x\r\n") + body


CHUNKED = b"Transfer-Encoding: chunked"

# Nines, and the longest zero that there is.
ENDLESS = (b"9" * 5000, b"0" * 5000 + b"5", b"9" * 19)

MALFORMED = {
    "length is no number": with_field(b"Content-Length: x"),
    "length is empty": with_field(b"Content-Length:"),
    "negative length": with_field(b"Content-Length: -1"),
    "signed length": with_field(b"Content-Length: +1", b"x"),
    "hexadecimal length": with_field(b"Content-Length: 0x1", b"x"),
    "length with underscore": with_field(b"Content-Length: 1_0"),
    "length list": with_field(b"Content-Length: 1, 1", b"x"),
    "length in foreign digits": with_field("Content-Length: \u0661".encode(), b"x"),
    "length and form feed": with_field(b"Content-Length: 1\x0c", b"x"),
    **{
        f"{name} {length[:1]!r} {len(length)}": with_field(name.encode() + b":" + space + length)
        for length in ENDLESS
        for name, space in (
            ("Content-Length", b" "),
            ("content-LENGTH", b"\t"),
            ("Content-length", b""),
        )
    },
    "endless length on a folded line": with_field(b"Content-Length:\r\n " + ENDLESS[0]),
    "endless last field": upgrade_head(fields=b"Content-Length: " + ENDLESS[0] + b"\r\n"),
    "two lengths": with_field(b"Content-Length: 1\r\nContent-Length: 2", b"xx"),
    "a length twice": with_field(b"Content-Length: 1\r\ncontent-length: 1", b"x"),
    "length and chunked": with_field(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunked and length": with_field(CHUNKED + b"\r\nContent-Length: 5", b"0\r\n\r\n"),
    "unknown coding": with_field(b"Transfer-Encoding: gzip"),
    "chunked twice": with_field(b"Transfer-Encoding: chunked, chunked"),
    "chunk size is no number": with_field(CHUNKED, b"xyz\r\nabc\r\n0\r\n\r\n"),
    "negative chunk size": with_field(CHUNKED, b"-1\r\nabc\r\n0\r\n\r\n"),
    "prefixed chunk size": with_field(CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "empty chunk size": with_field(CHUNKED, b"\r\nabc\r\n0\r\n\r\n"),
    "chunk longer than its size": with_field(CHUNKED, b"3\r\nabcdef\r\n0\r\n\r\n"),
    "chunk size of many digits": with_field(CHUNKED, b"f" * 5000 + b"\r\nabc\r\n0\r\n\r\n"),
    "no colon": with_field(b"Connection"),
    "no colon in the last": upgrade_head(fields=b"Content-Length 5\r\n"),
    "no name": with_field(b": x"),
    "head of many fields": upgrade_head(fields=b"X-Y: z\r\n" * 501),
    "large head": upgrade_head(fields=b"".join(b"X-%d: %s\r\n" % (i, b"z" * 999) for i in range(17))),
    "large field": upgrade_head(fields=b"X-Y: " + b"z" * 20_000 + b"\r\n"),
    "large field without end": upgrade_head()[:-2] + b"X-Y: " + b"z" * 20_000,
    "large target": upgrade_head(path=b"/u?" + b"z" * 20_000),
    "two words": b"GET /u\r\n\r\n",
    "two words, and a long line": b"GET /u\r\n" + b"z" * 20_000,
    "no colon, and a long line": upgrade_head()[:-2] + b"Connection\r\n\r\n" + b"z" * 20_000,
    "one word": b"GET\r\n\r\n",
    "two spaces": upgrade_head().replace(b" ", b"  ", 1),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "version of the future": upgrade_head().replace(b"HTTP/1.1", b"HTTP/3.0"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000 1fc0303".replace(" ", "")) + bytes(range(256)) + b"\r\n",
    "binary": bytes(range(128, 256)) * 3 + b"\r\n\r\n",
    "NULs": bytes(500) + b"\r\n",
    "empty lines": b"\r\n\r\n\r\n\r\n",
    "multipart without boundary": upgrade_head(
        method=b"POST", fields=b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n"
    )
    + b"abc",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest_twisted.ensureDeferred
async def test_malformed(listen: Any, accepting: Accepting, loud: list[Any], name: str) -> None:
    """What is no request is answered 400 or not at all, and the end; without a word in the log."""
    listening = await listen("tcp", site_of({"echo": accepting}))
    client = await client_of(listening)
    # A request that smuggles itself in behind must not be answered.
    client.send(MALFORMED[name] + PAGE)
    await client.is_lost()
    assert client.data.count(b"HTTP/1.") <= 1
    if len(MALFORMED[name]) < 1000:
        assert status(client.data) == 400
    else:
        # Closed with bytes unread: TCP may drop the answer.
        assert client.data == b"" or status(client.data) in (400, 414, 431)
    assert accepting.tokens == []
    assert listening.site.lines == []
    assert loud == []
    # The site goes on.
    await is_http(await client_of(listening))


@pytest.mark.parametrize(
    "name", ["length is no number", "no colon", "chunk size is no number", "two words"]
)
@pytest_twisted.ensureDeferred
async def test_what_follows_over_tls(
    listen: Any, accepting: Accepting, loud: list[Any], name: str
) -> None:
    """TLS goes on delivering what it has read when the connection is closing: it is not looked at."""
    listening = await listen("tls", site_of({"echo": accepting}))
    client = await client_of(listening)
    # Many records: one line of each would be looked at, which is enough for a request.
    client.send(MALFORMED[name] + PAGE * 20_000)
    await client.is_lost()
    assert client.data.count(b"HTTP/1.") <= 1
    assert listening.site.lines == []
    assert accepting.tokens == []
    assert loud == []


@pytest.mark.parametrize(
    "line", [b"X-Y: a\nUpgrade: echo", b"X-Y: a\rUpgrade: echo", b"Upgrade: echo\0"]
)
@pytest_twisted.ensureDeferred
async def test_dangerous_value(listen: Any, accepting: Accepting, loud: list[Any], line: bytes) -> None:
    """A bare CR or LF ends no line, and NUL is no white space; newer Twisteds refuse them outright."""
    client = await client_of(await listen("tcp", site_of({"echo": accepting})))
    client.send(b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\n" + line + b"\r\n\r\n")
    await client.is_lost()
    assert status(client.data) in (400, 426)
    assert (accepting.tokens, loud) == ([], [])


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET /u", upgrade_head()[:-2]])
@pytest_twisted.ensureDeferred
async def test_half_a_request(listen: Any, accepting: Accepting, loud: list[Any], start: bytes) -> None:
    """Who stops in the middle of a head is hung up on when the site's timeout is over."""
    clock = Clock()
    site = site_of({"echo": accepting}, reactor=clock, timeout=60, head_timeout=None)
    listening = await listen("tcp", site)
    client = await client_of(listening)
    client.send(start)
    await listening.site.has_received(len(start))
    clock.advance(59)
    client.send(b"x" if start else b"\r\n")
    await listening.site.has_received(len(start) + 1)
    clock.advance(59)
    assert client.reason is None
    clock.advance(1)
    await client.is_lost()
    assert (client.data, accepting.tokens, loud) == (b"", [], [])


@pytest.mark.parametrize("fields", [b"Cookie: ;=;a;==\xff\r\n", b"Expect: more\r\n", b"X-Y:\r\n"])
@pytest_twisted.ensureDeferred
async def test_odd_but_well_formed(
    listen: Any, accepting: Accepting, loud: list[Any], fields: bytes
) -> None:
    """What is merely odd keeps nobody from switching."""
    client = await client_of(await listen("tcp", site_of({"echo": accepting})))
    client.send(upgrade_head(path=b"/u?%zz&a=b;=\xa3", fields=fields))
    assert status(await client.head()) == 101
    await echoes(client)
    assert loud == []


# Breaking out of an answer. Each character that is dangerous becomes a space.

EVIL = b"x\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK\n\x00y"


def evil(request: Any) -> None:
    """Whatever can be set on an answer, by somebody who passes on what he got."""
    headers: Headers = request.responseHeaders
    headers.setRawHeaders(b"X-Set", [EVIL, EVIL])
    headers.addRawHeader("X-Text", EVIL.decode())
    request.setHeader(b"Location", EVIL)
    request.cookies.append(b"raw=" + EVIL)
    request.addCookie(EVIL, EVIL, path=EVIL)


class ByHand(Resource):
    """Switches with a phrase, and answers with a message, that are dangerous."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        evil(request)
        if not request.offer:
            request.setResponseCode(404, EVIL)
            return b"page"
        request.switch_to("echo", EchoTarget(), EVIL)
        return NOT_DONE_YET


class Refusal(Page):
    """An acceptor's refusal that is dangerous."""

    def render(self, request: Any) -> bytes:
        evil(request)
        request.setResponseCode(403, EVIL)
        return b"page"


def check_head(head: bytes) -> None:
    """All that was set is there, and nothing has broken out of its line."""
    lines = head.split(b"\r\n")
    assert not set(head.replace(b"\r\n", b"")) & set(b"\r\n\0")
    assert all(line.partition(b":")[0].replace(b"-", b"").isalpha() for line in lines[1:])
    assert field(head, b"X-Evil") is None
    for name, count in ((b"X-Set", 2), (b"X-Text", 1), (b"Location", 1), (b"Set-Cookie", 4)):
        assert (field(head, name) or b"").count(b"X-Evil: 1") == count


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("token", [b"echo", b"other"])
@pytest_twisted.ensureDeferred
async def test_nobody_breaks_out_of_a_head(listen: Any, token: bytes, by_hand: bool) -> None:
    """CR, LF and NUL in phrase, message, fields and cookies are spaces on the wire, 101 or not."""

    def accept(request: Any, token: Any) -> EchoTarget:
        evil(request)
        return EchoTarget()

    resource = (
        ByHand() if by_hand else UpgradeResource({"echo": accept, "other": lambda r, t: Refusal()})
    )
    client = await client_of(await listen("tcp", site_of(resource)))
    client.send(
        upgrade_head(token) if token == b"echo" or not by_hand else PAGE.replace(b"/page", b"/u")
    )
    head = await client.head()
    check_head(head)
    phrase = head.split(b"\r\n")[0].split(b" ", 2)[2]
    if token == b"echo":
        assert status(head) == 101
        assert phrase == (b"x  X-Evil: 1    HTTP/1.1 200 OK  y" if by_hand else b"Switching Protocols")
        await echoes(client)
    else:
        assert status(head) == (404 if by_hand else 403)
        assert phrase == b"x  X-Evil: 1    HTTP/1.1 200 OK  y"
        await client.receives(b"page")
        assert client.data == b"page"
        client.data = b""
        await is_http(client)


@pytest.mark.parametrize("evil", [b"\r", b"\n", b"\0", b"\r\n", b"\n\r", b"\r\n "])
@pytest.mark.parametrize("place", ["phrase", "field", "cookie"])
@pytest_twisted.ensureDeferred
async def test_each_by_itself(listen: Any, evil: bytes, place: str) -> None:
    """Each dangerous character alone, in each place alone, stays in its line of a 101."""
    value = b"a" + evil + b"b"

    class Resourceful(ByHand):
        def render(self, request: Any) -> Any:
            if place == "field":
                request.setHeader(b"x-field", value)
            elif place == "cookie":
                request.cookies.append(value)
            request.switch_to("echo", EchoTarget(), value if place == "phrase" else b"Switching")
            return NOT_DONE_YET

    client = await client_of(await listen("tcp", site_of(Resourceful())))
    client.send(upgrade_head())
    head = await client.head()
    assert not set(head.replace(b"\r\n", b"")) & set(b"\r\n\0")
    assert len(head.split(b"\r\n")) == (5 if place == "phrase" else 6)
    (line,) = (line for line in head.split(b"\r\n") if line.endswith(b"b") and b" a" in line)
    assert line.partition(b" a")[2][:-1].strip() == b""
    await echoes(client)


@pytest.mark.parametrize("token", [b"echo", b"other"])
@pytest_twisted.ensureDeferred
async def test_nobody_breaks_out_in_a_name(listen: Any, token: bytes) -> None:
    """A field's name with CR and LF in it is refused when it is set, or does not reach the wire."""

    def accept(request: Any, token: Any) -> Any:
        try:
            request.responseHeaders.setRawHeaders(b"X-Y: z\r\nX-Evil", [b"1"])
        except ValueError:
            request.setHeader(b"X-Refused", b"1")
        return EchoTarget() if str(token) == "echo" else Page()

    client = await client_of(await listen("tcp", site_of({"echo": accept, "other": accept})))
    client.send(upgrade_head(token))
    head = await client.head()
    assert field(head, b"X-Evil") is None


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "memory"])
@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize(
    ("begin", "code"),
    [
        pytest.param(b"GET /u?", 414, id="target"),
        pytest.param(b"GET /u HTTP/1.1\r\nHost: a\r\nX-Y: ", 431, id="field"),
        pytest.param(b"POST /u HTTP/1.1\r\n", 431, id="name"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_long_line(
    listen: Any, loud: list[Any], kind: str, is_complete: bool, begin: bytes, code: int
) -> None:
    """
    A line longer than is read is refused, and the connection closed, whether its end comes or not and
    whether the client closes or not; without a word in the log.
    """
    listening = await listen(kind, site_of(Resource()))
    client = await listening.connect(Recorder())
    # What a closed socket has not read ends the connection with a reset, and the answer with it.
    for _ in range(16):
        client.send(begin + b"z" * 1000)
        await listening.site.has_received(len(begin) + 1000)
        listening.site.received, begin = 0, b""
    client.send(b"z" * 1000 + (b" HTTP/1.1\r\n\r\n" + PAGE if is_complete else b""))
    head = await client.head()
    assert status(head) == code
    assert (field(head, b"connection"), field(head, b"content-length")) == (b"close", b"0")
    await client.is_lost()
    assert client.data == b""
    assert loud == []


@pytest_twisted.ensureDeferred
async def test_sent_behind_the_end(listen: Any) -> None:
    """What TLS delivers of a request after the idle time is over is not processed."""
    clock = Clock()
    listening = await listen("tls", site_of(Resource(), reactor=clock, timeout=10))
    client = await listening.connect(Recorder())
    head = b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"
    client.send(head)
    await listening.site.has_received(len(head))
    # It has to read to the end what was sent: paused, it does not see the goodbye, and answers none.
    client.transport.pauseProducing()
    clock.advance(10)
    client.send(b"67890")
    client.transport.resumeProducing()
    await client.is_lost()
    assert client.data == b""
    assert listening.site.lines == []
