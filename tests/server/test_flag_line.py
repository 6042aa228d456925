"""
The flag line: a preface that is a whole line, between two requests of a connection.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.asking import (
    PAGE,
    Accepting,
    ByHand,
    Deciding,
    Slow,
    client_of,
    echoes,
    echoes_after,
    is_http,
)
from tests.kit.harness import KINDS, EchoTarget, Page, factory_of, site_of, status, upgrade_head
from tests.kit.prefaced import (
    FLAG,
    HTTP2,
    REST,
    accepted,
    channel_is_gone,
    eventually,
    every_kind,
    leave,
    no_collector,
    prefaced,
    receiver,
    send_in,
    splits,
    timers,
)
from upgrade_switch import UpgradeResource

#: Could be a request's first line, and is a flag line.
LIKE_HTTP = b"GET /page HTTP/1.1\r\n"

POST = b"POST /page HTTP/1.1\r\nHost: localhost\r\n"
WITH_LENGTH = POST + b"Content-Length: 14\r\n\r\n" + FLAG * 2
CHUNKED = (
    POST + b"Transfer-Encoding: chunked\r\n\r\n7\r\n" + FLAG + b"\r\n7\r\n" + FLAG + b"\r\n0\r\n\r\n"
)
ANSWERS = {
    PAGE: b"page GET ",
    WITH_LENGTH: b"page POST " + FLAG * 2,
    CHUNKED: b"page POST " + FLAG * 2,
}

FRONTS = {
    "GET": [PAGE],
    "GET line by line": [PAGE.replace(b"localhost\r\n", b"localhost\r\nContent-Length: 0\r\n")],
    "length": [WITH_LENGTH],
    "chunks": [CHUNKED],
    "several": [PAGE, WITH_LENGTH, PAGE, PAGE, CHUNKED],
}


#: On each kind of connection: the first request alone, and several with a blank line behind them. What
#: else is in front is HTTP's, whose bytes are the same from wherever they come.
FRONTS_OF_KINDS = [
    *(
        (kind, front, blank)
        for kind in ("tcp", "memory")
        for front in FRONTS
        for blank in (b"", b"\r\n")
    ),
    *((kind, "GET", b"") for kind in ("tls", "unix", "proxy")),
    *((kind, "several", b"\r\n") for kind in ("tls", "unix", "proxy")),
]


@pytest.mark.parametrize(("kind", "front", "blank"), FRONTS_OF_KINDS)
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str, front: str, blank: bytes) -> None:
    """
    Wherever requests, a blank line behind them, a flag line and what follows it are cut, the requests
    are answered first and the target gets flag line and rest, once and in order.
    """
    listening, targets = await prefaced(listen, kind, FLAG)
    before = b"".join(FRONTS[front]) + blank
    for pieces in splits(before + FLAG + REST):
        targets.clear()
        client = await client_of(listening)
        await send_in(client, pieces, targets, len(before))
        for request in FRONTS[front]:
            head, body = await client.response()
            assert status(head) == 200
            assert body == ANSWERS.get(request, b"page GET ")
        await client.receives(FLAG + REST)
        (target,) = targets
        assert client.data == target.data == FLAG + REST, pieces
        assert receiver(target) is target
        await leave(client, target)


@every_kind
@pytest_twisted.ensureDeferred
async def test_alone(listen: Any, kind: str) -> None:
    """
    A flag line that comes when everything is answered, wherever it is cut, needs nothing behind it.
    """
    listening, targets = await prefaced(listen, kind, FLAG, b"SSH-2.0-")
    for pieces in splits(FLAG):
        targets.clear()
        client = await client_of(listening)
        await is_http(client)
        await is_http(client)
        await send_in(client, pieces, targets)
        await echoes_after(client, FLAG)
        assert targets[0].data.startswith(FLAG)
        await leave(client, targets[0])


@every_kind
@pytest_twisted.ensureDeferred
async def test_like_http(listen: Any, kind: str) -> None:
    """
    A flag line that looks like a request's first line is one also behind requests in one segment, and
    where what follows it looks like the rest of a request.
    """
    factory, targets = factory_of(EchoTarget)
    flag = b"GET /raw HTTP/1.1\r\n"
    listening = await listen(kind, site_of(Resource(), prefaces={flag: factory}))
    data = flag + b"Host: localhost\r\n\r\n" + PAGE
    for pieces in splits(PAGE * 2 + data):
        targets.clear()
        client = await client_of(listening)
        await send_in(client, pieces, targets, 2 * len(PAGE))
        for _ in range(2):
            assert (await client.response())[1] == b"page GET "
        await client.receives(data)
        assert client.data == targets[0].data == data
        await leave(client, targets[0])


@every_kind
@pytest_twisted.ensureDeferred
async def test_each_to_its_own(listen: Any, kind: str) -> None:
    """Of several flag lines each leads to its factory, one that begins like another too."""
    made = {flag: factory_of(EchoTarget) for flag in (FLAG, b"HELLO 2\r\n", b"HELL", b"BYE\r\n")}
    prefaces = {flag: factory for flag, (factory, _) in made.items()}
    listening = await listen(kind, site_of(Resource(), prefaces=prefaces))
    for flag in (FLAG, b"HELLO 2\r\n", b"BYE\r\n"):
        client = await client_of(listening)
        await is_http(client)
        client.send(flag + REST)
        await client.receives(flag + REST)
        (target,) = made[flag][1]
        assert target.data == client.data == flag + REST
    assert made[b"HELL"][1] == []


# Behind answers that are still to come.


@every_kind
@pytest_twisted.ensureDeferred
async def test_behind_pending_answers(listen: Any, kind: str) -> None:
    """A flag line behind requests waits until all of them are answered, with what follows it."""
    slow = Slow()
    factory, targets = factory_of(EchoTarget)
    site = site_of(slow, b"slow", prefaces={FLAG: factory})
    client = await client_of(await listen(kind, site))
    stream = PAGE.replace(b"page", b"slow") * 2 + FLAG + REST
    client.send(stream)
    await site.has_received(len(stream))
    for _ in range(2):
        assert len(slow.waiting) == 1
        assert targets == []
        slow.answer()
        assert (await client.response())[1] == b"slow"
    await echoes_after(client, FLAG + REST)
    assert targets[0].data.startswith(FLAG + REST)
    assert site.lines == [(200, b"/slow")] * 2


@every_kind
@pytest_twisted.ensureDeferred
async def test_much_behind_a_pending_answer(listen: Any, kind: str) -> None:
    """Also more than is read while a request is being answered arrives, flag line first."""
    slow = Slow()
    factory, targets = factory_of(EchoTarget)
    site = site_of(slow, b"slow", prefaces={FLAG: factory})
    client = await client_of(await listen(kind, site))
    much = bytes(range(256)) * 1000
    client.send(PAGE.replace(b"page", b"slow") + FLAG + much)
    await site.until(lambda: site.received > 20_000)
    assert targets == []
    slow.answer()
    assert (await client.response())[1] == b"slow"
    await client.until(lambda: client.amount >= len(FLAG + much))
    assert client.data == FLAG + much
    client.data = b""
    await echoes(client)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_answer_in_front_that_nobody_reads(listen: Any, kind: str) -> None:
    """Behind an answer that the client has not read yet, the target is read nevertheless."""
    large = b"x" * 5_000_000
    factory, targets = factory_of(EchoTarget)
    site = site_of(ByHand(lambda request: large), b"large", prefaces={FLAG: factory})
    client = await client_of(await listen(kind, site))
    await is_http(client)  # and TLS's handshake is over
    client.transport.pauseProducing()
    client.send(PAGE.replace(b"page", b"large") + FLAG + REST)
    await eventually(lambda: bool(targets))
    await targets[0].receives(FLAG + REST)
    client.send(b"more")
    await targets[0].receives(FLAG + REST + b"more")
    assert client.data == b""
    client.transport.resumeProducing()
    assert (await client.response())[1] == large
    await echoes_after(client, FLAG + REST + b"more")


@every_kind
@pytest_twisted.ensureDeferred
async def test_behind_a_refused_upgrade(listen: Any, kind: str) -> None:
    """Behind an upgrade that is declined, at last, a flag line is one; behind a switch it is data."""
    factory, targets = factory_of(EchoTarget)
    deciding = Deciding()
    upgrades = UpgradeResource({"echo": deciding, "chat": Accepting()})
    listening = await listen(kind, site_of(upgrades, prefaces={FLAG: factory}))
    client = await client_of(listening)
    client.send(upgrade_head() + FLAG + REST)
    await deciding.is_asked()
    assert targets == []
    deciding.decisions[0].callback(Page())
    assert (await client.response())[1] == b"page GET "
    await echoes_after(client, FLAG + REST)
    assert len(targets) == 1
    other = await client_of(listening)
    other.send(upgrade_head(b"chat") + FLAG + REST)
    assert status(await other.head()) == 101
    await echoes_after(other, FLAG + REST)
    assert len(targets) == 1


# Where it is none.


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_inside_a_request(listen: Any, kind: str) -> None:
    """A line inside a head, a body or a trailer is not a flag line, wherever it is cut."""
    flag = b"X-Flag: 1\r\n"
    listening, targets = await prefaced(listen, kind, flag, LIKE_HTTP)
    chunks = b"Transfer-Encoding: chunked\r\n"
    requests = [
        b"GET /page? HTTP/1.1\r\n" + flag + b"Host: localhost\r\n" + flag + b"\r\n",
        POST + flag + b"Content-Length: 11\r\n\r\n" + flag,
        POST + flag + b"Content-Length: 20\r\n\r\n" + LIKE_HTTP,
        POST + chunks + b"\r\nb\r\n" + flag + b"\r\n0\r\n" + flag + b"\r\n",
    ]
    bodies = [b"GET ", b"POST " + flag, b"POST " + LIKE_HTTP, b"POST " + flag]
    for pieces in splits(b"".join(requests)):
        client = await client_of(listening)
        await send_in(client, pieces, targets)
        for body in bodies:
            head, got = await client.response()
            assert (status(head), got) == (200, b"page " + body)
        await leave(client)
    assert targets == []


@pytest.mark.parametrize(
    "line",
    [b"HELLO there\r\n", b" HELLO\r\n", b"HELLO \r\n", b"hello\r\n", b"HELL\r\n", b"SSH-2.0-x\r\n"],
)
@every_kind
@pytest_twisted.ensureDeferred
async def test_another_line(listen: Any, kind: str, line: bytes) -> None:
    """Another line is what it always was, and so is one that begins with a preface that is no line."""
    listening, targets = await prefaced(listen, kind, FLAG, b"SSH-2.0-", b"HELLO there\r\nand\r\n")
    client = await client_of(listening)
    await is_http(client)
    client.send(line + b"\r\n")
    await client.is_lost()
    assert client.data == b"HTTP/1.1 400 Bad Request\r\n\r\n"
    assert targets == []


@pytest.mark.parametrize("preface", [HTTP2, LIKE_HTTP + b"Host: localhost\r\n", b"GET /page"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_no_whole_line(listen: Any, kind: str, preface: bytes) -> None:
    """A preface of several lines, or of a part of one, is looked for at the beginning alone."""
    listening, targets = await prefaced(listen, kind, preface)
    web = await client_of(listening)
    web.send(PAGE.replace(b"GET", b"HEAD"))
    assert status(await web.head()) == 200
    if preface == HTTP2:
        web.send(preface)
        await web.head()
    else:
        await is_http(web)
    assert targets == []
    other = await client_of(listening)
    await echoes(other, preface)
    assert len(targets) == 1


@pytest.mark.parametrize("last", ["close", "1.0", "400", "lost"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_closing(listen: Any, kind: str, last: str) -> None:
    """Behind the last answer on a connection nothing is looked at any more."""
    request = {
        "close": PAGE.replace(b"localhost\r\n", b"localhost\r\nConnection: keep, close\r\n"),
        "1.0": PAGE.replace(b"1.1", b"1.0"),
        "400": b"nonsense\r\n\r\n",
        "lost": PAGE.replace(b"page", b"lost"),
    }[last]
    factory, targets = factory_of(EchoTarget)

    def render(request: Any) -> bytes:
        request.loseConnection()
        return b"lost"

    site = site_of(ByHand(render), b"lost", prefaces={FLAG: factory})
    listening = await listen(kind, site)
    for pieces in ([PAGE + request + FLAG + REST], [PAGE, request + FLAG + REST]):
        client = await client_of(listening)
        await send_in(client, pieces, targets)
        await client.is_lost()
        # What is written to TLS that is being closed does not go out.
        assert client.data.count(b"HTTP/1.") == (1 if (kind, last) == ("tls", "lost") else 2)
        assert FLAG not in client.data
    assert targets == []


@every_kind
@pytest_twisted.ensureDeferred
async def test_closing_behind_a_pending_answer(listen: Any, kind: str) -> None:
    """A flag line behind a pending request that is the last one is not looked at, either."""
    slow = Slow()
    factory, targets = factory_of(EchoTarget)
    site = site_of(slow, b"slow", prefaces={FLAG: factory})
    client = await client_of(await listen(kind, site))
    stream = b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" + FLAG + REST
    client.send(stream)
    await site.has_received(len(stream))
    slow.answer()
    assert (await client.response())[1] == b"slow"
    await client.is_lost()
    assert (client.data, targets) == (b"", [])


# What is left of HTTP.


@every_kind
@pytest_twisted.ensureDeferred
async def test_timer(listen: Any, kind: str) -> None:
    """The idle timer runs while half a flag line is here, and is off when it is whole."""
    with no_collector():
        clock = Clock()
        listening, targets = await prefaced(listen, kind, FLAG, reactor=clock, timeout=60)
        client = await accepted(listening)
        await send_in(client, [PAGE, FLAG[:3]], targets)
        await client.response()
        # That of an idle connection, and that of a head, which it may become.
        assert len(timers(clock)) == 2
        clock.advance(59)
        await send_in(client, [FLAG[3:] + REST], targets)
        await client.receives(FLAG + REST)
        assert timers(clock) == []
        clock.advance(3600)
        await echoes_after(client, FLAG + REST)
        assert channel_is_gone(listening.site)
        other = await accepted(listening)
        await send_in(other, [PAGE, FLAG[:3]], [])
        clock.advance(60)
        await other.is_lost()
        assert len(targets) == 1


@every_kind
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, kind: str) -> None:
    """Behind an answer that came late, too, reference counting alone frees channel and requests."""
    with no_collector():
        slow = Slow()
        clock = Clock()
        factory, targets = factory_of(EchoTarget)
        site = site_of(slow, b"slow", prefaces={FLAG: factory}, reactor=clock)
        client = await client_of(await listen(kind, site))
        stream = PAGE + PAGE.replace(b"page", b"slow") + FLAG + REST
        client.send(stream)
        await site.has_received(len(stream))
        slow.answer()
        for _ in range(2):
            await client.response()
        await echoes_after(client, FLAG + REST)
        assert timers(clock) == []
        assert channel_is_gone(site)
        assert [weak() for weak in site.requests] == [None, None]
        assert receiver(targets[0]) is targets[0]
