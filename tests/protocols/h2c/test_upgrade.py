"""
HTTP/2 by upgrade: the 101, the request on stream 1 and those behind it, and to which requests h2c is
unknown.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import Resource

from tests.kit.asking import Accepting, ByHand, client_of, is_http, switches
from tests.kit.h2client import (
    LARGE,
    PLAIN_CUT_KINDS,
    PLAIN_KINDS,
    SETTINGS_FRAME,
    WINDOW_UPDATE_FRAME,
    H2Client,
    check_switch,
    client_by,
    frames,
    h2c_head,
    h2c_site,
    site_with,
)
from tests.kit.harness import Page, patient, site_of, status, turns
from upgrade_switch import UpgradeRequest


class Seeing(Resource):
    """Remembers what its requests look like."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def render(self, request: Any) -> bytes:
        self.seen.append(
            {
                "method": request.method,
                "uri": request.uri,
                "path": request.path,
                "proto": request.clientproto,
                "args": request.args,
                "host": request.getRequestHostname(),
                "secure": request.isSecure(),
                "cookies": request.received_cookies,
                "body": request.content.read(),
                "content": request.content,
                "fields": dict(request.requestHeaders.getAllRawHeaders()),
                "offer": request.offer,
            }
        )
        return b"seen"


# The switch.


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_switch(listen: Any, kind: str) -> None:
    """The 101 says Upgrade and Connection alone, SETTINGS come first, stream 1 is the answer."""
    listening = await listen(kind, h2c_site())
    client = await listening.connect(H2Client())
    code, fields, body = await client.upgrade()
    check_switch(client.head)
    assert frames(client.received)[0][0] == SETTINGS_FRAME
    assert (code, body) == (200, b"page GET ")
    assert not {b"connection", b"upgrade", b"transfer-encoding", b"keep-alive"} & set(fields)
    for _ in range(3):
        assert (await client.ask(b"/page", b"POST", b"body"))[::2] == (200, b"page POST body")
    assert (await client.ask(b"/missing"))[0] == 404
    (connection,) = listening.site.switched
    assert (str(connection.token), connection.path) == ("h2c", b"/page")
    pages = [(101, b"/page"), (200, b"/page"), *[(200, b"/page")] * 3, (404, b"/missing")]
    assert listening.site.lines == pages


@pytest_twisted.ensureDeferred
async def test_settings_come_before_the_client_says_more(listen: Any) -> None:
    """The server's SETTINGS and the whole answer on stream 1 do not wait for the client's preface."""
    listening = await listen("tcp", h2c_site())
    client = await listening.connect(H2Client())
    client.holds = True
    assert (await client.upgrade())[::2] == (200, b"page GET ")
    assert frames(client.received)[0][0] == SETTINGS_FRAME
    client.holds = False
    client.flush()
    assert (await client.ask(b"/page"))[::2] == (200, b"page GET ")


@pytest.mark.parametrize("kind", PLAIN_CUT_KINDS)
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str) -> None:
    """Wherever the client's bytes are cut, both requests are answered: all of it may be optimistic."""
    listening = await listen(kind, h2c_site())
    cut = 0
    while True:
        client = await listening.connect(H2Client())
        whole = client.asking(b"first", method=b"POST")
        client.holds = True
        stream = client.begin_request(b"/page", b"PUT", b"third")
        whole += client.connection.data_to_send()
        cut += 1
        client.send(whole[:cut])
        await turns(2)
        client.send(whole[cut:])
        assert (await client.answer(1))[::2] == (200, b"page POST first"), cut
        assert (await client.answer(stream))[::2] == (200, b"page PUT third"), cut
        client.transport.abortConnection()
        if cut == len(whole):
            break
    assert listening.site.lines.count((200, b"/page")) == 2 * cut


