"""How much of a content may be on its way, and what that costs others."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.kit.asking import ByHand
from tests.kit.h2client import h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    POST,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    data,
    headers,
    rst,
)
from tests.kit.harness import Recorder, factory_of
from upgrade_switch.http2.machine import CONNECTION_WINDOW, STREAM_WINDOW, WIDE_WINDOW

PIECE = bytes(range(256)) * 64


def count(request: Any) -> bytes:
    return b"%d" % len(request.content.read())


def client_of(**upgrades: Any) -> RawClient:
    site = h2c_site(upgrades, http2_connect=True, reactor=Clock())
    site.resource.putChild(b"count", ByHand(count))
    return RawClient(site)


def post(*more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, b"/count" if name == b":path" else value) for name, value in POST] + list(more)


def opened(client: RawClient, stream: int) -> int:
    """By how much the window of a stream has been opened."""
    found = [f for f in client.take() if f.kind == WINDOW_UPDATE and f.stream == stream]
    return sum(int.from_bytes(f.payload, "big") for f in found)


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_where_it_is_kept(size: int) -> None:
    """A small content is kept in memory, and a large one in a file; trailers are dropped."""
    seen: list[Any] = []

    def render(request: Any) -> bytes:
        seen.append((isinstance(request.content, BytesIO), request.getHeader(b"x-sum")))
        return count(request)

    client = client_of()
    client.site.resource.putChild(b"count", ByHand(render))
    client.send(headers(1, post((b"content-length", b"%d" % size)), end=False))
    client.send(*(data(1, bytes(size // 100)) for _ in range(100)), headers(1, [(b"x-sum", b"1")]))
    assert seen == [(size == 1000, None)]
    assert b"".join(f.payload for f in client.take() if f.kind == DATA) == b"%d" % size
    client.leave()


@pytest.mark.parametrize("length", [True, False])
def test_round_trips(length: bool) -> None:
    """An upload needs a round trip for each MiB; with the window that streams begin with, 16."""
    client = client_of()
    size = 8 * WIDE_WINDOW
    fields = post((b"content-length", b"%d" % size)) if length else post()
    client.send(headers(1, fields, end=False))
    window, left, trips = STREAM_WINDOW + opened(client, 1), size, 0
    while left:
        trips += 1
        now = min(window, left)
        left, window = left - now, window - now
        pieces = [PIECE[: min(len(PIECE), now - at)] for at in range(0, now, len(PIECE))]
        # What is sent before anything is heard of it.
        client.send(*(data(1, piece) for piece in pieces), data(1, end=True) if not left else b"")
        if left:
            window += opened(client, 1)
    assert trips <= 9
    (answer,) = (f.payload for f in client.take() if f.kind == DATA)
    assert answer == b"%d" % size
    client.leave()


@pytest.mark.parametrize("size", [0, 1, STREAM_WINDOW])
def test_small_content(size: int) -> None:
    """A content that fits into the window is not worth a frame."""
    client = client_of()
    client.send(headers(1, post((b"content-length", b"%d" % size)), end=False))
    assert opened(client, 1) == 0
    client.leave()


def test_target_that_never_read() -> None:
    """What a target may leave unread is a window, unless it has kept pace before."""
    factory, targets = factory_of(Recorder)
    client = client_of(echo=factory)
    client.send(headers(1, CONNECT, end=False))
    targets[0].transport.pauseProducing()
    client.send(*[data(1, PIECE)] * 3, data(1, PIECE[:-1]))
    assert (opened(client, 1), client.is_over) == (0, False)
    client.send(data(1, b"x"))
    assert client.is_over


def test_tunnels_that_carry_much() -> None:
    """Four of the streams that carry much may send ahead; when one of them ends, another one may."""
    factory, targets = factory_of(Recorder)
    client = client_of(echo=factory)
    streams = range(1, 13, 2)
    client.send(*(headers(stream, CONNECT, end=False) for stream in streams))
    client.take()
    for stream in streams:
        client.send(data(stream, PIECE))
    more = WIDE_WINDOW - STREAM_WINDOW
    wide = {f.stream for f in client.take() if f.payload == more.to_bytes(4, "big")}
    assert wide == {1, 3, 5, 7}
    client.send(rst(3), data(1, PIECE), data(11, PIECE), data(9, PIECE))
    wide = {f.stream for f in client.take() if f.payload == more.to_bytes(4, "big")}
    assert wide == {11}
    # A target that stops leaves as much as it was promised, and no byte more.
    targets[0].transport.pauseProducing()
    room = client.connection.streams[1].room
    client.send(*[data(1, PIECE)] * (room // len(PIECE)), data(1, PIECE[: room % len(PIECE)]))
    assert not client.is_over
    assert len(client.connection.streams[1]._held) == room <= WIDE_WINDOW
    client.send(data(1, b"x"))
    assert client.is_over


def test_small_messages_take_no_place() -> None:
    """A stream with small messages, however many, leaves its place to others."""
    factory, _targets = factory_of(Recorder)
    client = client_of(echo=factory)
    client.send(headers(1, CONNECT, end=False))
    client.take()
    client.send(*[data(1, b"x" * 1000)] * 500)
    assert opened(client, 1) <= 500 * 1000
    client.leave()


def test_window_for_all() -> None:
    """Streams with all that they may keep waiting leave room for each other."""
    factory, targets = factory_of(Recorder)
    client = client_of(echo=factory)
    streams = range(1, 641, 2)
    client.send(*(headers(stream, CONNECT, end=False) for stream in streams))
    for stream in range(1, 9, 2):
        client.send(data(stream, PIECE))
    for target in targets:
        target.transport.pauseProducing()
    client.take()
    held = 0
    for stream in streams:
        room = client.connection.streams[stream].room
        client.send(*[data(stream, PIECE)] * (room // len(PIECE)), data(stream, PIECE[: room % 2**14]))
        held += room
    assert not client.is_over
    assert 320 * STREAM_WINDOW + 3 * WIDE_WINDOW < held <= CONNECTION_WINDOW
    assert CONNECTION_WINDOW < 24 * 2**20 + 2**17
    client.leave()


def test_too_much() -> None:
    """More than the window allows ends the connection, as ever."""
    client = client_of()
    client.send(headers(1, post(), end=False))
    client.connection.streams[1].room = 10
    client.send(data(1, b"x" * 11))
    assert client.is_over


def test_many_uploads() -> None:
    """As many uploads as there may be streams leave nothing waiting: each takes what it is sent."""
    client = client_of()
    streams = range(1, 641, 2)
    client.send(*(headers(stream, post(), end=False) for stream in streams))
    client.take()
    used = 0
    for _ in range(2):
        client.send(*(data(stream, PIECE) for stream in streams))
        used += len(streams) * len(PIECE) - opened(client, 0)
    assert used < CONNECTION_WINDOW // 2
    assert all(stream._held_size == 0 for stream in client.connection.streams.values())
    client.send(*(data(stream, end=True) for stream in streams))
    taken = client.take()
    assert {f.stream for f in taken if f.kind == DATA} == set(streams)
    assert [f for f in taken if f.kind == RST_STREAM] == []
    client.leave()
