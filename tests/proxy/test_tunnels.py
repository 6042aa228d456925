"""No tunnel without a 101 that was asked for, and no byte lost on either side of one."""

from __future__ import annotations

import pytest

from tests.kit.backed import ASK, GET, HOST, OK, SWITCH, Proxied, post

SECOND = b"GET /u/second HTTP/1.1\r\n" + HOST + b"\r\n"

#: What a back end may say to an upgrade, and what is not a 101 to what was asked for.
WRONG = {
    "plain GET's": b"HTTP/1.1 101 Go\r\n\r\n",
    "no Connection": b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\n\r\n",
    "another Connection": b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: close\r\n\r\n",
    "no Upgrade": b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\n\r\n",
    "another token": b"HTTP/1.1 101 Go\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
    "h2c": b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "the second": b"HTTP/1.1 101 Go\r\nUpgrade: chat, echo\r\nConnection: Upgrade\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 101 Go\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    "two digits": b"HTTP/1.1 10 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    "four digits": b"HTTP/1.1 1010 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    "two spaces": b"HTTP/1.1  101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    "a tab": b"HTTP/1.1\t101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_101(what: str) -> None:
    """
    A 101 that breaks a rule is a 502, both connections of that request end or stay HTTP, and what comes
    behind goes nowhere.
    """
    for request in (ASK, GET):
        proxied = Proxied()
        client = proxied.client(request)
        proxied.back.last.answer(WRONG[what] + b"SECRET")
        assert client.statuses == [502], client.received
        assert proxied.back.last.is_over
        # The client's is HTTP, and goes somewhere else.
        client.send(SECOND)
        assert len(proxied.back) == 2
        proxied.back.last.answer(OK)
        assert client.statuses == [502, 200]
        assert b"SECRET" not in client.received
        assert b"second" not in proxied.back[0].received
        assert proxied.is_idle()


def test_lenient_101() -> None:
    """With lenient=True only the missing Connection is forgiven, and the answer is a 101 with one."""
    for what, answer in WRONG.items():
        proxied = Proxied(lenient=True)
        client = proxied.client(ASK)
        proxied.back.last.answer(answer + b"early")
        is_switched = what in ("no Connection", "another Connection")
        assert client.statuses == [101 if is_switched else 502], what
        assert client.received.endswith(b"Connection: Upgrade\r\n\r\nearly") is is_switched
        client = proxied.client(GET)
        proxied.back.last.answer(answer)
        assert client.statuses == [502]


@pytest.mark.parametrize("code", [200, 201, 204, 205, 206, 304, 400, 401, 403, 404, 500, 503])
def test_declined(code: int) -> None:
    """
    Any other answer passes with its body, and both connections stay HTTP: the back end's is closed,
    and what the client sends next is a request of its own.
    """
    proxied = Proxied()
    client = proxied.client(ASK + SECOND)
    has_body = code not in (204, 304)
    body = b"Content-Length: 2\r\n\r\nno" if has_body else b"\r\n"
    proxied.back[0].answer(b"HTTP/1.1 %d Fine\r\nUpgrade: echo\r\n" % code + body)
    assert proxied.back[0].is_over
    assert b"second" not in proxied.back[0].received
    assert b"GET /second HTTP/1.1" in proxied.back[1].received
    proxied.back[1].answer(OK)
    assert client.statuses == [code, 200]
    if has_body:
        assert b"\r\n\r\nnoHTTP/1.1 200" in client.received
    assert proxied.is_idle()


def test_declined_without_length() -> None:
    """An answer to an upgrade that ends where its connection does is no tunnel (CVE-2019-17567)."""
    proxied = Proxied()
    client = proxied.client(ASK)
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n\r\nbody")
    sent = proxied.back.last.take()
    client.send(b"GET /u/admin HTTP/1.1\r\n" + HOST + b"\r\n")
    assert proxied.back.last.take() == b""
    assert sent.count(b"HTTP/1.1\r\n") == 1
    proxied.back.last.close()
    assert b"admin" in proxied.back.last.received
    assert len(proxied.back) == 2


def test_upgrade_with_content() -> None:
    """
    An upgrade with a content goes over a connection of its own, and only what is behind the content
    belongs to the new protocol.
    """
    for framed in (
        b"Content-Length: 7\r\n\r\ncontent",
        b"Transfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\ncon\r\n4\r\ntent\r\n0\r\nTrailer: x\r\n\r\n",
    ):
        head = b"POST /u/x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: echo\r\n"
        for split in range(len(head), len(head + framed) + 5):
            proxied = Proxied()
            # There is a connection that could be used again.
            client = proxied.client(GET)
            proxied.back.last.answer(OK)
            data = head + framed + b"early"
            client.send(data[:split])
            client.send(data[split:])
            assert len(proxied.back) == 2
            assert b"early" not in proxied.back[1].received
            proxied.back[1].answer(SWITCH + b"hello")
            client.send(b"late")
            assert client.statuses == [200, 101]
            assert client.received.endswith(b"\r\n\r\nhello")
            body = proxied.back[1].received.partition(b"\r\n\r\n")[2]
            assert body.endswith(b"earlylate")
            body = body[: -len(b"earlylate")]
            if b"chunked" in framed:
                assert b"".join(body.split(b"\r\n")[1::2]) == b"content"
                assert body.endswith(b"0\r\n\r\n")
            else:
                assert body == b"content"


def test_101_before_content() -> None:
    """A 101 that comes before the content has been sent switches behind the content."""
    proxied = Proxied()
    head = b"POST /u/x HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: echo\r\n"
    client = proxied.client(head + b"Content-Length: 7\r\n\r\ncon")
    proxied.back.last.answer(SWITCH + b"hello")
    assert client.received == b""
    client.send(b"tentearly")
    assert client.statuses == [101]
    assert client.received.endswith(b"\r\n\r\nhello")
    assert proxied.back.last.received.endswith(b"contentearly")


def test_splits() -> None:
    """
     Wherever the bytes are cut, each side gets what is behind the other's head, once and in order
    .
    """
    for split in range(len(ASK) + 6):
        proxied = Proxied()
        data = ASK + b"early"
        client = proxied.client()
        client.send(data[:split])
        client.send(data[split:])
        proxied.back.last.take()
        proxied.back.last.answer(SWITCH + b"hello")
        client.send(b"late")
        assert proxied.back.last.received == b"earlylate", split
        assert client.received.endswith(b"\r\n\r\nhello"), split
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SWITCH + b"hello"
    for split in range(len(answer) + 1):
        proxied = Proxied()
        client = proxied.client(ASK + b"early")
        proxied.back.last.take()
        proxied.back.last.answer(answer[:split], answer[split:])
        proxied.back.last.answer(b", again")
        assert client.received.endswith(b"\r\n\r\nhello, again"), split
        assert client.statuses == [103, 101]
        assert proxied.back.last.received == b"early"


def test_one_byte_at_a_time() -> None:
    """The same if every byte comes alone, on both connections."""
    proxied = Proxied()
    proxied.net.cut = 1
    client = proxied.client(ASK + b"early", cut=1)
    proxied.back.last.take()
    proxied.back.last.answer(SWITCH + b"hello")
    assert client.received.endswith(b"\r\n\r\nhello")
    assert proxied.back.last.received == b"early"


def test_many_early_bytes() -> None:
    """A client that sends much before the answer is paused, and nothing of it is lost."""
    proxied = Proxied()
    many = bytes(range(256)) * 4000
    client = proxied.client(ASK)
    client.send(many)
    proxied.back.last.take()
    proxied.back.last.answer(SWITCH)
    proxied.net.pump()
    assert proxied.back.last.received == many


def test_end_behind_101() -> None:
    """A back end that ends right behind its 101 has its bytes delivered, and then its end."""
    for end in ("close", "reset"):
        for with_head in (True, False):
            proxied = Proxied()
            client = proxied.client(ASK)
            back = proxied.back.last
            back.answer(SWITCH) if not with_head else None
            back.wire.server.write((SWITCH if with_head else b"") + b"bye")
            if end == "close":
                back.close()
            else:
                back.wire.pump()
                back.reset()
            proxied.net.pump()
            proxied.net.advance(1)
            proxied.net.pump()
            assert client.received.endswith(b"\r\n\r\nbye"), (end, with_head)
            if end == "reset":
                assert client.is_over
            else:
                assert client.half_closed or client.is_over
                client.wire.client.loseConnection()
                proxied.net.pump()
            assert proxied.is_idle(), (end, with_head)


def test_half_close() -> None:
    """The end of one direction is passed on, and the other goes on."""
    proxied = Proxied()
    client = proxied.client(ASK)
    back = proxied.back.last.answer(SWITCH)
    client.wire.client.loseWriteConnection()
    proxied.net.pump()
    assert back.half_closed
    back.answer(b"still here")
    assert client.received.endswith(b"still here")
    back.close()
    proxied.net.pump()
    assert client.lost
    assert proxied.is_idle()
    client = proxied.client(ASK)
    back = proxied.back.last.answer(SWITCH)
    back.wire.server.loseWriteConnection()
    proxied.net.pump()
    assert client.half_closed
    client.send(b"still here")
    assert back.received.endswith(b"still here")
    client.wire.client.loseConnection()
    proxied.net.pump()
    assert back.lost
    assert proxied.is_idle()


@pytest.mark.parametrize(
    "request_", [ASK, post(7, b"Connection: Upgrade\r\nUpgrade: echo\r\n") + b"content"]
)
def test_half_close_before_101(request_: bytes) -> None:
    """A client may send all it has to say, and its half-close behind it, before there is a 101."""
    for early in (b"early", bytes(range(256)) * 400):
        # The end comes before there is a connection to the back end; or before its answer.
        for is_late in (False, True):
            proxied = Proxied()
            client = proxied.client(request_ if is_late else b"")
            if not is_late:
                client.wire.client.write(request_)
            client.wire.client.write(early)
            client.wire.client.loseWriteConnection()
            client.wire.pump()
            proxied.net.pump()
            back = proxied.back.last
            assert not back.is_over
            back.take()
            back.answer(SWITCH)
            proxied.net.pump()
            assert back.received == early
            assert back.half_closed
            back.answer(b"answer")
            assert client.received.endswith(b"\r\n\r\nanswer")
            back.close()
            proxied.net.pump()
            assert client.lost
            assert proxied.is_idle()


@pytest.mark.parametrize("code", [200, 426, 502])
def test_half_close_before_refusal(code: int) -> None:
    """If the answer is no 101, the client gets it, and its connection ends behind it."""
    proxied = Proxied()
    # What is no HTTP may come behind the request.
    client = proxied.client(ASK + b"early")
    client.wire.client.loseWriteConnection()
    client.wire.pump()
    back = proxied.back.last
    if code == 502:
        back.close()
    else:
        head = b"HTTP/1.1 %d Fine\r\nUpgrade: echo\r\nContent-Length: 100000\r\n\r\n" % code
        back.answer(head, bytes(100_000))
    proxied.net.pump()
    assert client.statuses == [code]
    assert b"\r\nConnection: close\r\n" in client.received
    if code != 502:
        assert client.received.endswith(b"\r\n\r\n" + bytes(100_000))
    assert client.lost
    assert len(proxied.back) == 1
    assert proxied.is_idle()


def test_half_close_of_the_next_request() -> None:
    """Behind an upgrade that was refused, the half-close of a plain request is an end."""
    proxied = Proxied()
    client = proxied.client(ASK)
    proxied.back.last.answer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    client.send(GET * 2)
    assert len(proxied.back) == 2
    client.wire.client.loseWriteConnection()
    proxied.net.pump()
    assert client.lost
    assert proxied.back.last.is_over
    assert proxied.is_idle()


def test_half_close_within_content() -> None:
    """An upgrade whose content is cut off is over: the back end must not take it for a whole one."""
    proxied = Proxied()
    client = proxied.client(post(7, b"Connection: Upgrade\r\nUpgrade: echo\r\n") + b"con")
    client.wire.client.loseWriteConnection()
    client.wire.pump()
    proxied.net.pump()
    assert client.lost
    assert proxied.back.last.is_over
    assert proxied.is_idle()


@pytest.mark.parametrize("how", ["reset", "time-out"])
def test_half_closed_client_that_leaves(how: str) -> None:
    """A client that has left behind its half-close leaves nothing behind."""
    proxied = Proxied()
    client = proxied.client(ASK + b"early")
    client.wire.client.loseWriteConnection()
    client.wire.pump()
    back = proxied.back.last
    if how == "reset":
        client.wire.client.abortConnection()
        client.wire.pump()
        back.answer(SWITCH)
    else:
        proxied.net.advance(60)
        client.wire.pump()
        assert client.statuses == [504]
    proxied.net.pump()
    proxied.net.advance(1)
    proxied.net.pump()
    assert back.is_over
    assert proxied.is_idle()


def test_framing_of_101() -> None:
    """Content-Length and Transfer-Encoding on a 101 mean nothing, and do not pass."""
    for framing in (
        b"Content-Length: 0\r\n",
        b"Content-Length: 9\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ):
        proxied = Proxied()
        client = proxied.client(ASK)
        proxied.back.last.answer(SWITCH[:-2] + framing + b"\r\nhello")
        assert client.statuses == [101]
        assert client.received.endswith(b"Connection: Upgrade\r\n\r\nhello")
        assert b"Content-Length" not in client.received
        assert b"Transfer-Encoding" not in client.received


@pytest.mark.parametrize(
    "connection", [b"X-Forwarded-For", b"x_forwarded_for, Host, Via, Content-Length"]
)
def test_connection_names_ours(connection: bytes) -> None:
    """What the proxy says itself cannot be taken off by Connection (CVE-2021-32813, CVE-2024-45410)."""
    proxied = Proxied()
    fields = (
        b"Connection: close, %b\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n"
        % connection
    )
    proxied.client(b"POST /u/x HTTP/1.1\r\n" + HOST + fields + b"Content-Length: 2\r\n\r\nhi")
    sent = proxied.back.last.received
    assert b"\r\nX-Forwarded-For: 127.0.0.1\r\n" in sent
    assert b"6.6.6.6" not in sent
    assert b"\r\nHost: localhost\r\n" in sent
    assert b"\r\nVia: 1.1 " in sent
    assert b"\r\nContent-Length: 2\r\n" in sent
    assert b"Connection" not in sent


@pytest.mark.parametrize(
    ("fields", "code", "upgrade"),
    [
        (b"Upgrade: echo\r\nConnection: Upgrade\r\nContent-Length: 0\r\n", 426, b"echo"),
        (b"Upgrade: h2c, echo\r\nContent-Length: 4\r\n", 426, b"echo"),
        (b"Upgrade: h2c\r\nContent-Length: 0\r\n", 502, None),
        (b"Content-Length: 0\r\n", 502, None),
    ],
)
def test_426(fields: bytes, code: int, upgrade: bytes | None) -> None:
    """A 426 passes with the tokens that are passed on, and is a 502 only without any."""
    for request in (GET, ASK, ASK.replace(b"echo", b"h2c")):
        proxied = Proxied()
        client = proxied.client(request)
        proxied.back.last.answer(b"HTTP/1.1 426 Upgrade Required\r\n" + fields + b"\r\nbody")
        assert client.statuses == [code]
        if upgrade is not None:
            assert b"\r\nUpgrade: %b\r\n" % upgrade in client.received
            assert client.received.count(b"Upgrade: ") == 1
            assert b"\r\nConnection: Upgrade\r\n" in client.received
        assert not client.is_over


def test_426_on_last_request() -> None:
    """A 426 to a request that says close says so, too, beside its Upgrade."""
    proxied = Proxied()
    client = proxied.client(GET.replace(HOST, HOST + b"Connection: close\r\n"))
    fields = b"Upgrade: echo\r\nConnection: Upgrade\r\nContent-Length: 0\r\n"
    proxied.back.last.answer(b"HTTP/1.1 426 Upgrade Required\r\n" + fields + b"\r\n")
    head = client.received.lower()
    assert b"connection: close\r\n" in head
    assert b"connection: upgrade\r\n" in head
    assert client.is_over


@pytest.mark.parametrize("token", [b"h2c", b"TLS/1.2", b"h2,h2c", b"foo/9", b"??,,", b""])
def test_unusable_offer(token: bytes) -> None:
    """An offer that is not passed on is left out, and the request goes on."""
    proxied = Proxied()
    client = proxied.client(
        b"POST /u/x HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA\r\nUpgrade: "
        + token
        + b"\r\nContent-Length: 2\r\n\r\nhi"
    )
    sent = proxied.back.last.received
    assert b"pgrade: " not in sent
    assert b"HTTP2" not in sent
    assert sent.endswith(b"\r\n\r\nhi")
    proxied.back.last.answer(OK)
    assert client.statuses == [200]
