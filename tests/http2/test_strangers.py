"""
HTTP/2 and those who mean ill, or just change their mind: nothing goes on for them, the
log stays empty, and whoever is honest on the same connection is answered.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.asking import ByHand
from tests.kit.h2client import (
    GOAWAY_FRAME,
    LARGE,
    SETTINGS_FRAME,
    WAYS,
    WIDE,
    WINDOW_UPDATE_FRAME,
    Endless,
    H2Client,
    Pulled,
    StillClock,
    client_by,
    frame,
    frames,
    is_empty,
    kind_of,
    site_with,
    unread,
)
from tests.kit.harness import eventually, turns

HEADERS_FRAME, PRIORITY_FRAME = 1, 2

GOODBYE = frame(GOAWAY_FRAME, 0, bytes(8))


def requests_in_one(client: Any, path: bytes = b"/r", more: Any = ()) -> int:
    """Have a request wait to be sent with what follows; gives its stream."""
    client.holds = True
    stream: int = client.begin_request(path, b"POST", b"body", more)
    return stream


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("more", [(), [(b"expect", b"100-continue")]], ids=["plain", "Expect"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_reset_with_the_request(listen: Any, way: str, more: Any, count: int) -> None:
    """Of a request and its reset in one segment nothing is heard; those around them are answered."""
    asked: list[Any] = []
    client = await client_by(way, await listen(kind_of(way), site_with(ByHand(asked.append))))
    before = requests_in_one(client, b"/page")
    for _ in range(count):
        client.connection.reset_stream(requests_in_one(client, more=more))
    behind = [client.begin_request(b"/page") for _ in range(count - 1)]
    client.holds = False
    client.flush()
    assert (await client.answer(before))[2] == b"page POST body"
    for stream in behind or [client.begin_request(b"/page")]:
        assert (await client.answer(stream))[2] == b"page GET "
    assert asked == []


@pytest.mark.parametrize("more", [(), [(b"expect", b"100-continue")]], ids=["plain", "Expect"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_goaway_with_the_request(listen: Any, way: str, more: Any) -> None:
    """A request with the GOAWAY in its segment is answered, and then the connection ends."""
    listening = await listen(kind_of(way), site_with(ByHand(lambda _: b"said")))
    client = await client_by(way, listening)
    stream = requests_in_one(client, more=more)
    client.send(client.connection.data_to_send() + GOODBYE)
    await client.is_lost()
    assert client.body_of(stream) == b"said"
    await is_empty(listening)


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_connect(listen: Any, way: str) -> None:
    """CONNECT is refused, its stream alone; what came on it does not use up the connection's window."""
    client = await client_by(way, await listen(kind_of(way), site_with(Pulled())))
    most = client.connection.outbound_flow_control_window
    client.holds = True
    for i in range(60):
        stream = client.connection.get_next_available_stream_id()
        fields = [(b":method", b"CONNECT"), (b":authority", b"localhost:80")]
        client.connection.send_headers(stream, fields)
        client.connection.send_data(stream, b"x" * 1000, end_stream=bool(i % 2))
        client.flush()
        await client.until(
            lambda stream=stream, i=i: stream in client.ended and (client.broken or i % 2)
        )
        assert client.answers[stream][0][b":status"] == b"501"
        resets = [(event.stream_id, event.error_code) for event in client.broken]
        assert resets == ([] if i % 2 else [(stream, 0)])
        client.broken.clear()
    # And one that is given up in the same segment.
    stream = client.connection.get_next_available_stream_id()
    client.connection.send_headers(stream, fields)
    client.connection.reset_stream(stream)
    client.holds = False
    assert (await client.ask(b"/page", b"POST", b"x" * 10_000))[2] == b"page POST " + b"x" * 10_000
    assert client.connection.outbound_flow_control_window > most - 80_000


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_priorities(listen: Any, way: str) -> None:
    """However many streams somebody orders one beneath the other, all is answered."""
    client = await client_by(way, await listen(kind_of(way), site_with(Pulled())))
    for stream in range(5, 4005, 2):
        depends = (stream - 2).to_bytes(4, "big") + b"\x10"
        client.send(frame(PRIORITY_FRAME, stream, depends))
    assert (await client.ask(b"/page"))[2] == b"page GET "
    assert (await client.ask(b"/r"))[2] == LARGE


