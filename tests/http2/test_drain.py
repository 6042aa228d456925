"""
Going down with HTTP/2 connections: what is at hand is answered, then comes GOAWAY (RFC 9113 §6.8) and
the end.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import pytest_twisted

from tests.kit.asking import ByHand, client_of, is_http
from tests.kit.h2client import (
    GOAWAY_FRAME,
    LARGE,
    PING_FRAME,
    PLAIN_WAYS,
    H2Client,
    StillClock,
    client_by,
    frames,
    h2c_head,
    site_with,
)
from tests.kit.harness import eventually, patient, status, turns

#: How long the site has to go down, in seconds.
TIME = 5


class Slowly(ByHand):
    """Answers all its requests when it is told to."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.waiting: list[Any] = []

    def _wait(self, request: Any) -> int:
        self.waiting.append(request)
        return 1

    def answer(self, data: bytes = b"slow") -> None:
        request = self.waiting.pop(0)
        request.write(data)
        request.finish()


async def start(listen: Any, resource: Any = None) -> Any:
    """A listening site whose time stands still, with a resource at ``/r``."""
    return await listen("tcp", site_with(resource or Slowly(), reactor=StillClock()))


async def is_drained(drained: Any, listening: Any, client: Any) -> None:
    """The site is empty before its time is over, and the client got GOAWAY as the last frame."""
    await patient(drained)
    await client.is_lost()
    assert frames(client.received)[-1][0] == GOAWAY_FRAME
    assert [event.error_code for event in client.broken] == [0]
    assert len(listening.site.switched) == 0


@pytest.mark.parametrize("way", PLAIN_WAYS)
@pytest_twisted.ensureDeferred
async def test_idle(listen: Any, way: str) -> None:
    """A connection without requests gets GOAWAY at once, and is closed; no timer is left."""
    listening = await start(listen)
    before = len(listening.site.reactor.getDelayedCalls())
    client = await client_by(way, listening)
    await is_drained(listening.site.drain(TIME), listening, client)
    assert len(listening.site.reactor.getDelayedCalls()) == before


@pytest_twisted.ensureDeferred
async def test_before_the_preface(listen: Any) -> None:
    """A client that has not begun behind its 101 gets GOAWAY, too."""
    listening = await start(listen)
    client = await listening.connect(H2Client())
    client.holds = True
    await client.upgrade()
    await turns()
    await is_drained(listening.site.drain(TIME), listening, client)


