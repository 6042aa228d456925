"""Back ends that die, clients that leave, and what takes too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.backed import ASK, CHUNKED, GET, HOST, OK, SWITCH, Proxied, post

ENDS = ("close", "reset")

PUT = post(3, method=b"PUT")


def rested(**kwargs: Any) -> Proxied:
    """A proxy that has one connection to its back end that can be used again."""
    proxied = Proxied(**kwargs)
    proxied.client(GET)
    proxied.back[0].answer(OK)
    proxied.back[0].take()
    return proxied


# Back ends that die.


@pytest.mark.parametrize("how", ENDS)
def test_dies_before_head(how: str) -> None:
    """A back end that ends before its answer is a 502, and the client's connection stays."""
    for request in (GET, ASK, post(3) + b"abc", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"):
        for said in (b"", b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n"):
            proxied = Proxied()
            client = proxied.client(request)
            getattr(proxied.back.last.answer(said), how)()
            assert client.statuses[-1:] == [502]
            assert not client.is_over
            assert proxied.is_idle()
            assert len(proxied.back) == 1


@pytest.mark.parametrize("how", ENDS)
def test_dies_within_content(how: str) -> None:
    """A back end that ends while it gets a content is a 502; the client is read on, or closed."""
    for request in (post(9) + b"abc", CHUNKED + b"3\r\nabc\r\n"):
        proxied = Proxied()
        client = proxied.client(request)
        getattr(proxied.back.last, how)()
        assert client.statuses == [502]
        client.send((b"6\r\nGET / \r\n0\r\n\r\n" if b"chunked" in request else b"GET / ") + GET)
        proxied.back[1].answer(OK)
        assert client.statuses == [502, 200]
        assert proxied.is_idle()


@pytest.mark.parametrize("how", ENDS)
def test_dies_within_body(how: str) -> None:
    """Half an answer ends its client's connection, in a way that it does not look like the whole."""
    for framing, body, is_cut in (
        (b"Content-Length: 9\r\n", b"hello", True),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", b"9\r\nhello", True),
        (b"", b"hello", how == "reset"),
    ):
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            proxied = Proxied()
            client = proxied.client(b"GET /u/x " + version + b"\r\n" + HOST + b"\r\n" + GET)
            back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + body)
            getattr(back, how)()
            proxied.net.advance(1)
            proxied.net.pump()
            assert b"hello" in client.received
            if is_cut:
                assert client.is_over
                assert b"\r\n0\r\n\r\n" not in client.received
                is_framed = version == b"HTTP/1.1" or framing.startswith(b"C")
                assert client.wire.client.reset is not is_framed
                assert len(proxied.back) == 1
            else:
                assert client.received.endswith(b"hello" if version[-1:] == b"0" else b"0\r\n\r\n")
            assert proxied.active() == len(proxied.back) - 1


def test_dies_while_client_uploads() -> None:
    """Half of an early answer ends the client's connection though its content is still coming."""
    proxied = Proxied()
    client = proxied.client(post(10**6) + b"abc")
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    client.send(b"x" * 200_000)
    back.close()
    proxied.net.advance(10)
    assert client.is_over
    assert proxied.is_idle()


def test_slow_reader_of_half_an_answer() -> None:
    """Before its connection ends, a client gets all that has come, as slowly as it reads."""
    size = 200_000
    for framing in (b"Content-Length: %d\r\n" % (size + 1), b""):
        proxied = Proxied()
        client = proxied.client(GET.replace(b"1.1", b"1.0"))
        client.wire.client.pauseProducing()
        back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + b"x" * size)
        back.reset()
        proxied.net.advance(50)
        assert not client.is_over
        client.wire.client.resumeProducing()
        client.wire.client._read()
        client.wire.client.pauseProducing()
        proxied.net.advance(50)
        client.wire.client.resumeProducing()
        proxied.net.pump()
        proxied.net.advance(1)
        proxied.net.pump()
        assert client.received.count(b"x") > 60_000
        assert client.is_over
        assert proxied.is_idle()


# The second attempt.


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"])
def test_retried(method: bytes, how: str) -> None:
    """An idempotent request that meets a connection's end goes a second time, and no third time."""
    for request in (GET.replace(b"GET", method), post(3, method=method)):
        proxied = rested()
        client = proxied.client(request)
        assert len(proxied.back) == 1
        assert proxied.back[0].received.startswith(method)
        getattr(proxied.back[0], how)()
        assert len(proxied.back) == 2
        client.send(b"abc" if b"Length" in request else b"")
        assert proxied.back[1].received.endswith(b"abc" if b"Length" in request else b"\r\n\r\n")
        getattr(proxied.back[1], how)()
        assert client.received.startswith(b"HTTP/1.1 502")
        assert len(proxied.back) == 2
        assert proxied.is_idle()


