"""Clients that ask, and then take nothing of the answer."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from twisted.internet.error import ConnectionDone

from tests.kit.backed import CHUNKED, GET, OK, Proxied
from tests.kit.backed_live import PAIRS, Timed
from tests.kit.farside import Collector
from tests.kit.h2client import client_by
from tests.kit.harness import eventually, turns
from upgrade_switch import _twisted
from upgrade_switch.sending import STUCK_AFTER, remaining

SIZE = 10**7

FRAMINGS = (b"Content-Length: %d\r\n" % SIZE, b"Transfer-Encoding: chunked\r\n", b"")


def answer_of(framing: bytes) -> bytes:
    """Such an answer, whole but for its end."""
    chunk = b"%x\r\n" % SIZE if b"chunked" in framing else b""
    return b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + chunk + b"x" * (SIZE - 1)


def given_up(lines: list[Any]) -> list[str]:
    """What the log says of clients that have been given up."""
    texts = [event["log_format"].format(**event) for event in lines]
    return [text for text in texts if "its client has taken nothing for 60 seconds" in text]


@pytest.mark.parametrize("framing", FRAMINGS, ids=["length", "chunked", "close"])
@pytest.mark.parametrize("request_", [GET, GET.replace(b"1.1", b"1.0")], ids=["1.1", "1.0"])
def test_given_up(framing: bytes, request_: bytes, lines: list[Any]) -> None:
    """
    A client that takes nothing for a minute is reset, and its back end has the connection no longer;
    the log and the access log have a line about that, and it is not the back end's error.
    """
    proxied = Proxied()
    client = proxied.client(request_)
    client.wire.client.pauseProducing()
    back = proxied.back.last.answer(answer_of(framing))
    # What is on its way is taken.
    proxied.net.advance(1)
    proxied.net.advance(STUCK_AFTER - 1)
    assert not back.is_over
    assert not client.is_over
    assert not lines
    proxied.net.advance(2)
    proxied.net.pump()
    assert back.is_over
    assert client.wire.client.reset
    assert proxied.is_idle()
    assert proxied.proxy.back_ends[0].errors == 0
    assert proxied.proxy.back_ends[0].state == "up"
    assert len(given_up(lines)) == len(lines) == 1
    assert proxied.site.lines == [(200, b"/u/x")]
    proxied.site.stopFactory()
    assert not proxied.net.getDelayedCalls()


def test_pipelined() -> None:
    """It does not matter which of several answers it is that is not taken."""
    proxied = Proxied()
    client = proxied.client()
    client.wire.client.pauseProducing()
    client.send(GET * 2)
    proxied.back.last.answer(OK.replace(b": 5", b": 300005") + b"x" * 300_000)
    back = proxied.back.last.answer(answer_of(FRAMINGS[0]))
    proxied.net.advance(1)
    proxied.net.advance(STUCK_AFTER + 1)
    proxied.net.pump()
    assert back.is_over
    assert proxied.is_idle()


def test_goes_on() -> None:
    """A client that takes something now and then stays, and has another minute each time."""
    proxied = Proxied()
    client = proxied.client(GET)
    client.wire.client.pauseProducing()
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n")
    back.answer(b"x" * 400_000)
    proxied.net.cut = 100
    for _ in range(5):
        proxied.net.advance(STUCK_AFTER - 5)
        # Some, and no more.
        client.wire.client.resumeProducing()
        client.wire.client._read()
        client.wire.client.pauseProducing()
        assert not client.is_over
    client.wire.client.resumeProducing()
    proxied.net.pump()
    assert client.bodies == [b"x" * 400_000]
    assert proxied.is_idle()
    # The next answer has its own time.
    proxied.net.advance(STUCK_AFTER - 5)
    client.send(GET)
    proxied.net.advance(STUCK_AFTER - 5)
    proxied.back.last.answer(OK)
    assert client.statuses == [200, 200]


def test_waits_for_the_back_end() -> None:
    """A client to which there is nothing to send is not stuck."""
    proxied = Proxied(idle_timeout=0)
    client = proxied.client(GET)
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100005\r\n\r\n")
    client.wire.client.pauseProducing()
    back.answer(b"x" * 100_000)
    client.wire.client.resumeProducing()
    proxied.net.pump()
    proxied.net.advance(10**4)
    back.answer(b"hello")
    assert client.statuses == [200]
    assert client.bodies[0].endswith(b"xhello")


def test_cut_off_meanwhile() -> None:
    """A client that is cut off for another reason, and takes nothing, is so only once."""
    proxied = Proxied(max_body=10)
    client = proxied.client(CHUNKED + b"6\r\nabcdef\r\n")
    client.wire.client.pauseProducing()
    back = proxied.back.last.answer(answer_of(FRAMINGS[0]))
    proxied.net.advance(1)
    client.send(b"6\r\nabcdef\r\n")
    assert back.is_over
    assert proxied.is_idle()
    for _ in range(3):
        proxied.net.advance(STUCK_AFTER)
    assert client.wire.client.reset
    assert len(proxied.site.lines) == 1


async def begun(running: Any, clock: Timed) -> tuple[Any, Any, Any]:
    """
    A client that has got the head of a long answer, the back end that sends it, and the site's
    transport, which holds as much of it as there is room for.
    """
    client = await running.client(GET, Collector)
    peer, _ = await running.server.asked()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * SIZE))
    await client.until(lambda: b"\r\n\r\n" in client.data)
    client.transport.pauseProducing()
    (channel,) = [made() for made in running.front.site.channels if made() is not None]
    transport = channel.transport
    del channel
    peer.send(b"x" * 4 * SIZE)
    await settled(transport)
    assert _twisted.unsent(peer.transport)
    return client, peer, transport


async def settled(transport: Any) -> None:
    """Nothing moves any more."""
    still, before = 0, -1
    while still < 30:
        await turns(2)
        now = remaining(transport)
        still, before = still + 1 if now == before else 0, now


@pytest.mark.parametrize(("near", "far"), PAIRS)
@pytest_twisted.ensureDeferred
async def test_on_ports(live: Any, near: str, far: str) -> None:
    """
    On sockets, a client that takes something stays, though its kernel does so in large steps; one that
    takes nothing is reset, and the back end's connection ends.
    """
    clock = Timed()
    running = await live(near, far, clock=clock)
    client, peer, transport = await begun(running, clock)
    for _ in range(2):
        clock.advance(STUCK_AFTER - 5)
        assert running.back_end.active == 1
        before = remaining(transport)
        client.transport.resumeProducing()
        await client.until(lambda before=before: remaining(transport) < before)
        client.transport.pauseProducing()
        await settled(transport)
        clock.advance(1)
    clock.advance(STUCK_AFTER - 5)
    assert running.back_end.active == 1
    # Its kernel may have acknowledged something meanwhile.
    for _ in range(3):
        clock.advance(STUCK_AFTER)
        await settled(transport)
    assert running.back_end.active == 0
    await peer.is_lost()
    client.transport.resumeProducing()
    await client.sees_end()
    if near != "unix":
        # UNIX sockets have no reset.
        assert not client.reason.check(ConnectionDone)
    assert len(client.data) < 4 * SIZE
    assert running.back_end.errors == 0


@pytest.mark.parametrize("way", ["alpn", "knowledge"])
@pytest_twisted.ensureDeferred
async def test_http2(live: Any, way: str) -> None:
    """
    Over HTTP/2, a stream whose window stays closed is reset; one whose window opens a little stays, and
    so does the connection.
    """
    from upgrade_switch.protocols import h2c

    clock = Timed()
    site = {"upgrades": {"h2c": h2c()}} if way == "knowledge" else {}
    running = await live("tls" if way == "alpn" else "tcp", "tcp", clock=clock, site=site)
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 30_000}
    client = await client_by(way, running.front, settings=settings)
    client.opens_windows = False
    streams = [client.begin_request(path) for path in (b"/u/slow", b"/u/stuck")]
    for _ in streams:
        peer, _head = await running.server.asked()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    slow, stuck = streams
    await client.until(lambda: all(len(client.body_of(each)) >= 25_000 for each in streams))
    await turns(10)
    for _ in range(3):
        clock.advance(STUCK_AFTER // 3 + 1)
        client.connection.increment_flow_control_window(100, slow)
        client.flush()
        await turns(10)
    await client.until(lambda: bool(client.broken))
    end = client.broken.pop()
    assert (end.stream_id, end.error_code) == (stuck, ErrorCodes.INTERNAL_ERROR)
    await eventually(lambda: running.back_end.active == 1)
    client.connection.increment_flow_control_window(10**6, slow)
    client.connection.increment_flow_control_window(10**6)
    client.flush()
    assert len((await client.answer(slow))[2]) == 100_000
