"""
How HTTP/2 connections end: badly, silently, by the client; nothing is
left of them: no entry, no timer, no open file, no object.
"""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from tests.kit.asking import ByHand
from tests.kit.h2client import (
    GOAWAY_FRAME,
    LARGE,
    PLAIN_KINDS,
    PREFACE,
    WAYS,
    WIDE,
    H2Client,
    Pulled,
    StillClock,
    client_by,
    connection_of,
    frames,
    h2c_head,
    h2c_site,
    is_empty,
    kind_of,
    site_with,
    unread,
)
from tests.kit.harness import Recorder, eventually, no_collector, turns
from upgrade_switch import _twisted

#: More than the kernel takes for a client that does not read.
MUCH = LARGE * 32

LENGTH = b"Content-Length: %d\r\n" % len(LARGE)

#: A frame's head: length, type, flags, stream.
BAD_FRAMES = {
    "frame too large": b"\0\x40\1\0\0\0\0\0\1" + bytes(2**14 + 1),
    "settings of five bytes": b"\0\0\5\4\0\0\0\0\0hello",
    "bad setting": b"\0\0\6\4\0\0\0\0\0\0\2\0\0\0\7",
    "data on stream 0": b"\0\0\1\0\0\0\0\0\0x",
    "data on an idle stream": b"\0\0\1\0\0\0\0\0\x63x",
    "headers on an even stream": b"\0\0\1\1\5\0\0\0\2\x82",
    "headers that are no HPACK": b"\0\0\3\1\5\0\0\0\x63\xff\xff\xff",
    "window of 0": b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
    "window that overflows": b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff",
    "continuation of nothing": b"\0\0\1\x09\4\0\0\0\x63x",
    "push from a client": b"\0\0\5\5\4\0\0\0\1\0\0\0\2\x82",
    "ping of one byte": b"\0\0\1\6\0\0\0\0\0x",
}


class Held(ByHand):
    """Answers nothing, and keeps what its requests had."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.contents: list[Any] = []
        self.ended: list[Any] = []

    def _hold(self, request: Any) -> int:
        self.contents.append(request.content)
        request.notifyFinish().addErrback(self.ended.append)
        return NOT_DONE_YET


def timers(site: Any) -> list[Any]:
    """
    The timers of a site, less those of connections that are still there: some other program may look
    for its server on the port where this site listens now.
    """
    owners = [(call, getattr(call.func, "__self__", None)) for call in site.reactor.getDelayedCalls()]
    return [
        call
        for call, owner in owners
        if call.active() and not getattr(getattr(owner, "transport", None), "connected", False)
    ]


async def is_over(listening: Any, before: int | None = None) -> None:
    """Nothing is left of the connections to a site."""
    site = listening.site
    await is_empty(listening)
    await turns()
    if before is not None:
        left = timers(site)
        assert len(left) == before, left


async def start(listen: Any, kind: str = "tcp", resource: Any = None) -> tuple[Any, int]:
    """A listening site whose time stands still, and how many timers it has."""
    site = site_with(resource or Held(), reactor=StillClock())
    listening = await listen(kind, site)
    return listening, len(timers(site))


@pytest.mark.parametrize("name", BAD_FRAMES)
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_broken_frames(listen: Any, way: str, name: str) -> None:
    """A client that breaks the rules gets a GOAWAY, and the connection is closed."""
    listening, before = await start(listen, kind_of(way))
    client = await client_by(way, listening)
    client.received.clear()
    client.send(BAD_FRAMES[name])
    await client.is_lost()
    assert GOAWAY_FRAME in [kind for kind, _ in frames(client.received)]
    await is_over(listening, before)


@pytest.mark.parametrize("begun", [b"", PREFACE[:5], PREFACE[:-1]])
@pytest.mark.parametrize("broken", [b"\0" * 30, b"GET /page HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x"])
@pytest_twisted.ensureDeferred
async def test_no_preface(listen: Any, begun: bytes, broken: bytes) -> None:
    """Who does not go on with the preface behind the 101 is cut off."""
    listening, before = await start(listen)
    client = await listening.connect(Recorder())
    client.send(h2c_head() + begun + broken)
    await client.is_lost()
    await is_over(listening, before)


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_headers_without_a_path(listen: Any, way: str) -> None:
    """Fields that break a rule cost their stream, not the connection (RFC 9113 §8.1.1)."""
    listening, _ = await start(listen, kind_of(way))
    client = await client_by(way, listening)
    client.connection.send_headers(0x63, [(b":method", b"GET"), (b":scheme", b"http")], end_stream=True)
    client.flush()
    await client.until(lambda: client.broken)
    assert [(event.stream_id, event.error_code) for event in client.broken] == [(0x63, 1)]
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200


@pytest.mark.parametrize("error", [0, 1])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_goaway(listen: Any, way: str, error: int) -> None:
    """The GOAWAY of a client that waits for nothing ends the connection."""
    listening, before = await start(listen, kind_of(way))
    client = await client_by(way, listening)
    client.leave(error)
    await client.is_lost()
    await is_over(listening, before)


@pytest.mark.parametrize("error", [0, 1])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_goaway_with_requests(listen: Any, way: str, error: int) -> None:
    """Behind a client's GOAWAY its requests are answered; the connection ends with the last of them."""
    waiting: list[Any] = []

    def wait(request: Any) -> int:
        waiting.append(request)
        return NOT_DONE_YET

    listening, before = await start(listen, kind_of(way), ByHand(wait))
    client = await client_by(way, listening)
    streams = [client.begin_request(b"/r", b"POST", LARGE[:1000]), client.begin_request(b"/r")]
    assert (await client.ask(b"/page"))[0] == 200
    client.say_goodbye(error)
    for stream, request in zip(streams, waiting, strict=True):
        await turns(3)
        assert not client.lost
        request.write(b"late")
        request.finish()
        await client.until(lambda stream=stream: stream in client.ended)
        assert client.body_of(stream) == b"late"
    await client.is_lost()
    await is_over(listening, before)


