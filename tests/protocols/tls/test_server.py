"""
TLS by upgrade (RFC 2817), the server: what a client gets that asks for it, and what it may do inside.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from tests.kit.asking import PAGE, fields_of, is_http
from tests.kit.asking import ByHand as Rendering
from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import Recorder, field, status, turns, upgrade_head
from tests.kit.securing import (
    CLEAR_CUT_KINDS,
    CLEAR_KINDS,
    CUPS,
    UPGRADE,
    ByHand,
    ask_for_tls,
    inside,
    options,
    secured,
    tls_site,
    told,
)

TOLD = PAGE.replace(b"page", b"told")


def fields_told(seen: dict[str, Any]) -> dict[str, list[str]]:
    """The fields of the request that was answered inside, by their names in lower case."""
    return {name.lower(): values for name, values in seen["fields"]}


# The switch.


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_switch(listen: Any, kind: str) -> None:
    """The 101 names TLS and HTTP; the request and all that follow are answered inside, secure."""
    listening = await listen(kind, tls_site())
    client = await secured(listening)
    assert client.answer.split(b"\r\n")[0] == b"HTTP/1.1 101 Switching Protocols"
    assert fields_of(client.answer) == {b"Upgrade": [UPGRADE], b"Connection": [b"Upgrade"]}
    first = await told(client)
    assert (first["secure"], first["version"]) == (True, "HTTP/1.1")
    client.send(TOLD * 2)
    assert (await told(client))["secure"]
    assert (await told(client))["secure"]
    assert listening.site.lines == [(101, b"/told")] + [(200, b"/told")] * 3
    assert [str(c.token) for c in listening.site.switched] == ["TLS/1.2"]


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        (CUPS, b"TLS/1.2, HTTP/1.1"),
        (b"TLS/1.0", b"TLS/1.0, HTTP/1.1"),
        (b"tls/1.3", b"tls/1.3, HTTP/1.1"),
        (b"TLS", b"TLS, HTTP/1.1"),
        (b"unknown, TLS/1.1", b"TLS/1.1, HTTP/1.1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_spelling(listen: Any, offered: bytes, said: bytes) -> None:
    """The 101 names TLS as the client has spelled it first."""
    client = await secured(await listen("tcp", tls_site()), ask_for_tls(token=offered))
    assert field(client.answer, b"upgrade") == said
    assert (await told(client))["secure"]


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_options_for_the_server(listen: Any, kind: str) -> None:
    """``OPTIONS *``, which has no resource, switches and is answered inside."""
    listening = await listen(kind, tls_site(any_request=False))
    client = await secured(listening, ask_for_tls(b"*", b"OPTIONS", token=CUPS))
    head, body = await client.response()
    assert (status(head), body) == (200, b"")
    client.send(TOLD)
    assert (await told(client))["secure"]
    assert [line[0] for line in listening.site.lines] == [101, 200, 200]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"GET", b"/told"),
        (b"OPTIONS", b"/told"),
        (b"POST", b"/told"),
        (b"GET", b"*"),
        (b"HEAD", b"*"),
        (b"options", b"*"),
        (b"OPTIONS", b"/*"),
        (b"OPTIONS", b"*?a"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_requests(listen: Any, method: bytes, path: bytes) -> None:
    """On any other request the offer is ignored, and the connection goes on in the clear."""
    listening = await listen("tcp", tls_site(any_request=False))
    client = await listening.connect()
    client.send(ask_for_tls(path, method) + PAGE)
    await client.until(lambda: b"page GET " in client.data)
    assert b"101 Switching" not in client.data
    assert len(listening.site.switched) == 0
    assert [line[0] for line in listening.site.lines].count(101) == 0


@pytest_twisted.ensureDeferred
async def test_other_tokens_of_other_requests(listen: Any) -> None:
    """Where TLS is ignored, the request's next token is asked."""
    client = await (await listen("tcp", tls_site(any_request=False))).connect()
    client.send(upgrade_head(b"TLS/1.2, echo"))
    head = await client.head()
    assert (status(head), field(head, b"upgrade")) == (101, b"echo")


@pytest.mark.parametrize("kind", CLEAR_CUT_KINDS)
@pytest_twisted.ensureDeferred
async def test_hello_at_every_split(listen: Any, kind: str) -> None:
    """A client may send its ClientHello at once: wherever request and hello are cut, none is lost."""
    listening = await listen(kind, tls_site())
    site = listening.site
    fields = b"Content-Length: 3\r\n"
    cut = 0
    while True:
        client = await listening.connect(ByHand())
        await turns(1)
        stream = ask_for_tls(method=b"POST", fields=fields) + b"abc" + client.hello()
        cut += 1
        if cut > len(stream):
            break
        site.received = 0
        client.raw(stream[:cut])
        if cut < len(stream):
            # TLS takes what is behind the request from the channel.
            await site.has_received(min(cut, len(stream) - len(stream.partition(b"abc")[2])))
            await turns(1)
        client.raw(stream[cut:])
        seen = await told(client)
        assert (seen["secure"], seen["content"]) == (True, "abc"), cut
        assert client.data == b"", cut
        client.transport.abortConnection()
        await client.is_lost()
    assert len(site.lines) == 2 * (cut - 1)


