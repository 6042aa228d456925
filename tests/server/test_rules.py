"""
The rules of HTTP about Upgrade, as a client on the wire sees them kept: who may upgrade, what is
ignored, and what a 101 and a 426 look like.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import (
    PAGE,
    TRAILING,
    Accepting,
    echoes,
    echoes_after,
    fields_of,
    is_http,
)
from tests.kit.harness import EchoTarget, field, status, turns, upgrade_head
from upgrade_switch import upgrade_required
from upgrade_switch.testing import talk_to

# Who may upgrade.


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (b"Connection: Upgrade\r\nUpgrade: echo", b"echo"),
        (b"connection: upgrade\r\nupgrade: ECHO", b"ECHO"),
        (b"UPGRADE:Echo/9\r\nCONNECTION:UPGRADE", b"Echo/9"),
        (b"Connection: keep-alive\r\nConnection: x, Upgrade\r\nUpgrade: echo", b"echo"),
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: echo", b"echo"),
        (b"Connection: Upgrade\r\nUpgrade: unknown, , chat/3\r\nUpgrade: chat/2, echo", b"chat/2"),
        (b"Connection: Upgrade,\r\n\tHTTP2-Settings\r\nUpgrade: h2c,\r\n echo", b"echo"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_eligible(serve: Any, fields: bytes, answer: bytes) -> None:
    """Wherever Connection names upgrade, the offer counts; the answer has the client's spelling."""
    client = await serve()
    client.send(b"GET /u HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n\r\n")
    head = await client.head()
    assert (status(head), field(head, b"upgrade")) == (101, answer)
    await echoes(client)


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: echo",
        b"Connection: keep-alive\r\nUpgrade: echo",
        b"Connection: keep-alive Upgrade\r\nUpgrade: echo",
        b"Connection: Upgrade\x0b\r\nUpgrade: echo",
        b"Connection: Upgrade",
        b"Connection: upgrade\r\nUpgrade:",
        b"Connection: Upgrade\r\nUpgrade: chat/3, chat, echoes",
        b"Connection: Upgrade\r\nUpgrade: echo, e cho",
        b"Connection: Upgrade\r\nUpgrade: echo\r\nUpgrade: a/b/c",
        b"Connection: Upgrade\r\nUpgrade: \x0becho",
        b"Connection: Upgrade\r\nUpgrade: echo\xa0",
    ],
)
@pytest_twisted.ensureDeferred
async def test_not_eligible(serve: Any, accepting: Accepting, fields: bytes) -> None:
    """An Upgrade that does not count is ordinary HTTP: nobody is asked, the body is a body."""
    client = await serve()
    fields = b"Host: localhost\r\n" + fields + b"\r\nContent-Length: 4\r\n\r\n"
    client.send(b"POST /page HTTP/1.1\r\n" + fields + b"GET ")
    head, body = await client.response()
    assert (status(head), body) == (200, b"page POST GET ")
    client.send(b"POST /u HTTP/1.1\r\n" + fields + b"GET ")
    head, _ = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, b"echo, chat/2")
    await is_http(client)
    assert accepting.tokens == []
    assert client.site.lines == [(200, b"/page"), (426, b"/u"), (200, b"/page")]


@pytest.mark.parametrize(("path", "code"), [(b"/page", 200), (b"/u", 426)])
@pytest_twisted.ensureDeferred
async def test_http_1_0(serve: Any, accepting: Accepting, path: bytes, code: int) -> None:
    """HTTP/1.0 knows no Upgrade, and needs no Host: an ordinary answer, then the end."""
    client = await serve()
    fields = b"Connection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 2\r\n\r\n"
    client.send(b"POST " + path + b" HTTP/1.0\r\n" + fields + b"hi")
    await client.is_lost()
    head, _, body = client.data.partition(b"\r\n\r\n")
    assert status(head) == code
    assert code == 426 or body == b"page POST hi"
    assert accepting.tokens == []