# Answers that are not wanted any more, or not now.


async def leave(client: Any, stream: int, how: str) -> None:
    """Give an answer up in one of several ways."""
    if how == "reset":
        client.connection.reset_stream(stream)
        client.flush()
        assert (await client.ask(b"/page", b"HEAD"))[0] == 200
    elif how == "broken":
        client.send(frame(0, 0, b"x"))
        await client.is_lost()
    else:
        client.transport.abortConnection()
        await client.is_lost()


@pytest.mark.parametrize("how", ["reset", "broken", "abort"])
@pytest.mark.parametrize("wide", [False, True], ids=["window closed", "window open"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_producer_is_stopped(listen: Any, way: str, wide: bool, how: str) -> None:
    """Who produces an answer that is not wanted any more is told to stop, once."""
    endless = Endless()
    listening = await listen(kind_of(way), site_with(endless))
    client = await client_by(way, listening, settings=WIDE if wide else None)
    client.opens_windows = wide
    stream = client.begin_request(b"/r")
    await client.until(lambda: client.body_of(stream))
    await leave(client, stream, how)
    if how != "reset":
        await is_empty(listening)
    await turns()
    assert (endless.stopped, len(endless.lost)) == (1, 1)


class Unstoppable(Endless):
    def stopProducing(self) -> None:
        raise ZeroDivisionError


@pytest_twisted.ensureDeferred
async def test_producer_that_fails_to_stop(listen: Any, errors: Any) -> None:
    """What a producer raises when it is told to stop is logged, and harms nobody else."""
    resource = Unstoppable()
    client = await client_by("upgrade", await listen("tcp", site_with(resource)))
    client.opens_windows = False
    stream = client.begin_request(b"/r")
    await client.until(lambda: client.body_of(stream))
    await leave(client, stream, "reset")
    assert len(resource.lost) == 1
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_producer_is_not_ahead(listen: Any, way: str) -> None:
    """For a client that does not read, wide as its windows are, little is kept of an endless answer."""
    endless = Endless()
    listening = await listen(kind_of(way), site_with(endless))
    client, connection = await unread(way, listening)
    given = -1
    # The kernel takes a few megabytes, at its own pace.
    while endless.given != given:
        given = endless.given
        assert given < 50_000_000
        await turns(50)
    (stream,) = connection.streams.values()
    assert stream.unsent < 2**17
    client.transport.abortConnection()


@pytest.mark.parametrize("resource", [ByHand(lambda _: LARGE), Pulled()], ids=["at once", "pulled"])
@pytest.mark.parametrize("window", [0, 10, 65_535])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_window_that_stays_closed(listen: Any, way: str, window: int, resource: Any) -> None:
    """While a window is closed the server rests: the idle timer runs, and ends the connection."""
    clock = StillClock()
    listening = await listen(kind_of(way), site_with(resource, reactor=clock))
    before = len(clock.getDelayedCalls())
    if way == "upgrade":
        client = await listening.connect(H2Client(settings={4: window}))
        client.send(client.asking(path=b"/r"))
        stream = 1
    else:
        client = await client_by(way, listening)
        client.connection.update_settings({4: window})
        stream = client.begin_request(b"/r")
    client.opens_windows = False
    await client.until(lambda: stream in client.answers)
    await turns(20)
    clock.advance(59)
    await turns(20)
    assert not client.lost
    clock.advance(2)
    await client.is_lost()
    assert client.body_of(stream) == LARGE[: len(client.body_of(stream))]
    await is_empty(listening)
    await eventually(lambda: len(clock.getDelayedCalls()) == before)


@pytest.mark.parametrize("how", ["goaway", "broken"])
@pytest_twisted.ensureDeferred
async def test_end_of_a_client_that_did_not_read(listen: Any, how: str) -> None:
    """A connection that is to be closed while it is full is closed when it is not, without a timer."""
    listening = await listen("tcp", site_with(ByHand(lambda _: LARGE * 32), timeout=None))
    client, connection = await unread("upgrade", listening)
    if how == "goaway":
        client.leave()
        await turns(5)
        assert not connection.transport.disconnecting
    else:
        client.send(frame(0, 0, b"x"))
        client.holds = True
        await eventually(lambda: connection.transport.disconnecting)
    client.transport.resumeProducing()
    await client.is_lost()
    await is_empty(listening)


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_fields_of_an_answer(listen: Any, way: str) -> None:
    """What a resource says about HTTP/1.1's connection is left out, and NUL is a space."""

    def render(request: Any) -> bytes:
        for name in (b"Connection", b"Upgrade", b"Keep-Alive", b"Proxy-Connection"):
            request.setHeader(name, b"echo")
        request.setHeader(b"Transfer-Encoding", b"chunked")
        request.setHeader(b"X-Mine", b"a\0b")
        return b"body"

    client = await client_by(way, await listen(kind_of(way), site_with(ByHand(render))))
    code, fields, body = await client.ask(b"/r")
    assert (code, body, fields[b"x-mine"]) == (200, b"body", b"a b")
    left_out = {b"connection", b"upgrade", b"keep-alive", b"proxy-connection", b"transfer-encoding"}
    assert not left_out & set(fields)


@pytest_twisted.ensureDeferred
async def test_settings_alone_open_windows(listen: Any) -> None:
    """A window that SETTINGS open is used, by a producer too, without a WINDOW_UPDATE."""
    pulled = Pulled()
    site = site_with(pulled)
    site.resource.putChild(b"at_once", ByHand(lambda _: LARGE))
    client = await (await listen("tcp", site)).connect(H2Client(settings={4: 0}))
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    at_once = client.begin_request(b"/at_once")
    await client.until(lambda: {1, at_once} <= set(client.answers))
    # Where the window ends with what the producer has given, nothing waits to be sent.
    for window in (0, 10_000, 15_000, 25_000):
        client.connection.update_settings({4: window})
        client.flush()
        await client.until(
            lambda window=window: client.body_of(1) == client.body_of(at_once) == LARGE[:window]
        )
        await turns(20)
        assert client.body_of(1) == LARGE[:window]


@pytest_twisted.ensureDeferred
async def test_little_before_the_client_has_begun(listen: Any) -> None:
    """Behind the 101 come 16 KiB; the rest waits for the client's preface (curl's limit)."""
    client: Any
    listening = await listen("tcp", site_with(ByHand(lambda _: LARGE)))
    client = await listening.connect(H2Client())
    client.holds = True
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: client.body_of(1))
    await turns(20)
    assert client.body_of(1) == LARGE[: 2**14]
    assert len(client.received) < 2**15
    assert [kind for kind, _ in frames(client.received)] == [
        SETTINGS_FRAME,
        WINDOW_UPDATE_FRAME,
        HEADERS_FRAME,
        0,
    ]
    client.holds = False
    client.flush()
    assert (await client.answer(1))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_all_before_the_client_has_begun(listen: Any) -> None:
    """An answer in several small writes is there before the client's preface, to its end."""

    def render(request: Any) -> bytes:
        for _ in range(7):
            request.write(LARGE[: 2**11])
        return LARGE[: 2**11]

    client: Any
    listening = await listen("tcp", site_with(ByHand(render)))
    client = await listening.connect(H2Client())
    client.holds = True
    client.send(client.asking(path=b"/r"))
    assert (await client.answer(1))[2] == LARGE[: 2**11] * 8