@pytest.mark.parametrize("large", [False, True])
@pytest_twisted.ensureDeferred
async def test_reset_of_stream_1(listen: Any, large: bool) -> None:
    """A client may reset stream 1: the request ends, the connection goes on."""
    held = Held()
    listening, _ = await start(listen, resource=held)
    client = await listening.connect(H2Client())
    body = LARGE if large else b"body"
    client.send(client.asking(body, method=b"POST", path=b"/r"))
    await client.until(lambda: client.head)
    client.connection.reset_stream(1)
    assert (await client.ask(b"/page"))[2] == b"page GET "
    assert len(held.ended) == 1
    assert held.contents[0].closed


@pytest_twisted.ensureDeferred
async def test_reset_in_the_middle_of_an_answer(listen: Any) -> None:
    """A client may reset stream 1 while its answer is on the way."""
    listening, _ = await start(listen, resource=ByHand(lambda _: LARGE))
    client = await listening.connect(H2Client())
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: len(client.body_of(1)) == 65_535)
    client.opens_windows = True
    client.connection.reset_stream(1)
    client.connection.increment_flow_control_window(65_535)
    assert (await client.ask(b"/page"))[2] == b"page GET "
    assert (await client.ask(b"/r"))[2] == LARGE


@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_client_disappears_before_its_preface(listen: Any, kind: str, how: str) -> None:
    """A client may leave behind its request, whose content is closed."""
    held = Held()
    listening, before = await start(listen, kind, held)
    client = await listening.connect(Recorder())
    client.send(h2c_head(path=b"/r", method=b"POST", fields=LENGTH) + LARGE)
    await client.head()
    await turns()
    client.transport.abortConnection() if how == "abort" else client.transport.loseConnection()
    await client.is_lost()
    await is_over(listening, before)
    (content,) = held.contents
    assert content.closed
    assert len(held.ended) == 1


@pytest.mark.parametrize("opens", [False, True], ids=["window", "socket"])
@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_client_disappears_in_the_middle(listen: Any, kind: str, opens: bool) -> None:
    """A client may leave in the middle of an answer that waits for its window, or for its socket."""
    listening, before = await start(listen, kind, ByHand(lambda _: MUCH))
    client = await listening.connect(H2Client(settings=WIDE if opens else None))
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    if opens:
        client.connection.increment_flow_control_window(2**30)
        client.flush()
    await client.until(lambda: client.body_of(1))
    client.transport.pauseProducing()
    await turns(40)
    assert len(client.body_of(1)) < len(MUCH)
    client.transport.abortConnection()
    await client.is_lost()
    await is_over(listening, before)