@pytest.mark.parametrize("data", [b"slow", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("way", PLAIN_WAYS)
@pytest_twisted.ensureDeferred
async def test_busy(listen: Any, way: str, data: bytes) -> None:
    """What has been asked before is answered whole, then comes GOAWAY and the end."""
    slowly = Slowly()
    listening = await start(listen, slowly)
    client = await listening.connect(H2Client())
    if way == "upgrade":
        client.send(client.asking(path=b"/r"))
        await client.until(lambda: client.head)
    else:
        client.begin()
        client.begin_request(b"/r")
    streams = [1, client.begin_request(b"/r"), client.begin_request(b"/r", b"POST", b"body")]
    assert (await client.ask(b"/page"))[0] == 200
    drained = listening.site.drain(TIME)
    await turns()
    while slowly.waiting:
        assert not client.lost
        assert client.broken == []
        slowly.answer(data)
        await turns()
    await is_drained(drained, listening, client)
    assert [client.body_of(stream) for stream in streams] == [data] * 3
    assert set(streams) <= client.ended


@pytest_twisted.ensureDeferred
async def test_large_answer_on_its_way(listen: Any) -> None:
    """An answer that waits for the client's window is finished."""
    listening = await start(listen, ByHand(lambda _: LARGE))
    client = await listening.connect(H2Client())
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: len(client.body_of(1)) == 65_535)
    drained = listening.site.drain(TIME)
    await turns()
    client.opens_windows = True
    client.connection.acknowledge_received_data(65_535, 1)
    client.flush()
    await is_drained(drained, listening, client)
    assert client.body_of(1) == LARGE


@pytest.mark.parametrize("busy", [False, True])
@pytest_twisted.ensureDeferred
async def test_twice(listen: Any, busy: bool) -> None:
    """Draining a second time changes nothing."""
    slowly = Slowly()
    listening = await start(listen, slowly)
    client = await client_by("upgrade", listening)
    if busy:
        client.begin_request(b"/r")
        assert (await client.ask(b"/page"))[0] == 200
    drained = [listening.site.drain(TIME), listening.site.drain(TIME)]
    if busy:
        await turns()
        slowly.answer()
    for d in drained:
        await is_drained(d, listening, client)
    assert [kind for kind, _ in frames(client.received)].count(GOAWAY_FRAME) == 1


@pytest_twisted.ensureDeferred
async def test_reset_while_draining(listen: Any) -> None:
    """When the client gives up its last request, the connection ends."""
    listening = await start(listen)
    client = await client_by("upgrade", listening)
    stream = client.begin_request(b"/r")
    assert (await client.ask(b"/page"))[0] == 200
    drained = listening.site.drain(TIME)
    client.connection.reset_stream(stream)
    client.flush()
    await is_drained(drained, listening, client)


@pytest_twisted.ensureDeferred
async def test_too_slow(listen: Any) -> None:
    """What is not answered when the time is over is aborted."""
    slowly = Slowly()
    listening = await start(listen, slowly)
    client = await client_by("upgrade", listening)
    client.begin_request(b"/r")
    assert (await client.ask(b"/page"))[0] == 200
    drained = listening.site.drain(TIME)
    listening.site.reactor.advance(TIME)
    await patient(drained)
    await client.is_lost()
    assert len(listening.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_newcomers(listen: Any) -> None:
    """While a site goes down h2c is ignored, and who begins with the preface is closed."""
    listening = await start(listen)
    await patient(listening.site.drain(TIME))
    client = await client_of(listening)
    client.send(h2c_head())
    head, _ = await client.response()
    assert (head[:8], status(head)) == (b"HTTP/1.1", 200)
    await is_http(client)
    other = await listening.connect(H2Client())
    other.begin()
    await other.is_lost()
    assert other.received == b""


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read(listen: Any) -> None:
    """GOAWAY comes behind all that still waits to be sent, though the client has not read that yet."""
    listening = await start(listen, ByHand(lambda _: LARGE * 32))
    client = await client_by("upgrade", listening, settings={4: 2**31 - 1, 5: 2**20})
    client.connection.increment_flow_control_window(2**30)
    stream = client.begin_request(b"/r")
    await client.until(lambda: client.body_of(stream))
    client.transport.pauseProducing()
    await turns(40)
    client.connection.reset_stream(stream)
    client.connection.ping(b"answered")
    client.flush()
    await turns()
    drained = listening.site.drain(TIME)
    await turns()
    # What arrives behind the end of a connection would have its rest thrown away.
    client.holds = True
    client.transport.resumeProducing()
    await patient(drained)
    await client.is_lost()
    assert [kind for kind, _ in frames(client.received)][-2:] == [PING_FRAME, GOAWAY_FRAME]


@pytest_twisted.ensureDeferred
async def test_request_behind_the_last_reset(listen: Any, errors: Any) -> None:
    """A request right behind the reset that ends the connection does no harm."""
    listening = await start(listen)
    client = await client_by("upgrade", listening)
    stream = client.begin_request(b"/r")
    assert (await client.ask(b"/page"))[0] == 200
    drained = listening.site.drain(TIME)
    client.holds = True
    client.connection.reset_stream(stream)
    client.begin_request(b"/page")
    client.holds = False
    client.flush()
    await patient(drained)
    await client.is_lost()
    # Some are logged when what has failed is collected.
    gc.collect()
    logged = [str(event.get("log_failure", event)) for event in errors]
    errors.clear()
    assert logged == []


@pytest.mark.parametrize("way", ["http1", "alpn"])
@pytest_twisted.ensureDeferred
async def test_pages_are_not_waited_for(listen: Any, way: str) -> None:
    """An answer under way delays no drain, whichever HTTP it is; it is finished nevertheless."""
    slowly = Slowly()
    kind = "tcp" if way == "http1" else "tls"
    listening = await listen(kind, site_with(slowly, reactor=StillClock()))
    if way == "http1":
        http1 = await client_of(listening)
        http1.send(b"GET /r HTTP/1.1\r\nHost: x\r\n\r\n")
    else:
        client = await client_by(way, listening)
        stream = client.begin_request(b"/r")
    await eventually(lambda: slowly.waiting)
    assert listening.site.drain(TIME).called
    listening.site.reactor.advance(TIME + 1)
    await turns()
    slowly.answer(b"slow")
    if way == "http1":
        head, _ = await http1.response()
        assert status(head) == 200
    else:
        await client.is_lost()
        assert client.body_of(stream) == b"slow"
        assert frames(client.received)[-1][0] == GOAWAY_FRAME
