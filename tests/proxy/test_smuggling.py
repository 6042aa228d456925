"""What one side takes for the end of a message, the other must, too."""

from __future__ import annotations

import h11
import pytest

from tests.kit.backed import ASK, GET, HOST, OK, SWITCH, Proxied, post

SMUGGLED = b"GET /u/smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def requests_in(received: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """What a strict server reads: method, target and content of each request."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(received)
    found = []
    while True:
        event = server.next_event()
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append((head.method, head.target, body))
            if server.their_state is not h11.DONE:
                return found
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            server.start_next_cycle()
        else:
            assert event in (h11.NEED_DATA, h11.PAUSED)
            return found


#: Heads that two servers could read differently, in front of something that looks like a request.
REFUSED = {
    "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "CL and TE": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "two CLs": b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "the same CL twice": b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of CLs": b"Content-Length: 4, 4\r\n",
    "a signed CL": b"Content-Length: +4\r\n",
    "a negative CL": b"Content-Length: -4\r\n",
    "hexadecimal CL": b"Content-Length: 0x4\r\n",
    "a CL with an underscore": b"Content-Length: 1_0\r\n",
    "a huge CL": b"Content-Length: %s\r\n" % (b"9" * 40),
    "CL in other digits": "Content-Length: ٤\r\n".encode(),
    "an empty CL": b"Content-Length: \r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "two codings": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "VT": b"Transfer-Encoding: \x0bchunked\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "a tab before the colon": b"Content-Length\t: 4\r\n",
    "NUL in a name": b"X\0Y: 1\r\n",
    "no colon": b"Foo\r\n",
    "an empty name": b": foo\r\n",
    "a name in brackets": b"[X]: foo\r\n",
}