@pytest_twisted.ensureDeferred
async def test_byte_by_byte(listen: Any) -> None:
    """Every byte may come alone."""
    listening = await listen("tcp", h2c_site())
    client = await listening.connect(H2Client())
    whole = client.asking(b"first", method=b"POST")
    client.holds = True
    stream = client.begin_request(b"/page", b"PUT", b"third")
    whole += client.connection.data_to_send()
    for i in range(len(whole)):
        client.send(whole[i : i + 1])
        await turns(2)
    assert (await client.answer(1))[2] == b"page POST first"
    assert (await client.answer(stream))[2] == b"page PUT third"


@pytest_twisted.ensureDeferred
async def test_settings_come_before_the_answer(listen: Any) -> None:
    """The server's SETTINGS wait neither for the client's preface nor for the answer."""
    client = await (await listen("tcp", site_with(ByHand()))).connect(H2Client())
    client.holds = True
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: client.received)
    assert [kind for kind, _ in frames(client.received)] == [SETTINGS_FRAME, WINDOW_UPDATE_FRAME]


# The request on stream 1.


@pytest_twisted.ensureDeferred
async def test_request(listen: Any) -> None:
    """Stream 1's request has method, target, query, cookies and fields; the connection's are gone."""
    seeing = Seeing()
    client = await (await listen("tcp", site_with(seeing))).connect(H2Client())
    fields = (
        b"X-Mine: 1\r\nx-mine: 2\r\nX-Named: no\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n"
        b"TE: trailers\r\nCookie: a=b\r\nCookie: c=d\r\nAccept: */*\r\nConnection: x-named, close\r\n"
    )
    answer = await client.upgrade(path=b"/r/a%20b?c=d&c=e", fields=fields)
    assert answer[::2] == (200, b"seen")
    (seen,) = seeing.seen
    assert (seen["method"], seen["uri"], seen["path"]) == (b"GET", b"/r/a%20b?c=d&c=e", b"/r/a%20b")
    assert (seen["proto"], seen["args"]) == (b"HTTP/2", {b"c": [b"d", b"e"]})
    assert (seen["host"], seen["secure"], seen["body"]) == (b"localhost", False, b"")
    assert seen["cookies"] == {b"a": b"b", b"c": b"d"}
    assert not seen["offer"]
    assert seen["fields"] == {
        b"X-Mine": [b"1", b"2"],
        b"Cookie": [b"a=b", b"c=d"],
        b"Accept": [b"*/*"],
        b"Host": [b"localhost"],
        # Named by Connection, but as with HTTP/1.1: who forwards is who takes out what is named.
        b"X-Named": [b"no"],
    }
    assert seen["content"].closed
    # "close" was about HTTP/1.1.
    assert (await client.ask(b"/page"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_form(listen: Any) -> None:
    """A form in the upgraded request's body is parsed."""
    seeing = Seeing()
    client = await (await listen("tcp", site_with(seeing))).connect(H2Client())
    fields = b"Content-Type: application/x-www-form-urlencoded\r\n"
    await client.upgrade(body=b"a=b&c=d+e", method=b"POST", path=b"/r?q=x", fields=fields)
    (seen,) = seeing.seen
    assert seen["args"] == {b"q": [b"x"], b"a": [b"b"], b"c": [b"d e"]}
    assert seen["fields"][b"Content-Length"] == [b"9"]


@pytest_twisted.ensureDeferred
async def test_file_upload(listen: Any) -> None:
    """A multipart form in the upgraded request's body is parsed."""
    seeing = Seeing()
    client = await (await listen("tcp", site_with(seeing))).connect(H2Client())
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
    fields = b"Content-Type: multipart/form-data; boundary=x\r\n"
    await client.upgrade(body=body, method=b"POST", path=b"/r", fields=fields)
    assert seeing.seen[0]["args"] == {b"a": [b"b"]}


@pytest.mark.parametrize("chunked", [False, True])
@pytest_twisted.ensureDeferred
async def test_large_body(listen: Any, chunked: bool) -> None:
    """A body so large that it is a file is stream 1's; the file is closed in the end."""
    seeing = Seeing()
    client = await (await listen("tcp", site_with(seeing))).connect(H2Client())
    if chunked:
        asked = client.asking(method=b"POST", path=b"/r", fields=b"Transfer-Encoding: chunked\r\n")
        asked += b"%x\r\n" % len(LARGE) + LARGE + b"\r\n0\r\n\r\n"
    else:
        asked = client.asking(LARGE, method=b"POST", path=b"/r")
    client.send(asked)
    assert (await client.answer(1))[::2] == (200, b"seen")
    (seen,) = seeing.seen
    assert seen["body"] == LARGE
    assert b"Transfer-Encoding" not in seen["fields"]
    assert seen["fields"].get(b"Content-Length") == (None if chunked else [b"%d" % len(LARGE)])
    assert seen["content"].closed


@pytest_twisted.ensureDeferred
async def test_expect(listen: Any) -> None:
    """With Expect come 100, the body, the 101, and no second 100 on stream 1."""
    seeing = Seeing()
    client = await (await listen("tcp", site_with(seeing))).connect(H2Client())
    fields = b"Expect: 100-continue\r\nContent-Length: 4\r\n"
    asked = client.asking(method=b"POST", path=b"/r", fields=fields)
    client.send(asked)
    await client.until(lambda: client.continues)
    assert client.head is None
    client.send(b"body")
    assert (await client.answer(1))[::2] == (200, b"seen")
    assert seeing.seen[0]["body"] == b"body"
    assert b"Expect" not in seeing.seen[0]["fields"]


@pytest_twisted.ensureDeferred
async def test_head(listen: Any) -> None:
    """HEAD is answered on stream 1 without a body."""
    client = await (await listen("tcp", h2c_site())).connect(H2Client())
    code, fields, body = await client.upgrade(method=b"HEAD")
    assert (code, fields[b"content-length"], body) == (200, b"10", b"")
    assert (await client.ask(b"/page"))[2] == b"page GET "


@pytest_twisted.ensureDeferred
async def test_options_star(listen: Any) -> None:
    """``OPTIONS *`` upgrades as well, and is answered on stream 1."""
    client = await (await listen("tcp", h2c_site())).connect(H2Client())
    assert (await client.upgrade(method=b"OPTIONS", path=b"*"))[0] == 200
    assert (await client.ask(b"/page"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_pipelined_in_front(listen: Any) -> None:
    """Requests in front of the upgrade are answered first, in HTTP/1.1."""
    listening = await listen("tcp", h2c_site())
    client = await client_of(listening)
    await is_http(client)
    client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n" + h2c_head())
    assert (await client.response())[1] == b"page GET "
    check_switch(await client.head())


@pytest_twisted.ensureDeferred
async def test_own_request_class(listen: Any) -> None:
    """The site's own requestFactory makes the request of stream 1, and those behind it."""

    class Mine(UpgradeRequest):
        def process(self) -> None:
            self.setHeader("x-mine", self.clientproto)
            super().process()

    listening = await listen("tcp", h2c_site(requestFactory=Mine))
    client = await listening.connect(H2Client())
    assert (await client.upgrade())[1][b"x-mine"] == b"HTTP/2"
    assert b"X-Mine: HTTP/1.1" in client.head
    assert (await client.ask(b"/page"))[1][b"x-mine"] == b"HTTP/2"


# To which requests h2c is unknown.


async def is_ordinary(listening: Any, request: bytes) -> None:
    """A request is answered in HTTP/1.1, and so is the next one."""
    client = await client_of(listening)
    client.send(request)
    head, body = await client.response()
    assert (head[:8], status(head), body) == (b"HTTP/1.1", 200, b"page GET ")
    assert b"upgrade" not in head.lower()
    await is_http(client)
    assert len(listening.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_off_by_default(listen: Any) -> None:
    """A site that was not given h2c does not know it."""
    await is_ordinary(await listen("tcp", site_of(Page())), h2c_head())


@pytest_twisted.ensureDeferred
async def test_over_tls(listen: Any) -> None:
    """Over TLS h2c is unknown."""
    await is_ordinary(await listen("tls", h2c_site()), h2c_head())


@pytest_twisted.ensureDeferred
async def test_http_1_0(listen: Any) -> None:
    """To HTTP/1.0 h2c is unknown."""
    client = await client_of(await listen("tcp", h2c_site()))
    client.send(h2c_head().replace(b"HTTP/1.1", b"HTTP/1.0"))
    await client.is_lost()
    assert client.data.startswith(b"HTTP/1.0 200") or client.data.startswith(b"HTTP/1.1 200")
    assert client.data.endswith(b"page GET ")


@pytest.mark.parametrize("token", [b"h2,h2c", b"h2c, h2", b"websocket, h2c", b"h2c/1, h2c"])
@pytest_twisted.ensureDeferred
async def test_among_others(listen: Any, token: bytes) -> None:
    """h2c is found among tokens that nobody here takes."""
    client = await (await listen("tcp", h2c_site({"echo": Accepting()}))).connect(H2Client())
    assert (await client.upgrade(token=token))[::2] == (200, b"page GET ")


@pytest.mark.parametrize("token", [b"h2c, echo", b"echo, h2c"])
@pytest_twisted.ensureDeferred
async def test_next_to_the_resources_token(listen: Any, token: bytes) -> None:
    """A resource that takes another of the offered tokens goes before h2c."""
    accepting = Accepting()
    client = await client_of(await listen("tcp", h2c_site({"echo": accepting})))
    head = await switches(client, h2c_head(path=b"/u", token=token))
    assert b"\r\nUpgrade: echo\r\n" in head
    assert accepting.tokens == ["echo"]


@pytest_twisted.ensureDeferred
async def test_java(listen: Any) -> None:
    """A POST as Java's client sends it is answered on stream 1."""
    settings = {1: 16384, 2: 1, 3: 100, 4: 16777216, 5: 16384}
    client = await (await listen("tcp", h2c_site())).connect(H2Client(settings=settings))
    fields = b"User-Agent: Java-http-client/17.0.1\r\nContent-Type: text/plain\r\n"
    asked = client.asking(
        b"posted", method=b"POST", settings=b"AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", fields=fields
    )
    client.send(asked)
    assert (await client.answer(1))[::2] == (200, b"page POST posted")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest_twisted.ensureDeferred
async def test_bare_426(listen: Any, method: bytes) -> None:
    """An UpgradeResource that is reached over h2c answers 426 without Connection and Upgrade."""
    accepting = Accepting()
    client = await (await listen("tcp", h2c_site({"echo": accepting}))).connect(H2Client())
    answers = [await client.upgrade(method=method, path=b"/u"), await client.ask(b"/u", method)]
    for code, fields, _ in answers:
        assert code == 426
        assert not {b"connection", b"upgrade"} & set(fields)
    assert accepting.tokens == []


@pytest_twisted.ensureDeferred
async def test_full(listen: Any) -> None:
    """Where no more connections may switch, h2c is ignored; when one has ended, the next may."""
    listening = await listen("tcp", h2c_site(max_switched=1))
    first = await client_by("upgrade", listening)
    second = await client_of(listening)
    second.send(h2c_head(method=b"POST", fields=b"Content-Length: 4\r\n") + b"body")
    head, body = await second.response()
    assert (head[:12], body) == (b"HTTP/1.1 200", b"page POST body")
    assert (await first.ask(b"/page"))[0] == 200
    first.transport.loseConnection()
    await patient(listening.site.switched.when_empty())
    second.send(h2c_head())
    check_switch(await second.head())