# Host.

BAD_HOSTS = [
    b"",
    b"Host:\r\n",
    b"Host: a b\r\n",
    b"Host: user@a\r\n",
    b"Host: a:b\r\n",
    b"Host: http://a\r\n",
    b"Host: [::1\r\n",
    b"Host: a\xff\r\n",
    b"Host: a\x0b\r\n",
    b"Host: a\r\nHost: b\r\n",
    b"Host: a\r\nhost: a\r\n",
    b"Host:\r\nHost: a\r\n",
]


@pytest.mark.parametrize("hosts", BAD_HOSTS)
@pytest_twisted.ensureDeferred
async def test_bad_host(serve: Any, accepting: Accepting, hosts: bytes) -> None:
    """Without one valid Host a request is answered 400, Upgrade or not; the connection goes on."""
    client = await serve()
    for upgrade in (b"Connection: Upgrade\r\nUpgrade: echo\r\n", b"X: y\r\n"):
        for path in (b"/u", b"/page"):
            client.send(b"POST " + path + b" HTTP/1.1\r\n" + hosts + upgrade)
            client.send(b"Content-Length: 4\r\n\r\nGET ")
            head, _ = await client.response()
            assert status(head) == 400
            await is_http(client)
    assert accepting.tokens == []
    client.send(b"HEAD /u HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    await client.is_lost()
    assert status(client.data) == 400
    assert client.data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("host", [b"localhost", b"localhost:8080", b"[::1]:80", b"\t192.0.2.1 ", b"a:"])
@pytest_twisted.ensureDeferred
async def test_good_host(serve: Any, host: bytes) -> None:
    """Any valid Host will do, with white space around it."""
    client = await serve()
    client.send(upgrade_head().replace(b" localhost", b" " + host))
    assert status(await client.head()) == 101
    await echoes(client)


# What clients send that want no upgrade from us (FACTS.md: on the wire).

SETTINGS = b"AAMAAABkAAQAoAAAAAIAAAAA"
NGHTTP = (
    b"host: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: " + SETTINGS + b"\r\naccept: */*\r\nuser-agent: nghttp2/1.52.0\r\n\r\n"
)
CURL = (
    b"Host: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " + SETTINGS + b"\r\n"
)
JAVA = (
    b"Host: localhost\r\nHTTP2-Settings: " + SETTINGS + b"\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/11.0.20\r\n\r\n"
)
APACHE = (
    b"Host: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: TLS/1.2\r\n"
    b"User-Agent: Apache-HttpClient/5.4 (Java/17)\r\n"
)
FORM = b"Content-Length: 11\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nhello=world"

IGNORED = {
    "Java GET": (b"GET", b"Connection: Upgrade, HTTP2-Settings\r\nContent-Length: 0\r\n" + JAVA, b""),
    "Java POST": (
        b"POST",
        b"Connection: Upgrade, HTTP2-Settings\r\nContent-Length: 5\r\n" + JAVA + b"GET /",
        b"GET /",
    ),
    "Java POST, chunked": (
        b"POST",
        b"Connection: Upgrade, HTTP2-Settings\r\nTransfer-encoding: chunked\r\n"
        + JAVA
        + b"3\r\nGET\r\n2\r\n /\r\n0\r\n\r\n",
        b"GET /",
    ),
    "Apache GET": (b"GET", APACHE + b"\r\n", b""),
    "Apache POST": (b"POST", APACHE + FORM, b"hello=world"),
    "Firefox": (
        b"GET",
        b"Host: localhost\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: ejTH7kk3Fbdab/QHC1yTZg==\r\n"
        b"Connection: keep-alive, Upgrade\r\nPragma: no-cache\r\nUpgrade: websocket\r\n\r\n",
        b"",
    ),
    "nginx": (b"GET", b"Host: localhost\r\nConnection: upgrade\r\nX-Real-IP: 192.0.2.1\r\n\r\n", b""),
    "curl GET": (b"GET", CURL + b"\r\n", b""),
    "curl POST": (b"POST", CURL + FORM, b"hello=world"),
    "nghttp": (b"GET", NGHTTP, b""),
}


@pytest.mark.parametrize("name", IGNORED)
@pytest_twisted.ensureDeferred
async def test_unknown_upgrades_are_ignored(serve: Any, accepting: Accepting, name: str) -> None:
    """What real clients ask for in passing is ordinary HTTP, body intact, on every resource."""
    method, rest, body = IGNORED[name]
    client = await serve()
    for _ in range(2):
        client.send(method + b" /page HTTP/1.1\r\n" + rest)
        head, answer = await client.response()
        assert (status(head), answer) == (200, b"page " + method + b" " + body)
        assert field(head, b"connection") is None
        assert field(head, b"upgrade") is None
        client.send(method + b" /u HTTP/1.1\r\n" + rest)
        head, _ = await client.response()
        assert (status(head), field(head, b"upgrade")) == (426, b"echo, chat/2")
    await is_http(client)
    assert accepting.tokens == []


@pytest_twisted.ensureDeferred
async def test_options_star(serve: Any) -> None:
    """nghttp upgrades ``OPTIONS *`` when it has a body to send: answered as without Upgrade."""
    client = await serve()
    client.send(b"OPTIONS * HTTP/1.1\r\n" + NGHTTP)
    head, _ = await client.response()
    assert status(head) == 200
    await is_http(client)


# The answers.


@pytest_twisted.ensureDeferred
async def test_101(serve: Any) -> None:
    """A 101 has what the acceptor has set, but neither framing nor another Connection or Upgrade."""

    def accept(request: Any, token: Any) -> EchoTarget:
        headers = request.responseHeaders
        headers.setRawHeaders(b"Content-Length", [b"3"])
        headers.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
        headers.setRawHeaders(b"Connection", [b"close", b"keep-alive"])
        headers.setRawHeaders(b"Upgrade", [b"other"])
        headers.setRawHeaders(b"X-Several", [b"one", b"two"])
        request.addCookie(b"a", b"1")
        request.addCookie(b"b", b"2", path=b"/", secure=True)
        request.setResponseCode(204)
        return EchoTarget()

    client = await serve({"echo": accept})
    client.send(upgrade_head(b"x, eCHo/1.0", connection=b"close, Upgrade") + TRAILING)
    head = await client.head()
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 101 Switching Protocols"
    assert fields_of(head) == {
        b"Connection": [b"Upgrade"],
        b"Upgrade": [b"eCHo/1.0"],
        b"X-Several": [b"one", b"two"],
        b"Set-Cookie": [b"a=1", b"b=2; Path=/; Secure"],
    }
    await echoes_after(client, TRAILING)


@pytest_twisted.ensureDeferred
async def test_bare_101(serve: Any) -> None:
    """A 101 on which nobody has set anything has Connection and Upgrade, and no Content-Type."""
    client = await serve()
    client.send(upgrade_head(method=b"POST", fields=b"Content-Length: 4\r\n") + b"GET ")
    head = await client.head()
    assert fields_of(head) == {b"Connection": [b"Upgrade"], b"Upgrade": [b"echo"]}
    await echoes(client)


class ByHand(Resource):
    """Docker's exec: switches by hand, with a phrase of its own."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        if "tcp" not in request.offer:
            return upgrade_required("tcp", "Raw/1").render(request)
        assert request.content.read() == b'{"Tty":false}'
        request.switch_to("tcp", EchoTarget(), b"UPGRADED")
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_phrase(serve: Any) -> None:
    """The phrase of a 101 can be chosen: Docker's client wants UPGRADED, and half-closes at once."""
    client = await serve(ByHand())
    client.send(upgrade_head(b"tcp", b"POST", fields=b"Content-Length: 13\r\n"))
    await client.site.until(lambda: client.site.received > 90)
    client.send(b'{"Tty":false}')
    head = await client.head()
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 101 UPGRADED"
    await echoes(client)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"BREW"])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest_twisted.ensureDeferred