#: What passes in a way that all read alike: a part of it that must not reach the back end.
PASSED = {
    "underscores": (b"Transfer_Encoding: chunked\r\nContent_Length: 4\r\n", b"r_E"),
    "folded": (b"X: a\r\n Transfer-Encoding: chunked\r\n", b"\nTransfer"),
    "folded framing": (b"X:\r\n Content-Length: 3\r\n", b"X:\r\n"),
    "a bare LF": (b"X: a\nTransfer-Encoding: chunked\r\n", b"\nTransfer"),
    "a bare CR": (b"X: a\rTransfer-Encoding: chunked\r\n", b"\rTransfer"),
    "NUL": (b"X: a\0b\r\n", b"\0"),
    "identity": (b"Transfer-Encoding: identity\r\n", b"identity"),
    "Connection": (b"Connection: Transfer-Encoding, Content-Length\r\n", b"Connection"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    """A head that can be read in two ways is a 400, the connection ends, and no back end is asked."""
    for method in (b"POST", b"GET"):
        proxied = Proxied()
        head = method + b" /u/x HTTP/1.1\r\n" + HOST + REFUSED[what] + b"\r\n"
        client = proxied.client(head + b"0\r\n\r\n" + SMUGGLED)
        reached = [requests_in(back.received) for back in proxied.back.accepted]
        assert client.statuses[:1] in ([400], [501]), (client.received, reached)
        assert client.statuses[1:] == []
        assert client.is_over
        assert not reached


@pytest.mark.parametrize(
    "head",
    [
        b"POST /u/x HTTP/1.1\n" + HOST + b"Content-Length: 5\r\n\r\n",
        b"POST /u/x HTTP/1.1\r\nHost: localhost\nContent-Length: 5\r\n\r\n",
        b"POST /u/x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\n\r\n",
        b"POST /u/x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\n",
        b"POST /u/x HTTP/1.1\nHost: localhost\nContent-Length: 5\n\n",
    ],
)
def test_bare_lf(head: bytes) -> None:
    """A LF without a CR ends no line: what is in front of it and behind it are not two."""
    proxied = Proxied()
    client = proxied.client(head + b"hello" + SMUGGLED)
    assert client.statuses in ([400], [])
    assert client.is_over
    assert not len(proxied.back)


@pytest.mark.parametrize("what", PASSED)
def test_passed(what: str) -> None:
    """Such a field passes, if it does, as part of a head whose framing is the proxy's own."""
    fields, unwanted = PASSED[what]
    for framing, content in ((b"", b""), (b"Content-Length: 3\r\n", b"abc")):
        proxied = Proxied()
        head = b"POST /u/x HTTP/1.1\r\n" + HOST + fields + framing + b"\r\n"
        client = proxied.client(head + content + SMUGGLED)
        if client.statuses[:1] == [400]:
            assert client.is_over
            assert not len(proxied.back)
            continue
        received = proxied.back.last.received
        assert requests_in(received) == [(b"POST", b"/x", content)]
        assert unwanted not in received
        proxied.back.last.answer(OK)
        assert requests_in(proxied.back[0].received)[1:] == [(b"GET", b"/smuggled", b"")]


@pytest.mark.parametrize(
    "content",
    [
        b"4;a=b;c\r\nabcd\r\n0\r\n\r\n",
        b'4;a="x;y"\r\nabcd\r\n0;z\r\n\r\n',
        b"0004\r\nabcd\r\n000\r\n\r\n",
        b"4\r\nabcd\r\n0\r\nContent-Length: 5\r\nX: y\r\n\r\n",
        b"1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n",
    ],
)
def test_chunks(content: bytes) -> None:
    """Chunks are made anew: what their sizes, extensions and trailers say otherwise does not pass."""
    for split in range(len(content)):
        proxied = Proxied()
        client = proxied.client(
            b"POST /u/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + content[:split]
        )
        client.send(content[split:] + SMUGGLED)
        assert requests_in(proxied.back.last.received) == [(b"POST", b"/x", b"abcd")]
        assert b";" not in proxied.back.last.received.partition(b"\r\n\r\n")[2]
        assert b"X: y" not in proxied.back.last.received
        proxied.back.last.answer(OK)
        assert requests_in(proxied.back[0].received)[1:] == [(b"GET", b"/smuggled", b"")]


@pytest.mark.parametrize(
    "content",
    [
        b"4 \r\nabcd\r\n0\r\n\r\n",
        b"+4\r\nabcd\r\n0\r\n\r\n",
        b"0x4\r\nabcd\r\n0\r\n\r\n",
        b"4\nabcd\r\n0\r\n\r\n",
        b"4\r\nabcdef\r\n0\r\n\r\n",
        b"4;a\nb\r\nabcd\r\n0\r\n\r\n",
        b"-1\r\nabcd\r\n0\r\n\r\n",
        b"\r\nabcd\r\n0\r\n\r\n",
        b"4" + b"0" * 5000 + b"\r\n",
    ],
)
def test_broken_chunks(content: bytes) -> None:
    """A content that breaks the chunked grammar ends both requests; none of the rest is another one."""
    proxied = Proxied()
    client = proxied.client(
        b"POST /u/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + content + SMUGGLED
    )
    assert client.statuses in ([400], [])
    assert client.is_over
    assert all(back.is_over for back in proxied.back.accepted)
    assert not any(b"smuggled" in back.received for back in proxied.back.accepted)
    assert proxied.is_idle()


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/u/a%2Fb", b"/a%2Fb"),
        (b"/u//b/", b"//b/"),
        (b"/u?", b"/?"),
        (b"/u/x?a=/../b", b"/x?a=/../b"),
        (b"http://localhost/u/x", b"/x"),
        (b"HTTPS://other:81/u/x?y", b"/x?y"),
        (b"/%75/x", b"/x"),
        (b"/u/a/../b", b"/a/../b"),
        (b"/u/%00", b"/%00"),
        (b"/u/..%2f", 400),
        (b"/u/../page", 400),
        (b"/u/%2e%2e/page", 400),
        (b"/u/..;/page", 400),
        (b"/u\\..\\page", 404),
        (b"/u/..\\page", 400),
        (b"/u/x#y", 400),
        (b"/u/\xff", 400),
        (b"/u/\x7f", 400),
        (b"/u/x\0", 400),
        (b"ftp://localhost/u/x", 400),
        (b"http://user@localhost/u/x", 400),
        (b"u/x", 400),
        (b"*", 400),
        (b"?x", 400),
        (b"", 400),
    ],
)
def test_targets(target: bytes, sent: bytes | int) -> None:
    """A target that is not a path below the proxy, in whatever reading, reaches no back end."""
    proxied = Proxied()
    client = proxied.client(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    if isinstance(sent, bytes):
        [back] = proxied.back.accepted
        assert requests_in(back.received) == [(b"GET", sent, b"")]
        back.answer(OK)
        assert client.statuses == [200]
    else:
        assert not any(back.received for back in proxied.back.accepted)
        assert all(400 <= code < 500 for code in client.statuses)
        assert client.statuses or client.is_over


def test_refused_upgrade_and_second() -> None:
    """After a refused upgrade, with a content or not, both sides are in step."""
    for head in (ASK, post(len(SMUGGLED), b"Connection: Upgrade\r\nUpgrade: echo\r\n") + SMUGGLED):
        proxied = Proxied()
        client = proxied.client(head + GET)
        assert len(proxied.back) == 1
        proxied.back[0].answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno" + SWITCH)
        assert proxied.back[0].is_over
        assert len(requests_in(proxied.back[0].received)) == 1
        proxied.back[1].answer(OK)
        assert client.statuses == [403, 200]
        assert client.bodies == [b"no", b"hello"]
        assert requests_in(proxied.back[1].received) == [(b"GET", b"/x", b"")]


def test_answers_twice() -> None:
    """A back end that answers twice loses its connection: the second answer is nobody's."""
    for together in (True, False):
        proxied = Proxied()
        first, second = proxied.client(GET), proxied.client()
        if together:
            proxied.back[0].answer(OK + OK.replace(b"hello", b"other"))
        else:
            proxied.back[0].answer(OK, OK.replace(b"hello", b"other"))
        second.send(GET)
        assert first.bodies == [b"hello"]
        assert proxied.back[0].is_over
        assert len(proxied.back) == 2
        proxied.back[1].answer(OK.replace(b"hello", b"third"))
        assert second.bodies == [b"third"]


def test_answers_unasked() -> None:
    """What a connection says before it is asked is nobody's answer."""
    proxied = Proxied()
    client = proxied.client(GET)
    proxied.back[0].answer(OK)
    proxied.back[0].answer(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    client.send(GET)
    proxied.back[1].answer(OK)
    assert client.statuses == [200, 200]


def test_answers_early() -> None:
    """
    An answer before the content's end passes at once; the rest of the content reaches nobody, and the
    back end's connection is not used again.
    """
    for framing in (b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"):
        proxied = Proxied()
        is_chunked = b"chunked" in framing
        head = b"POST /u/x HTTP/1.1\r\n" + HOST + framing + b"\r\n"
        client = proxied.client(head + (b"3\r\nabc\r\n" if is_chunked else b"abc"))
        proxied.back[0].answer(OK)
        assert client.bodies == [b"hello"]
        assert proxied.back[0].is_over
        client.send((b"6\r\nGET / \r\n0\r\n\r\n" if is_chunked else b"GET / ") + GET)
        assert requests_in(proxied.back[1].received) == [(b"GET", b"/x", b"")]
        assert b"GET /" not in proxied.back[0].received.partition(b"\r\n\r\n")[2]
        proxied.back[1].answer(OK)
        assert client.statuses == [200, 200]
        assert proxied.is_idle()


#: Answers that break the grammar.
BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "HTTP/0.9": b"<html>\r\n</html>\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "code 000": b"HTTP/1.1 000 x\r\n\r\n",
    "code 099": b"HTTP/1.1 099 x\r\n\r\n",
    "no code": b"HTTP/1.1 OK\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nfoo\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nFoo : bar\r\n\r\n",
    "a space in a name": b"HTTP/1.1 200 OK\r\nFoo bar: baz\r\n\r\n",
    "an empty name": b"HTTP/1.1 200 OK\r\n: baz\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nFoo: b\0r\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\nFoo: a\rSet-Cookie: x=y\r\n\r\n",
    "CR in the phrase": b"HTTP/1.1 200 O\rSet-Cookie: x=y\r\n\r\n",
    "NUL in the phrase": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "two CLs": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of CLs": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    "a signed CL": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "a negative CL": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "a huge CL": b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\nhello" % (b"9" * 5000),
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a huge line": b"HTTP/1.1 200 OK\r\nFoo: " + b"x" * 20000 + b"\r\n\r\n",
    "a huge head": b"HTTP/1.1 200 OK\r\n" + b"Foo: bar\r\n" * 20000 + b"\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"Foo: bar\r\n" * 20000,
    "a huge phrase": b"HTTP/1.1 200 " + b"O" * 20000 + b"\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 102 Wait\r\n\r\n" * 200 + OK,
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nSet-Cookie: x=y\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_answers(what: str) -> None:
    """An answer that breaks the grammar is a 502, and nothing of it passes."""
    for request in (GET, ASK, post(3) + b"abc"):
        proxied = Proxied()
        client = proxied.client(request)
        back = proxied.back.last.answer(BROKEN[what])
        if not back.is_over:
            back.close()
        expected = [102] * 100 + [502] if what == "endless 1xx" else [502]
        assert client.statuses == expected, client.received[:300]
        for piece in (b"Set-Cookie", b"Foo", b"hello", b"html>\r\n</html>\r\n\r\n"):
            assert piece not in client.received
        assert back.is_over
        # The client's connection goes on.
        client.send(GET)
        proxied.back.last.answer(OK)
        assert client.statuses == [*expected, 200]
        assert proxied.is_idle()


#: Answers that servers send, though they should not, and that have one meaning only.
FORGIVEN = {
    "no phrase": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "the same CL twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of the same": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "folded": b"HTTP/1.1 200 OK\r\nFoo: a\r\n Set-Cookie: x=y\r\nContent-Length: 5\r\n\r\nhello",
    "odd phrase": b"HTTP/1.1 200 \xe4\xf6 \t!\r\nContent-Length: 5\r\n\r\nhello",
    "a code of its own": b"HTTP/1.1 999 Mine\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("what", FORGIVEN)
def test_forgiven(what: str) -> None:
    """Such an answer passes in the right form."""
    proxied = Proxied()
    client = proxied.client(GET)
    proxied.back.last.answer(FORGIVEN[what])
    assert client.bodies == [b"hello"]
    head = client.received.partition(b"\r\n\r\n")[0]
    assert head.count(b"Content-Length: 5") == 1
    assert b"\nSet-Cookie" not in head
    assert head.count(b"\n") == head.count(b"\r\n")


def test_pipelined() -> None:
    """Requests in a row are answered in their order, one at a time, whatever becomes of each."""
    proxied = Proxied()
    other = GET.replace(b"/x", b"/y")
    client = proxied.client(GET + other + post(2) + b"hi" + ASK + b"early")
    assert len(proxied.back) == 1
    proxied.back[0].answer(OK)
    assert requests_in(proxied.back[0].received)[1:] == [(b"GET", b"/y", b"")]
    proxied.back[0].answer(b"no HTTP\r\n")
    assert proxied.back[0].is_over
    proxied.back[1].answer(OK)
    proxied.back[2].answer(SWITCH + b"hello")
    assert client.statuses == [200, 502, 200, 101]
    assert client.received.endswith(b"\r\n\r\nhello")
    assert proxied.back[2].received.endswith(b"\r\n\r\nearly")


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_head(version: bytes) -> None:
    """The answer to HEAD has no body, whatever its fields say; a 204 or 304 neither."""
    for method, code in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304), (b"HEAD", 404)):
        for framing in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""):
            proxied = Proxied()
            client = proxied.client(method + b" /u/x " + version + b"\r\n" + HOST + b"\r\n")
            proxied.back.last.answer(b"HTTP/1.1 %d Fine\r\n" % code + framing + b"\r\n")
            assert client.received.startswith(version + b" %d " % code)
            assert client.bodies == [b""]
            assert (b"Content-Length: 5" in client.received) is (
                framing.startswith(b"C") and code != 204
            )
            assert client.is_over is (version == b"HTTP/1.0")
            assert proxied.is_idle()


def test_http10_client() -> None:
    """A client of HTTP/1.0 gets no chunks and no 1xx, and its Upgrade is nothing."""
    proxied = Proxied()
    client = proxied.client(ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"pgrade: " not in proxied.back.last.received
    proxied.back.last.answer(
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    assert client.received.startswith(b"HTTP/1.0 200 ")
    assert client.bodies == [b"hello"]
    assert b"chunked" not in client.received
    assert client.is_over