@pytest_twisted.ensureDeferred
async def test_upload_that_is_not_finished(listen: Any) -> None:
    """A client may leave in the middle of a request, whose content is closed."""
    listening, before = await start(listen)
    make, requests = listening.site.requestFactory, []

    def remember(*args: Any, **kwargs: Any) -> Any:
        requests.append(make(*args, **kwargs))
        return requests[-1]

    listening.site.requestFactory = remember
    client = await client_by("upgrade", listening)
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/r"), (b":authority", b"a")]
    client.connection.send_headers(stream, [*fields, (b"content-length", b"1000000")])
    client.connection.send_data(stream, b"x" * 1000)
    client.flush()
    assert (await client.ask(b"/page"))[0] == 200
    (content,) = [request.content for request in requests if not request.finished]
    requests.clear()
    client.transport.abortConnection()
    await client.is_lost()
    await is_over(listening, before)
    assert content.closed


# Time.


@pytest.mark.parametrize("way", [*WAYS, "silent"])
@pytest_twisted.ensureDeferred
async def test_idle(listen: Any, way: str) -> None:
    """A silent connection gets a GOAWAY and is closed after the site's idle time-out, not before."""
    listening, before = await start(listen, kind_of(way))
    if way == "silent":
        client: Any = await listening.connect(H2Client())
        client.holds = True
        await client.upgrade()
    else:
        client = await client_by(way, listening)
        # Behind its answer, the server has nothing more to say to what began the connection.
        assert (await client.ask(b"/page"))[0] == 200
    await turns()
    client.received.clear()
    clock = listening.site.reactor
    clock.advance(59)
    await turns()
    assert not client.lost
    clock.advance(2)
    await client.is_lost()
    assert [kind for kind, _ in frames(client.received)] == [GOAWAY_FRAME]
    await is_over(listening, before)


@pytest_twisted.ensureDeferred
async def test_site_without_a_timeout(listen: Any) -> None:
    """A site without an idle time-out ends no connection for being idle."""
    clock = StillClock()
    listening = await listen("tcp", h2c_site(reactor=clock, timeout=None))
    before = len(clock.getDelayedCalls())
    client = await client_by("upgrade", listening)
    assert len(clock.getDelayedCalls()) == before
    clock.advance(10_000)
    assert (await client.ask(b"/page"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_requests_keep_it_alive(listen: Any) -> None:
    """Each request begins the idle time-out anew."""
    listening, _ = await start(listen)
    client = await client_by("upgrade", listening)
    for _ in range(5):
        listening.site.reactor.advance(50)
        assert (await client.ask(b"/page"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_goodbye_of_tls_while_full(listen: Any) -> None:
    """A client that ends TLS while its server cannot send is not kept once everything has been sent."""
    listening = await listen("tls", site_with(Pulled(MUCH)))
    client, connection = await unread("alpn", listening)
    client.transport.loseConnection()
    await eventually(lambda: _twisted.bottom(connection.transport).disconnecting)
    client.transport.resumeProducing()
    await is_empty(listening)


# Objects.


ENDS = ["close", "abort", "goaway", "broken", "middle", "idle", "paused"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, way: str, end: str) -> None:
    """Protocol and requests are freed by reference counting alone, however the connection ends."""
    listening, before = await start(listen, kind_of(way), Data(MUCH, "text/plain"))
    wide = WIDE if end == "paused" else None
    client = await client_by(way, listening, settings=wide)
    protocol = ref(connection_of(listening))
    with no_collector():
        await make_end(client, end, listening)
        await client.is_lost()
        await is_over(listening, before)
        # What Twisted has scheduled for its next turns refers to the connection.
        await turns(5)
        assert protocol() is None, gc.get_referrers(protocol())
        assert [r() for r in listening.site.requests if r() is not None] == []


async def make_end(client: Any, end: str, listening: Any) -> None:
    """Have a connection end in one of several ways."""
    if end == "close":
        client.transport.loseConnection()
    elif end == "abort":
        client.transport.abortConnection()
    elif end == "goaway":
        client.leave()
    elif end == "broken":
        client.send(BAD_FRAMES["data on stream 0"])
    elif end == "idle":
        listening.site.reactor.advance(61)
    else:
        client.opens_windows = False
        if end == "paused":
            client.connection.increment_flow_control_window(2**30)
        stream = client.begin_request(b"/r")
        await client.until(lambda: client.body_of(stream))
        client.transport.pauseProducing()
        await turns(40)
        client.transport.abortConnection()