async def test_426(serve: Any, method: bytes, by_hand: bool) -> None:
    """A 426 lists the tokens in their order, and is framed: the connection goes on."""
    client = await serve(ByHand() if by_hand else None)
    client.send(method + b" /u HTTP/1.1\r\nHost: localhost\r\n\r\n" + PAGE)
    head = await client.head()
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 426 Upgrade Required"
    fields = fields_of(head)
    length = int(fields.pop(b"Content-Length")[0])
    assert fields == {
        b"Connection": [b"Upgrade"],
        b"Upgrade": [b"tcp, Raw/1" if by_hand else b"echo, chat/2"],
        b"Content-Type": [b"text/html; charset=utf-8"],
    }
    rest = b"" if method == b"HEAD" else b"</html>\n"
    await client.receives(b"page GET ")
    body, _, second = client.data.partition(b"HTTP/1.1 ")
    assert second.startswith(b"200 OK")
    assert len(body) == (0 if method == b"HEAD" else length)
    assert body.endswith(rest)


# Connection: close.


@pytest.mark.parametrize(
    "connection",
    [
        b"close, Upgrade",
        b"Upgrade,close",
        b"CLOSE\r\nConnection: upgrade",
        b"upgrade\r\nConnection: close",
    ],
)
@pytest_twisted.ensureDeferred
async def test_close_beside_upgrade(serve: Any, connection: bytes) -> None:
    """A request that says close beside upgrade switches; declined, its connection is closed."""
    client = await serve()
    client.send(upgrade_head(connection=connection) + TRAILING)
    head = await client.head()
    assert (status(head), field(head, b"connection")) == (101, b"Upgrade")
    await client.receives(TRAILING)
    await turns()
    client.data = b""
    await echoes(client)

    declined = await serve()
    declined.send(upgrade_head(b"other", connection=connection) + PAGE)
    await declined.is_lost()
    head, _, body = declined.data.partition(b"\r\n\r\n")
    assert status(head) == 426
    assert field(head, b"connection") == b"close, Upgrade"
    assert len(body) == int(field(head, b"content-length") or b"")