@pytest.mark.parametrize("how", ENDS)
def test_not_retried(how: str) -> None:
    """POST goes once, and so does what has gone in part, and what is half answered."""
    for request, said in (
        (post(3), b""),
        (post(0), b""),
        (GET.replace(b"GET", b"PATCH"), b""),
        (PUT + b"a", b""),
        (PUT + b"abc", b""),
        (CHUNKED.replace(b"POST", b"PUT") + b"1\r\na\r\n", b""),
        (GET, b"H"),
        (GET, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ):
        proxied = rested()
        client = proxied.client(request)
        getattr(proxied.back[0].answer(said), how)()
        assert client.statuses[-1:] == [502]
        assert len(proxied.back) == 1
        assert proxied.active() == 0


def test_not_retried_fresh() -> None:
    """A fresh connection that ends is no reason to try again."""
    proxied = Proxied()
    client = proxied.client(GET)
    proxied.back[0].close()
    assert client.statuses == [502]
    assert len(proxied.back) == 1


def test_retry_meets_another() -> None:
    """If the back end has gone for good, the request goes to the next one."""
    proxied = rested(count=2)
    client = proxied.client(GET)
    other = proxied.places[1]
    if not len(other):
        proxied.back.is_there = False
        proxied.back[0].close()
    else:
        # It went to the other one, whose connection is fresh.
        other[0].answer(OK)
        client = proxied.client(GET)
        proxied.back.is_there = False
        proxied.back[0].close()
    other.last.answer(OK)
    assert client.statuses[-1] == 200
    assert proxied.is_idle()


# Several back ends.


def test_next_one() -> None:
    """A request whose back end refuses the connection goes to the next, with its content, whole."""
    for request in (GET, ASK, post(3) + b"abc", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"):
        proxied = Proxied(3)
        proxied.places[0].is_there = proxied.places[1].is_there = False
        client = proxied.client(request)
        back = proxied.places[2].last
        assert back.received.count(b"HTTP/1.1\r\n") == 1
        assert b"abc" in back.received or b"abc" not in request
        back.answer(SWITCH if request is ASK else OK)
        assert client.statuses == [101 if request is ASK else 200]


def test_all_down() -> None:
    """Without any back end there is a 502, after each has been asked once."""
    proxied = Proxied(3)
    for place in proxied.places:
        place.is_there = False
    for request in (GET, ASK, post(3) + b"abc"):
        before = [place.attempts for place in proxied.places]
        client = proxied.client(request)
        assert client.statuses == [502]
        after = [place.attempts for place in proxied.places]
        assert sum(after) - sum(before) <= 3
        client.send(GET)
        assert client.statuses == [502, 502]
    assert proxied.is_idle()


def test_ejected_and_back() -> None:
    """One that has refused gets nothing for a second, and then one request that tries it."""
    proxied = Proxied(2)
    bad, good = proxied.places
    bad.is_there = False
    for _ in range(6):
        client = proxied.client(GET)
        good.last.answer(OK)
        assert client.statuses == [200]
    assert bad.attempts == 1
    bad.is_there = True
    proxied.net.advance(1.1)
    clients = [proxied.client(GET) for _ in range(4)]
    assert len(bad) == 1
    bad.last.answer(OK)
    assert sum(client.statuses == [200] for client in clients) == 1
    assert proxied.proxy.back_ends[0].state == "up"


def test_other_back_ends() -> None:
    """The back ends may be changed while requests are on their way."""
    proxied = Proxied(2)
    first = proxied.client(GET)
    place = proxied.back if len(proxied.back) else proxied.places[1]
    other = proxied.places[1] if place is proxied.back else proxied.back
    url = proxied.urls[proxied.places.index(other)]
    proxied.proxy.back_ends = [url]
    for _ in range(3):
        second = proxied.client(GET)
        other.last.answer(OK)
        assert second.statuses == [200]
    place.last.answer(OK)
    assert first.statuses == [200]
    assert len(place) == 1
    assert proxied.is_idle()


def test_sticky() -> None:
    """A cookie that a back end sets keeps its client there, also for an upgrade."""
    proxied = Proxied(3, sticky="sid")
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=s%d; Path=/\r\nContent-Length: 0\r\n\r\n"
    homes = {}
    for number in range(6):
        proxied.client(GET)
        homes[number], back = proxied.asked()
        back.answer(cookie % number)
    for number, home in homes.items():
        for request in (GET, ASK):
            field = HOST + b"Cookie: a=b; sid=s%d\r\n" % number
            client = proxied.client(request.replace(HOST, field))
            asked, back = proxied.asked()
            assert asked is home
            back.answer(SWITCH if request is ASK else OK)
            client.wire.client.abortConnection()
            proxied.net.pump()


def test_sticky_address_behind_a_proxy() -> None:
    """Whom a trusted proxy asks for stays at one back end; what anybody else says moves nobody."""
    for trusted in ([], ["127.0.0.1"]):
        proxied = Proxied(2, sticky="address", trusted=trusted)
        homes = []
        for number in (*range(20), *range(20)):
            field = HOST + b"X-Forwarded-For: 6.6.6.%d, 192.0.2.%d\r\n" % (len(homes), number)
            proxied.client(GET.replace(HOST, field))
            home, back = proxied.asked()
            back.answer(OK)
            homes.append(proxied.places.index(home))
        assert homes[:20] == homes[20:]
        assert set(homes) == ({0, 1} if trusted else {homes[0]})


# Clients that leave.


def leave(client: Any, how: str) -> None:
    if how == "close":
        client.wire.client.loseConnection()
    else:
        client.wire.client.abortConnection()
    client.wire.pump()


@pytest.mark.parametrize("how", ENDS)
def test_leaves_while_connecting(how: str) -> None:
    """A client that leaves while its back end is being connected has that cancelled."""
    for request in (GET, ASK, post(9) + b"abc"):
        proxied = Proxied()
        proxied.back.is_silent = True
        client = proxied.client(request)
        assert proxied.active() == 1
        leave(client, how)
        assert proxied.back.cancelled == 1
        assert proxied.is_idle()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (GET, b""),
        (ASK, b""),
        (post(9) + b"abc", b""),
        (CHUNKED + b"3\r\nabc\r\n", b""),
        (GET, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
        (GET, b"HTTP/1.1 200 OK\r\n\r\nhello"),
        (post(9) + b"abc", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
        (ASK, b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nhello"),
        (post(9, b"Connection: Upgrade\r\nUpgrade: echo\r\n") + b"abc", SWITCH),
        (post(9, b"Expect: 100-continue\r\n"), b""),
    ],
)
def test_leaves(request_: bytes, said: bytes, how: str) -> None:
    """A client that leaves in any state ends the back end's connection, and nothing is left of it."""
    proxied = Proxied()
    client = proxied.client(request_)
    back = proxied.back.last.answer(said)
    assert proxied.active() == 1
    leave(client, how)
    assert back.is_over
    assert proxied.is_idle()
    # The next client's answer is its own.
    client = proxied.client(GET)
    proxied.back.last.answer(OK)
    assert client.bodies == [b"hello"]
    proxied.net.advance(100)
    assert proxied.is_idle()


# What takes too long.


def test_connect_timeout() -> None:
    """A back end that does not answer the connection in connect_timeout seconds is a 504."""
    proxied = Proxied(connect_timeout=7)
    proxied.back.is_silent = True
    client = proxied.client(GET)
    proxied.net.advance(6.9)
    assert client.statuses == []
    proxied.net.advance(0.2)
    proxied.net.pump()
    assert client.statuses == [504]
    assert proxied.is_idle()


def test_connect_timeout_next() -> None:
    """If there is another back end, it gets the request then."""
    proxied = Proxied(2, connect_timeout=7)
    proxied.back.is_silent = True
    client = proxied.client(GET)
    proxied.net.advance(7.1)
    proxied.net.pump()
    proxied.places[1].last.answer(OK)
    assert client.statuses == [200]


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        ASK,
        post(3) + b"abc",
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
        post(9, b"Expect: 100-continue\r\n"),
    ],
)
def test_response_timeout(request_: bytes) -> None:
    """A back end that gives no answer in response_timeout seconds is a 504; an interim one counts."""
    proxied = Proxied(response_timeout=30)
    client = proxied.client(request_)
    proxied.net.advance(31)
    proxied.net.pump()
    assert client.statuses == [504]
    client = proxied.client(request_)
    proxied.net.advance(29)
    proxied.back.last.answer(b"HTTP/1.1 102 Wait\r\n\r\n")
    proxied.net.advance(29)
    assert client.statuses == [102]
    proxied.net.advance(2)
    proxied.net.pump()
    assert client.statuses == [102, 504]
    assert proxied.back.last.is_over
    assert proxied.is_idle()


def test_no_response_timeout() -> None:
    """Zero means any time."""
    proxied = Proxied(response_timeout=0, idle_timeout=0)
    client = proxied.client(GET)
    proxied.net.advance(10**6)
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    proxied.net.advance(10**6)
    proxied.back.last.answer(b"hello")
    assert client.bodies == [b"hello"]


def test_slow_content_is_no_timeout() -> None:
    """While a client's content comes, no time passes for the back end, which has nothing to answer."""
    proxied = Proxied(response_timeout=3, idle_timeout=3)
    for request, part in ((post(20_000), b"x" * 2000), (CHUNKED, b"7d0\r\n" + b"x" * 2000 + b"\r\n")):
        client = proxied.client(request)
        for _ in range(10):
            proxied.net.advance(20)
            client.send(part)
        client.send(b"0\r\n\r\n" if request is CHUNKED else b"")
        proxied.back.last.answer(OK)
        assert client.statuses == [200]


def test_idle_timeout() -> None:
    """An answer whose next part does not come in idle_timeout seconds is cut off."""
    for framing in (b"Content-Length: 9\r\n", b""):
        proxied = Proxied(idle_timeout=30)
        client = proxied.client(GET)
        back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        for _ in range(3):
            proxied.net.advance(29)
            back.answer(b"x")
        proxied.net.advance(31)
        proxied.net.pump()
        assert back.is_over
        assert client.is_over
        assert not client.received.endswith(b"0\r\n\r\n")
        assert proxied.is_idle()
        assert proxied.proxy.back_ends[0].errors == 1


def test_paused_client_is_not_idle() -> None:
    """A client that does not read is not the back end's silence."""
    proxied = Proxied(idle_timeout=30)
    client = proxied.client(GET)
    client.wire.client.pauseProducing()
    size = 10**6
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    back.answer(b"x" * size)
    proxied.net.advance(50)
    assert not back.is_over
    client.wire.client.resumeProducing()
    proxied.net.pump()
    assert client.bodies[0] == b"x" * size
    assert proxied.is_idle()


def test_stalled_upload() -> None:
    """A back end that takes none of a content for idle_timeout seconds is a 504."""
    proxied = Proxied(idle_timeout=30)
    size = 10**6
    client = proxied.client(post(size) + b"x" * 1000)
    back = proxied.back.last
    back.wire.server.pauseProducing()
    client.send(b"x" * (size - 1000))
    proxied.net.advance(29)
    assert client.statuses == []
    proxied.net.advance(2)
    proxied.net.pump()
    assert client.statuses == [504]
    assert back.is_over
    proxied.net.advance(60)
    assert proxied.is_idle()


def test_slow_upload() -> None:
    """A back end that takes a content slowly, but goes on, is not idle."""
    proxied = Proxied(idle_timeout=30, response_timeout=30)
    size = 10**6
    client = proxied.client(post(size) + b"x" * 1000)
    back = proxied.back.last
    back.wire.server.pauseProducing()
    client.send(b"x" * (size - 1000))
    proxied.net.cut = 1000
    while len(back.received) < size:
        # Some, and no more.
        taken = len(back.received)
        back.wire.server.resumeProducing()
        while len(back.received) < taken + 20_000 and back.wire.server._read():
            pass
        back.wire.server.pauseProducing()
        proxied.net.advance(20)
        if client.statuses:
            break
    back.wire.server.resumeProducing()
    back.answer(OK)
    assert client.statuses == [200]


def test_early_answer_of_long_upload() -> None:
    """An answer that has begun early may wait for its content as long as that goes on."""
    proxied = Proxied(idle_timeout=30)
    client = proxied.client(post(100_000) + b"x" * 1000)
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    for _ in range(99):
        proxied.net.advance(10)
        client.send(b"x" * 1000)
    back.answer(b"hello")
    assert client.bodies == [b"hello"]


@pytest.mark.parametrize("make", [lambda: GET, lambda: ASK])
def test_switched_may_be_idle(make: Callable[[], bytes]) -> None:
    """What has switched has no time-out, and what rests none but the pool's."""
    proxied = Proxied()
    client = proxied.client(make())
    back = proxied.back.last.answer(SWITCH if make() is ASK else OK)
    proxied.net.advance(10**5)
    if make() is ASK:
        client.send(b"still here")
        assert back.received.endswith(b"still here")
        leave(client, "reset")
    assert proxied.is_idle()