@pytest.mark.parametrize("kind", CLEAR_CUT_KINDS)
@pytest_twisted.ensureDeferred
async def test_last_words_of_the_handshake_at_every_split(listen: Any, kind: str) -> None:
    """Requests in the segment that ends the handshake come behind the one that asked for TLS."""
    listening = await listen(kind, tls_site())
    for cut in range(1, len(PAGE) + 1, 7):
        client = await listening.connect(ByHand())
        client.raw(ask_for_tls(b"/page") + client.hello())
        client.send(PAGE[:cut])
        client.send(PAGE[cut:])
        for _ in range(2):
            head, body = await client.response()
            assert (status(head), body) == (200, b"page GET "), cut
        await is_http(client)


@pytest_twisted.ensureDeferred
async def test_requests_in_front(listen: Any) -> None:
    """Requests before the upgrade are answered in the clear, and are not secure."""
    listening = await listen("tcp", tls_site())
    client = await listening.connect(ByHand())
    client.raw(TOLD * 2 + ask_for_tls())
    for _ in range(2):
        assert not (await told(client))["secure"]
    assert status(await client.head()) == 101
    client.answer = b"has been read"
    client.raw(client.hello())
    assert (await told(client))["secure"]


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_connection_creator(listen: Any, kind: str) -> None:
    """A creator of connections, by which servers choose among certificates, is as good as a context."""

    @implementer(IOpenSSLServerConnectionCreator)
    class Creator:
        def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
            return SSL.Connection(SERVER.options().getContext(), None)

    await is_http(await inside(await listen(kind, tls_site(Creator()))))


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_client_certificate(listen: Any, kind: str) -> None:
    """A client's certificate is asked for where the context does, and the resource sees it."""
    site = tls_site(SERVER.options(AUTHORITY))
    seen: list[Any] = []

    def look(request: Any) -> bytes:
        seen.append(request.transport.getPeerCertificate())
        return b"seen"

    site.resource.putChild(b"look", Rendering(look))
    listening = await listen(kind, site)
    for certificate in (SERVER, None):
        client = await listening.connect(Recorder())
        client.send(ask_for_tls(b"/look"))
        assert status(await client.head()) == 101
        client.transport.startTLS(options(certificate=certificate))
        if certificate is not None:
            assert (await client.response())[1] == b"seen"
        else:
            await client.is_lost()
    assert [found.to_cryptography() for found in seen] == [SERVER.original.to_cryptography()]


@pytest_twisted.ensureDeferred
async def test_no_way_to_tls(listen: Any) -> None:
    """On a connection that cannot start TLS, the offer is ignored."""
    client = await (await listen("memory", tls_site())).connect()
    client.send(ask_for_tls())
    assert not (await told(client))["secure"]


@pytest_twisted.ensureDeferred
async def test_unknown_upgrade(listen: Any) -> None:
    """An Upgrade that nobody knows is ignored, also inside TLS."""
    client = await inside(await listen("tcp", tls_site()))
    client.send(upgrade_head(b"unknown", b"POST", b"/page", b"Content-Length: 2\r\n") + b"ab")
    assert (await client.response())[1] == b"page POST ab"
    await is_http(client)


# The request that is answered inside.


@pytest_twisted.ensureDeferred
async def test_request(listen: Any) -> None:
    """Method, target, arguments, fields, cookies and content are those of the request in the clear."""
    body = b"x=1&y=%20&x=2"
    fields = (
        b"Cookie: a=b; c=d\r\nX-Own: one\r\nX-Own: two\r\nContent-Length: %d\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nAuthorization: Basic YTpi\r\n" % len(body)
    )
    request = ask_for_tls(b"/told?q=%41&x=0", b"POST", fields) + body
    seen = await told(await secured(await listen("tcp", tls_site()), request))
    assert (seen["method"], seen["uri"], seen["path"]) == ("POST", "/told?q=%41&x=0", "/told")
    assert seen["args"] == {"q": ["A"], "x": ["1", "2"], "y": [" "]}
    assert seen["cookies"] == {"a": "b", "c": "d"}
    assert seen["content"] == body.decode()
    got = fields_told(seen)
    assert got.pop("x-own") == ["one", "two"]
    assert got.pop("authorization") == ["Basic YTpi"]
    assert got.pop("host") == ["localhost"]
    assert got.pop("cookie") == ["a=b; c=d"]
    assert got.keys() == {"content-length", "content-type"}