@pytest.mark.parametrize(
    "connection",
    [b"close", b"Close", b"keep-alive, close", b"close,x", b",\tclose ,", b"x\r\nConnection: close"],
)
@pytest_twisted.ensureDeferred
async def test_close(serve: Any, connection: bytes) -> None:
    """close is honoured in any Connection line, anywhere in its list."""
    client = await serve()
    client.send(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: " + connection + b"\r\n\r\n" + PAGE)
    await client.is_lost()
    head, _, body = client.data.partition(b"\r\n\r\n")
    assert field(head, b"connection") == b"close"
    assert body == b"page GET "


@pytest.mark.parametrize("connection", [b"closed", b"keep-alive close", b"close\x0b", b"", b"x=close"])
@pytest_twisted.ensureDeferred
async def test_no_close(serve: Any, connection: bytes) -> None:
    """Only an option that is ``close`` closes."""
    client = await serve()
    for _ in range(2):
        client.send(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: " + connection + b"\r\n\r\n")
        head, body = await client.response()
        assert (field(head, b"connection"), body) == (None, b"page GET ")


def test_connect_is_closed() -> None:
    """
    A CONNECT that is not taken up ends the connection: what follows it was meant for a tunnel, and is
    not taken for a request (RFC 9931).
    """
    client = talk_to(Resource())
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = client.request("CONNECT", "example.com:443", trailing=hidden)
    assert answer.headers["connection"] == "close"
    assert client.is_closed
    assert b"hidden" not in answer.body
    assert client.received == b""
