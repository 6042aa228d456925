"""
Answers that a client does not read: they are given up after the site's time-out, though the connection
is in use otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import ByHand
from tests.kit.h2client import Endless, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    GET,
    PING,
    RST_STREAM,
    RawClient,
    Unread,
    data,
    frame,
    headers,
    settings,
    window_update,
)
from tests.kit.harness import EchoTarget, Recorder

SIZE = 60_000

CANCEL = 8


def get(path: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, path if name == b":path" else value) for name, value in GET]


class Large:
    """Answers 60,000 bytes, and notes the ends of its requests."""

    def __init__(self, finishes: bool = True) -> None:
        self._finishes = finishes
        self.ends: list[Any] = []

    def __call__(self, request: Any) -> int:
        request.notifyFinish().addBoth(self.ends.append)
        request.write(b"x" * SIZE)
        if self._finishes:
            request.finish()
        return NOT_DONE_YET


def site_of(render: Any, timeout: float | None = 60) -> Any:
    upgrades = {"echo": Factory.forProtocol(EchoTarget)}
    site = h2c_site(upgrades, http2_connect=True, reactor=Clock(), timeout=timeout)
    site.resource.putChild(b"large", ByHand(render))
    return site


def resets(client: RawClient) -> dict[int, int]:
    """The streams that have been reset, and why."""
    return {f.stream: f.code for f in client.take() if f.kind == RST_STREAM}


BUSY = {
    "a tunnel": lambda number: data(1, b"hello"),
    "requests": lambda number: headers(2 * number + 1001),
    "pings": lambda number: frame(PING, 0, bytes(8)),
}


@pytest.mark.parametrize("finishes", [True, False], ids=["finished", "not finished"])
@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("closed", ["streams", "connection"])
def test_given_up(closed: str, busy: str, finishes: bool) -> None:
    """What a client takes nothing of is given up, and what holds it; all else goes on."""
    large = Large(finishes)
    client = RawClient(site_of(large))
    client.send(headers(1, CONNECT, end=False))
    if closed == "streams":
        client.send(settings(_4=0), window_update(1, 2**20))
        streams = [2 * number + 3 for number in range(50)]
    else:
        # The first takes the whole window; its own is not in the way then.
        client.send(settings(_4=2**20), headers(3, get(b"/large")), headers(5, get(b"/large")))
        streams = [2 * number + 5 for number in range(50)]
        streams = streams[1:]
    client.send(*(headers(stream, get(b"/large")) for stream in streams))
    client.take()
    for number in range(59):
        client.site.reactor.advance(1)
        client.send(BUSY[busy](number))
    assert resets(client) == {}
    for number in range(59, 80):
        client.site.reactor.advance(1)
        client.send(BUSY[busy](number))
    given_up = resets(client)
    assert set(streams) <= given_up.keys()
    assert set(given_up.values()) == {CANCEL}
    assert not client.is_over
    assert len(large.ends) >= len(streams)
    assert 1 in client.connection.streams
    client.leave()


def test_tunnel_is_not_an_answer() -> None:
    """What a tunnel's client does not read is the business of max_unsent."""
    client = RawClient(site_of(Large()))
    client.send(settings(_4=0), headers(1, CONNECT, end=False), data(1, b"hello"))
    client.send(headers(3, get(b"/large")))
    client.take()
    client.site.reactor.advance(0)
    for _ in range(200):
        client.site.reactor.advance(1)
        client.send(frame(PING, 0, bytes(8)))
    assert resets(client) == {3: CANCEL}
    client.leave()


def test_producer_is_stopped() -> None:
    """An answer that is produced without an end is given up, and its producer told."""
    endless = Endless()
    client = RawClient(site_of(endless.render))
    client.send(headers(1, CONNECT, end=False), headers(3, get(b"/large")))
    for _ in range(80):
        client.site.reactor.advance(1)
        client.send(frame(PING, 0, bytes(8)))
    assert resets(client) == {3: CANCEL}
    assert (endless.stopped, len(endless.lost)) == (1, 1)
    client.leave()


def test_slow_but_steady() -> None:
    """An answer of which a few bytes are taken now and then is not given up."""
    client = RawClient(site_of(Large()))
    client.send(settings(_4=0), headers(1, get(b"/large")))
    for _ in range(20):
        client.site.reactor.advance(14)
        client.send(window_update(1, 300))
        client.site.reactor.advance(14)
        client.send(frame(PING, 0, bytes(8)))
    taken = client.take()
    assert [f for f in taken if f.kind == RST_STREAM] == []
    assert sum(len(f.payload) for f in taken if f.kind == DATA) == 20 * 300
    client.leave()


def test_waits_for_its_turn() -> None:
    """If only the connection's window is narrow, each answer has its turn, however late that comes."""
    client = RawClient(site_of(Large()))
    streams = [2 * number + 1 for number in range(100)]
    client.send(*(headers(stream, get(b"/large")) for stream in streams))
    for _ in range(300):
        client.site.reactor.advance(10)
        client.send(window_update(0, 20_000))
    taken = client.take()
    assert [f for f in taken if f.kind == RST_STREAM] == []
    assert sum(len(f.payload) for f in taken if f.kind == DATA) == 100 * SIZE
    client.leave()


def test_slow_transport() -> None:
    """A full transport that is read slowly is not taken for one that is not read."""
    client = Unread(site_of(lambda request: b"x" * 2**17))
    client.send(settings(_4=2**20), window_update(0, 2**20), headers(1, get(b"/large")))
    assert client.connection.turns.is_full
    client.transport.offset, client.transport.dataBuffer = 0, b""
    for left in range(2000, 1000, -1):
        client.transport._tempDataLen = left
        client.site.reactor.advance(1)
    assert not client.is_over
    assert list(client.connection.streams) == [1]
    for _ in range(90):
        client.site.reactor.advance(1)
    assert client.is_over


def test_no_timeout() -> None:
    """A site without a time-out waits for ever."""
    client = RawClient(site_of(Large(), timeout=None))
    client.send(settings(_4=0), headers(1, get(b"/large")))
    client.site.reactor.advance(10_000)
    assert resets(client) == {}
    client.leave()


@pytest.mark.parametrize("path", [b"/page", b"/large"])
def test_timer_is_not_left(path: bytes) -> None:
    """When there is nothing to be answered, or the connection has ended, nobody looks any more."""
    site = site_of(Large())
    client = RawClient(site)
    before = len(site.reactor.getDelayedCalls())
    client.send(headers(1, get(path)))
    assert len(site.reactor.getDelayedCalls()) == before + 1
    client.site.reactor.advance(30)
    assert len(site.reactor.getDelayedCalls()) == before
    client.send(headers(3, get(path)))
    client.leave()
    assert site.reactor.getDelayedCalls() == []


def test_closing_tunnel_with_a_producer() -> None:
    """A stream that closes is given up also if its producer has written the last bytes since then."""
    target = Recorder()
    site = h2c_site({"echo": lambda request, token: target}, http2_connect=True, reactor=Clock())
    client = RawClient(site)
    client.send(settings(_4=0), headers(1, CONNECT, end=False))
    target.transport.registerProducer(Recorder(), True)
    target.transport.loseConnection()
    target.transport.write(b"x" * 100)
    target.transport.unregisterProducer()
    client.site.reactor.advance(0)
    for _ in range(50):
        client.site.reactor.advance(1)
    assert resets(client) == {}
    for _ in range(15):
        client.site.reactor.advance(1)
    client.wire.pump()
    assert resets(client) == {1: CANCEL}
    assert target.reason is not None
    client.leave()