@pytest_twisted.ensureDeferred
async def test_url(listen: Any) -> None:
    """URLs that are made from the request inside begin with ``https``."""
    site = tls_site()
    site.resource.putChild(b"url", Rendering(lambda request: request.prePathURL()))
    client = await secured(await listen("tcp", site), ask_for_tls(b"/url"))
    assert (await client.response())[1].startswith(b"https://localhost")


@pytest.mark.parametrize(
    ("connection", "left"),
    [
        (b"Upgrade", None),
        (b"keep-alive, upgrade", ["keep-alive"]),
        (b"upgrade\r\nConnection: X-Own", ["X-Own"]),
        (b"a, UPGRADE , b\r\nConnection: upgrade", ["a, b"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_connection(listen: Any, connection: bytes, left: list[str] | None) -> None:
    """Inside, Connection does not name Upgrade, which is gone; what else it names is there."""
    request = upgrade_head(b"TLS/1.2", path=b"/told", connection=connection)
    seen = await told(await secured(await listen("tcp", tls_site()), request))
    assert fields_told(seen).get("connection") == left
    assert "upgrade" not in fields_told(seen)


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_close(listen: Any, kind: str) -> None:
    """``Connection: close`` holds for the answer inside: it is the last, and TLS is closed properly."""
    request = upgrade_head(b"TLS/1.2", path=b"/told", connection=b"close, Upgrade")
    listening = await listen(kind, tls_site())
    client = await secured(listening, request)
    head, _ = await client.response()
    assert field(head, b"connection") == b"close"
    await client.is_lost()
    await listening.site.switched.when_empty()


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest_twisted.ensureDeferred
async def test_content(listen: Any, size: int, chunked: bool) -> None:
    """Content of any size and framing, in memory or in a file, is read inside, and closed."""
    site = tls_site()
    contents: list[Any] = []

    def read(request: Any) -> bytes:
        contents.append(request.content)
        return request.content.read()  # type: ignore[no-any-return]

    site.resource.putChild(b"read", Rendering(read))
    content = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    if chunked:
        fields = b"Transfer-Encoding: chunked\r\n"
        framed = (b"%x\r\n%b\r\n" % (size, content) if size else b"") + b"0\r\n\r\n"
    else:
        fields, framed = b"Content-Length: %d\r\n" % size, content
    client = await secured(await listen("tcp", site), ask_for_tls(b"/read", b"POST", fields) + framed)
    assert (await client.response())[1] == content
    await is_http(client)
    assert contents[0].closed


@pytest_twisted.ensureDeferred
async def test_expect(listen: Any) -> None:
    """With Expect come the 100, the body and the 101, in the clear; inside there is no second 100."""
    client = await (await listen("tcp", tls_site())).connect(ByHand())
    fields = b"Expect: 100-continue\r\nContent-Length: 3\r\n"
    client.send(ask_for_tls(method=b"POST", fields=fields))
    assert await client.head() == b"HTTP/1.1 100 Continue"
    client.send(b"abc")
    assert status(await client.head()) == 101
    client.answer = b"has been read"
    client.raw(client.hello())
    assert (await told(client))["content"] == "abc"
    assert client.data == b""


@pytest_twisted.ensureDeferred
async def test_multipart(listen: Any) -> None:
    """A form with parts is in ``request.args`` inside."""
    body = b'--x\r\nContent-Disposition: form-data; name="part"\r\n\r\nvalue\r\n--x--\r\n'
    fields = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n" % len(body)
    request = ask_for_tls(method=b"POST", fields=fields) + body
    seen = await told(await secured(await listen("tcp", tls_site()), request))
    assert seen["args"] == {"part": ["value"]}


@pytest_twisted.ensureDeferred
async def test_bad_form(listen: Any) -> None:
    """A malformed form is answered 400 in the clear: nothing that could be answered has come."""
    listening = await listen("tcp", tls_site())
    client = await listening.connect(Recorder())
    fields = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 4\r\n"
    client.send(ask_for_tls(method=b"POST", fields=fields) + b"none")
    assert status(await client.head()) == 400
    await client.is_lost()
    assert len(listening.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_head(listen: Any) -> None:
    """HEAD is answered inside without a body."""
    client = await secured(await listen("tcp", tls_site()), ask_for_tls(b"/page", b"HEAD"))
    assert status(await client.head()) == 200
    await is_http(client)
