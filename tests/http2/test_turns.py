"""Whose turn it is to send, and what it costs to find that out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import ref

import pytest
from twisted.internet.task import Clock

import upgrade_switch
from tests.kit.asking import ByHand
from tests.kit.h2client import h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    GET,
    HEADERS,
    RawClient,
    Unread,
    data,
    headers,
    rst,
    settings,
    window_update,
)
from tests.kit.harness import EchoTarget, factory_of
from upgrade_switch import UpgradeResource

PACKAGE = str(Path(upgrade_switch.__file__).parent)

LARGE = tuple((name, b"/large" if name == b":path" else value) for name, value in GET)

SIZE = 60_000


def site_of_large(**kwargs: Any) -> Any:
    """A site with a page of 60,000 bytes at ``/large``."""
    site = h2c_site(http2_connect=True, reactor=Clock(), **kwargs)
    site.resource.putChild(b"large", ByHand(lambda request: b"x" * SIZE))
    return site


def test_little_by_little() -> None:
    """A window of the connection that is opened a little at a time is for all streams, in turns."""
    client = RawClient(site_of_large())
    streams = [2 * number + 1 for number in range(10)]
    client.send(*(headers(stream, LARGE) for stream in streams))
    client.take()
    for _ in streams:
        client.send(window_update(0, 1000))
    sent = [f for f in client.take() if f.kind == DATA]
    assert sorted(f.stream for f in sent) == streams
    assert [len(f.payload) for f in sent] == [1000] * 10
    client.leave()


def test_heads_need_no_window() -> None:
    """While the connection's window is closed, heads, and answers without bytes, go out at once."""
    site = site_of_large()
    site.resource.putChild(b"empty", ByHand(lambda request: b""))
    client = RawClient(site)
    client.send(*(headers(2 * number + 1, LARGE) for number in range(3)))
    client.take()
    empty = [(name, b"/empty" if name == b":path" else value) for name, value in GET]
    client.send(headers(7, LARGE), headers(9, empty))
    assert [f.stream for f in client.take() if f.kind == HEADERS] == [7, 9]
    client.send(*[window_update(0, 2**16)] * 4)
    taken = client.take()
    assert sum(len(f.payload) for f in taken if f.kind == DATA) == 4 * SIZE - 65_535
    assert {f.stream for f in taken if f.kind == DATA and f.flags & 1} == {1, 3, 5, 7}
    client.leave()


def test_one_frame_is_not_everything() -> None:
    """Whatever the size of frames that a client takes, others have their turns in between."""
    site = site_of_large()
    site.resource.putChild(b"huge", ByHand(lambda request: b"x" * 2**21))
    huge = [(name, b"/huge" if name == b":path" else value) for name, value in GET]
    client = RawClient(site)
    client.send(settings(_4=2**31 - 1, _5=2**24 - 1), window_update(0, 2**30))
    client.take()
    client.send(headers(1, huge), headers(3))
    sent = [f for f in client.take() if f.kind == DATA]
    assert max(len(f.payload) for f in sent) == 2**16
    assert [f.stream for f in sent].index(3) <= 2
    assert sum(len(f.payload) for f in sent if f.stream == 1) == 2**21
    client.leave()


def calls_of(act: Callable[[], object], ours: bool = False) -> int:
    """
    How many functions are called.

    :param ours: whether only those of the package count.
    """
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if not ours:
            count += event in ("call", "c_call")
        elif event == "call":
            count += frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("window", [0, 65_535], ids=["streams too", "connection"])
def test_cost_of_a_small_window(window: int) -> None:
    """To open the connection's window a little costs no more beside 300 streams than beside a few."""

    def cost(streams: int) -> int:
        client = Unread(site_of_large(), reads=True)
        client.send(settings(_4=window), *(headers(2 * n + 1, LARGE) for n in range(streams)))
        client.send(window_update(0, 1024))
        return calls_of(lambda: client.send(*[window_update(0, 1024)] * 20))

    assert cost(300) < cost(3) * 1.5


def test_cost_of_an_echo() -> None:
    """For some bytes to a target, and back, few functions of this package are called."""
    site = h2c_site(http2_connect=True, reactor=Clock())
    site.resource.putChild(b"u", UpgradeResource({"echo": factory_of(EchoTarget)[0]}))
    client = Unread(site, reads=True)
    client.send(headers(1, CONNECT, end=False), data(1, b"x"), data(1, b"x"))
    assert calls_of(lambda: client.connection.dataReceived(data(1, b"x")), ours=True) <= 18
    assert client.transport.value().endswith(b"x")


def test_steady_requests_let_others_through() -> None:
    """However many requests follow, an answer that waits for the connection's window gets its share."""
    client = RawClient(site_of_large())
    client.send(*(headers(stream, LARGE) for stream in (1, 3)))
    client.take()
    for number in range(200):
        client.send(headers(2 * number + 5), window_update(0, 9))
    sent: Counter[int] = Counter()
    for each in client.take():
        sent[each.stream] += len(each.payload) if each.kind == DATA else 0
    # Of 200 answers of 9 bytes, each has its turn behind those that have waited longer.
    assert sent[1] + sent[3] >= 9
    assert sum(sent.values()) == 200 * 9
    client.send(window_update(0, 2**20))
    assert {f.stream for f in client.take() if f.kind == DATA and f.flags & 1} >= {1, 3}
    client.leave()


@pytest.mark.parametrize("full", ["transport", "window"])
def test_given_up_while_nothing_can_be_sent(full: str) -> None:
    """A stream that has ended does not wait for its turn: nothing of it is kept."""
    streams: list[Any] = []

    def render(request: Any) -> bytes:
        streams.append(ref(request.channel.transport))
        return b"x" * 1000

    site = site_of_large()
    site.resource.putChild(b"noted", ByHand(render))
    noted = [(name, b"/noted" if name == b":path" else value) for name, value in GET]
    client = Unread(site, reads=full == "window")
    if full == "transport":
        client.send(settings(_4=2**20), window_update(0, 2**20))
    client.send(headers(1, LARGE), headers(3, LARGE))
    assert client.connection.turns.is_full is (full == "transport")
    assert (client.connection.windows.left > 0) is (full == "transport")
    for number in range(2, 52):
        client.send(headers(2 * number + 1, noted))
        client.send(rst(2 * number + 1))
    assert len(streams) == 50
    # The last one may still be in use.
    assert sum(each() is not None for each in streams) <= 1
    assert not client.is_over
