"""
What a stranger may have the server do at little cost: each flood is ended with ENHANCE_YOUR_CALM,
whether the client reads or not, and holds little memory. Honest heavy use is not cut.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from tests.kit.asking import ByHand
from tests.kit.h2client import frame, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    RawClient,
    Unread,
    block,
    data,
    headers,
    rst,
    settings,
    window_update,
)
from tests.kit.harness import EchoTarget

CALM = ErrorCodes.ENHANCE_YOUR_CALM

#: Bytes that a flood may have the server hold, all of its objects with them.
MOST_HELD = 2**20

BAD = [field for field in GET if field[0] != b":path"]
SHORT = [*POST, (b"content-length", b"1")]


def once(first: bytes, each: bytes) -> Callable[[int], bytes]:
    """Frames behind a first one."""
    return lambda number: each if number else first + each


def connects(more: Callable[[int], bytes], end: bool = False) -> Callable[[int], bytes]:
    """Streams that wait for a decision, and what comes on each of them then."""
    return lambda number: headers(2 * number + 1, CONNECT, end=end) + more(2 * number + 1)


#: What comes again and again; and how many of them may come in one piece.
FLOODS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "SETTINGS": (lambda number: settings(_4=65535), 100),
    "PING": (lambda number: frame(PING, 0, bytes(8)), 100),
    "unknown frames": (lambda number: frame(0x20, 0, b""), 100),
    "rapid reset": (lambda number: headers(2 * number + 1) + rst(2 * number + 1), 100),
    "rapid reset of CONNECT": (connects(rst), 1),
    "empty DATA": (once(headers(1, POST, end=False), data(1)), 100),
    "padding alone": (once(headers(1, POST, end=False), frame(DATA, 1, b"\0", PADDED)), 100),
    "empty CONTINUATION": (
        once(frame(HEADERS, 1, block(GET), END_STREAM), frame(CONTINUATION, 1, b"")),
        100,
    ),
    "CONTINUATION": (
        once(frame(HEADERS, 1, block(GET), END_STREAM), frame(CONTINUATION, 1, b"x" * 100)),
        100,
    ),
    "windows of one byte": (once(settings(_4=1) + headers(1), window_update(1, 1)), 100),
    "small windows of the connection": (once(settings(_4=0) + headers(1), window_update(0, 1)), 100),
    # What this side resets (CVE-2025-8671).
    "malformed requests": (lambda number: headers(2 * number + 1, BAD), 100),
    "malformed requests, one by one": (lambda number: headers(2 * number + 1, BAD), 1),
    "wrong lengths": (
        lambda number: headers(2 * number + 1, SHORT, end=False) + data(2 * number + 1, b"xx"),
        1,
    ),
    "DATA behind the end": (connects(lambda stream: data(stream, b"x"), end=True), 1),
    "windows too large": (connects(lambda stream: window_update(stream, 2**31 - 1)), 1),
    "windows of nothing": (connects(lambda stream: window_update(stream, 0)), 1),
    "windows of nothing, behind the end": (once(headers(1), window_update(1, 0)), 1),
    "PRIORITY of no size": (connects(lambda stream: frame(PRIORITY, stream, b"")), 1),
    "trailers in a tunnel": (connects(lambda stream: headers(stream, [(b"a", b"b")])), 1),
    "DATA on a stream that was reset": (once(headers(1, BAD, end=False), data(1, b"x")), 100),
    "DATA on a stream that was answered": (once(headers(1), data(1, b"x")), 1),
    "HEADERS on a stream that was reset": (once(headers(1, BAD, end=False), headers(1)), 100),
}


def site_of_waiting(asked: list[Any] | None = None, **kwargs: Any) -> Any:
    """A site whose acceptor at ``/u`` never decides."""

    def accept(request: Any, token: Any) -> Deferred[Any]:
        if asked is not None:
            asked.append(request)
        return Deferred()

    kwargs.setdefault("reactor", Clock())
    return h2c_site({"echo": accept}, http2_connect=True, **kwargs)


def ended(kind: str, reads: bool) -> Unread:
    """A client whose flood has been ended."""
    each, at_once = FLOODS[kind]
    client = Unread(site_of_waiting(), reads)
    number = 0
    while not client.is_over:
        client.send(*map(each, range(number, number + at_once)))
        number += at_once
        assert number < 2000
    return client


@pytest.mark.parametrize("kind", FLOODS)
def test_flood(kind: str) -> None:
    """A flood is ended after some thousand frames, and logs nothing."""
    assert ended(kind, reads=True).code == CALM


@pytest.mark.parametrize("kind", ["SETTINGS", "PING", "rapid reset", "malformed requests"])
def test_unread_flood(kind: str) -> None:
    """By the end, a flood of a client that does not read holds little memory."""
    tracemalloc.start()
    try:
        client = ended(kind, reads=False)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert client.code == CALM
    assert held < MOST_HELD
    assert client.unread < 2**17


def test_flood_in_time() -> None:
    """A client that never reads cannot have answers wait without an end, however slowly it asks."""
    client = Unread(site_of_waiting(timeout=None))
    client.send(headers(1, CONNECT, end=False))
    for _ in range(10_000):
        if client.is_over:
            break
        client.send(frame(PING, 0, bytes(8)))
        client.site.reactor.advance(1)
    assert client.code == CALM
    assert client.unread < 2**18


@pytest.mark.parametrize(
    "bomb",
    [
        # A field of 4,000 bytes that goes into the table, and 20,000 times comes out of it.
        frame(
            HEADERS,
            1,
            block(GET) + b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 12_000,
            END_HEADERS | END_STREAM,
        ),
        frame(HEADERS, 1, block(GET), END_STREAM)
        + b"".join(frame(CONTINUATION, 1, b"\0\x01x\x7f\x81\x7c" + b"v" * 16_000) for _ in range(5)),
    ],
    ids=["from the table", "long"],
)
def test_header_bomb(bomb: bytes) -> None:
    """A head that is too large ends the connection before it takes memory."""
    client = Unread(site_of_waiting())
    tracemalloc.start()
    try:
        client.send(bomb)
        _held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert client.code == CALM
    assert peak < 2**21


def test_unread_answers() -> None:
    """Of requests whose answers nobody reads, as many are answered as there may be streams."""
    rendered: list[Any] = []

    def render(request: Any) -> bytes:
        rendered.append(request)
        return b"x" * 1000

    client = Unread(site_of_waiting())
    client.site.resource.putChild(b"large", ByHand(render))
    fields = [(name, b"/large" if name == b":path" else value) for name, value in GET]
    number = 0
    while not client.is_over and number < 5000:
        client.send(headers(2 * number + 1, fields))
        number += 1
    assert client.is_over
    # What the transport took before it was full, and one for each stream.
    assert len(rendered) < 320 + 2**17 // 1000
    assert client.unread < 2**17


def test_small_pieces_that_wait() -> None:
    """A window that is filled byte by byte takes little more memory than its bytes."""
    client = Unread(site_of_waiting())
    client.send(headers(1, CONNECT, end=False))
    pieces = data(1, b"x") * 1000
    tracemalloc.start()
    try:
        for _ in range(20):
            client.send(pieces)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not client.is_over
    assert held < 5 * 20_000


def test_ended_streams_are_forgotten() -> None:
    """A long connection takes no memory for the streams that it has had."""
    client = Unread(site_of_waiting(), reads=True)
    for number in range(0, 2000, 100):
        client.send(*(headers(2 * n + 1) for n in range(number, number + 100)))
    assert not client.is_over
    assert len(client.connection.machine._closed_streams) <= 1024
    assert client.connection.streams == {}


# Honest use.


def test_resets_of_an_honest_client() -> None:
    """200 requests that are given up at once, as by a browser whose tab is closed, are no flood."""
    asked: list[Any] = []
    client = RawClient(site_of_waiting(asked))
    client.send(*(headers(2 * number + 1, CONNECT, end=False) for number in range(200)))
    assert len(asked) == 200
    client.send(*(rst(2 * number + 1) for number in range(200)))
    client.send(headers(401))
    assert [f.stream for f in client.take() if f.kind == DATA] == [401]
    client.leave()


def test_reset_behind_the_request() -> None:
    """For a request that is reset in the same segment, nobody is asked."""
    asked: list[Any] = []
    client = Unread(site_of_waiting(asked))
    client.send(*(headers(2 * n + 1, CONNECT, end=False) + rst(2 * n + 1) for n in range(200)))
    assert asked == []
    assert not client.is_over


def test_small_messages() -> None:
    """10,000 messages that are acknowledged one by one, on both windows, come back."""
    echo = Factory.forProtocol(EchoTarget)
    client = RawClient(h2c_site({"echo": echo}, http2_connect=True, reactor=Clock()))
    client.send(headers(1, CONNECT, end=False))
    for _ in range(10_000):
        client.send(data(1, b"hello"), window_update(1, 5), window_update(0, 5))
    assert not client.is_over
    assert sum(len(f.payload) for f in client.take() if f.kind == DATA) == 50_000
    client.leave()


def test_pings() -> None:
    """1,000 pings over a minute are answered."""
    client = RawClient(site_of_waiting(timeout=None, accept_timeout=None))
    client.send(headers(1, CONNECT, end=False))
    for _ in range(1000):
        client.send(frame(PING, 0, bytes(8)))
        client.site.reactor.advance(0.06)
    assert [f.kind for f in client.take()] == [PING] * 1000
    assert not client.is_over
    client.leave()


def test_large_content_that_is_not_wanted() -> None:
    """What is on its way of a content that has been refused costs nothing."""
    client = RawClient(site_of_waiting())
    for number in range(30):
        client.send(headers(2 * number + 1, SHORT, end=False))
        client.send(*[data(2 * number + 1, b"x" * 2**14)] * 3)
    client.send(headers(401))
    assert [f.stream for f in client.take() if f.kind == DATA] == [401]
    client.leave()
