"""
What becomes of unusual clients, whichever way they have come to HTTP/2.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import pytest_twisted

from tests.kit.asking import ByHand
from tests.kit.h2client import LARGE, WAYS, Endless, client_by, kind_of, site_with
from tests.kit.harness import turns

WINDOW = 4

FIELDS = [(b":scheme", b"http"), (b":authority", b"localhost")]


async def grows(client: Any) -> Any:
    """A window that a later SETTINGS frame makes larger."""
    client.opens_windows = False
    stream = client.begin_request(b"/page", b"POST", b"x" * 500)
    await client.until(lambda: client.body_of(stream))
    client.connection.update_settings({WINDOW: 2000})
    client.flush()
    return (await client.answer(stream))[2]


async def shrinks(client: Any) -> Any:
    """A window that a later SETTINGS frame makes smaller than what has been sent already."""
    client.opens_windows = False
    stream = client.begin_request(b"/page", b"POST", b"x" * 2000)
    await client.until(lambda: client.body_of(stream))
    client.connection.update_settings({WINDOW: 0})
    client.flush()
    await turns(10)
    client.connection.increment_flow_control_window(50, stream)
    client.flush()
    await turns(10)
    return client.body_of(stream), client.broken


async def resets(client: Any) -> Any:
    """More resets than anybody needs."""
    client.holds = True
    for _ in range(2500):
        client.connection.reset_stream(client.begin_request(b"/held"))
    client.flush()
    await client.until(lambda: client.broken)
    return client.broken[0].error_code


async def resets_at_once(client: Any) -> Any:
    """A reset, and another request, in the same segment as a request that is answered at once."""
    client.holds = True
    client.connection.reset_stream(client.begin_request(b"/page"))
    stream = client.begin_request(b"/page")
    client.flush()
    await client.until(lambda: client.lost or stream in client.ended)
    return client.lost


async def resets_an_answer(client: Any) -> Any:
    """A reset while a producer is at work: its request ends, and it is told to stop, once."""
    client.opens_windows = False
    stream = client.begin_request(b"/r")
    await client.until(lambda: client.body_of(stream))
    client.connection.reset_stream(stream)
    assert (await client.ask(b"/page", b"HEAD"))[0] == 200
    resource = client.listening.site.resource.children[b"r"]
    return len(resource.lost), resource.stopped


async def sends_no_number(client: Any) -> Any:
    """A Content-Length that is no number."""
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":path", b"/page"), *FIELDS, (b"content-length", b"abc")]
    client.connection.send_headers(stream, fields)
    client.flush()
    await client.until(lambda: client.broken)
    return client.broken[0].error_code


async def sends_trailers(client: Any) -> Any:
    """Fields behind a body."""
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":path", b"/page"), *FIELDS]
    client.connection.send_headers(stream, fields)
    client.connection.send_data(stream, b"body")
    client.connection.send_headers(stream, [(b"x-mine", b"1")], end_stream=True)
    client.flush()
    return (await client.answer(stream))[2]


async def expects(client: Any) -> Any:
    """Expect: 100-continue."""
    return (await client.ask(b"/page", b"POST", b"body", [(b"expect", b"100-continue")]))[2]


async def expects_among_others(client: Any) -> Any:
    """A 100 is one of several expectations, and its content waits for it (RFC 9110 §10.1.1)."""
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":path", b"/page"), *FIELDS]
    client.connection.send_headers(stream, [*fields, (b"expect", b"other, 100-Continue")])
    client.flush()
    await client.until(lambda: client.interim)
    client.connection.send_data(stream, b"body", end_stream=True)
    client.flush()
    return client.interim, (await client.answer(stream))[2]


async def pings(client: Any) -> Any:
    """Pings, priorities and a frame of a type that nobody knows."""
    client.connection.ping(b"12345678")
    client.connection.prioritize(101, weight=16, depends_on=0)
    client.flush()
    client.send(b"\0\0\3\xee\0\0\0\0\0abc")
    return (await client.ask(b"/page"))[2]


SCENES: dict[Callable[[Any], Coroutine[Any, Any, Any]], Any] = {
    grows: b"page POST " + b"x" * 500,
    shrinks: (b"page POST " + b"x" * 90, []),
    resets: 11,
    resets_at_once: False,
    resets_an_answer: (1, 1),
    sends_no_number: 1,
    sends_trailers: b"page POST body",
    expects: b"page POST body",
    expects_among_others: ([100], b"page POST body"),
    pings: b"page GET ",
}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_scenes(listen: Any, way: str, scene: Any) -> None:
    """An unusual client sees the same, whichever way it came, and nothing is logged."""
    listening = await listen(kind_of(way), site_with(Endless()))
    listening.site.resource.putChild(b"held", ByHand())
    small = {WINDOW: 100} if scene in (grows, shrinks) else None
    client = await client_by(way, listening, settings=small)
    client.listening = listening
    assert await scene(client) == SCENES[scene]
    # What has failed is logged when it is collected.
    gc.collect()


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_large_upload(listen: Any, way: str) -> None:
    """A body larger than the server's windows is taken as these are opened."""
    listening = await listen(kind_of(way), site_with(Endless()))
    client = await client_by(way, listening)
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":path", b"/page"), *FIELDS]
    client.connection.send_headers(stream, fields)
    rest = LARGE
    while rest:
        await client.until(lambda: client.connection.local_flow_control_window(stream) > 0)
        size = min(client.connection.local_flow_control_window(stream), 2**14, len(rest))
        client.connection.send_data(stream, rest[:size], end_stream=size == len(rest))
        client.flush()
        rest = rest[size:]
    assert (await client.answer(stream))[2] == b"page POST " + LARGE
