"""Clients that speak HTTP/2 to a proxy."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from h2.events import StreamReset

from tests.kit.h2client import client_by
from tests.kit.harness import eventually, turns
from upgrade_switch import _twisted

FORBIDDEN = {b"connection", b"upgrade", b"keep-alive", b"transfer-encoding", b"proxy-connection"}


async def joined(live: Any, **kwargs: Any) -> tuple[Any, Any]:
    running = await live("tls", "tcp", **kwargs)
    return running, await client_by("alpn", running.front)


@pytest_twisted.ensureDeferred
async def test_answers(live: Any) -> None:
    """Requests and answers pass, in HTTP/1.1 on the other side, without fields of the connection's."""
    running, client = await joined(live)
    stream = client.begin_request(b"/u/x", b"POST", b"hello")
    peer, head = await running.server.asked()
    assert head.startswith(b"POST /x HTTP/1.1\r\n")
    assert b"\r\nVia: 2" in head
    await peer.until(lambda: b"hello" in peer.data)
    peer.send(
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX: y\r\n"
        b"Connection: X, Keep-Alive, Upgrade\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    code, fields, body = await client.answer(stream)
    assert (code, body) == (200, b"hello")
    assert not FORBIDDEN & set(fields)
    assert b"x" not in fields


@pytest_twisted.ensureDeferred
async def test_failures(live: Any) -> None:
    """What goes wrong with one back end's connection ends one stream, and no other."""
    running, client = await joined(live)
    first = client.begin_request(b"/u/first", b"GET")
    one, _ = await running.server.asked()
    second = client.begin_request(b"/u/second", b"GET")
    two, _ = await running.server.asked()
    third = client.begin_request(b"/u/third", b"GET")
    three, _ = await running.server.asked()
    one.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    await client.until(lambda: client.body_of(first) == b"hello")
    one.transport.abortConnection()
    await client.until(lambda: bool(client.broken))
    [reset] = client.broken
    assert isinstance(reset, StreamReset)
    assert reset.stream_id == first
    client.broken.clear()
    two.transport.abortConnection()
    assert (await client.answer(second))[0] == 502
    three.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    await client.until(lambda: client.body_of(third) == b"hello")
    three.transport.loseConnection()
    assert (await client.answer(third))[2] == b"hello"
    await eventually(lambda: not running.back_end.active)


@pytest_twisted.ensureDeferred
async def test_client_leaves(live: Any) -> None:
    """A client that leaves ends what goes on for it at back ends."""
    running, client = await joined(live)
    for path in (b"/u/first", b"/u/second"):
        client.begin_request(path, b"GET")
        peer, _ = await running.server.asked()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    assert running.back_end.active == 2
    _twisted.bottom(client.transport).abortConnection()
    await eventually(lambda: not running.back_end.active)
    await peer.is_lost()


@pytest_twisted.ensureDeferred
async def test_bounded(live: Any) -> None:
    """An answer to a client that does not read waits at the back end."""
    running, client = await joined(live)
    client.begin_request(b"/u/x", b"GET")
    peer, _ = await running.server.asked()
    client.transport.pauseProducing()
    size = 20_000_000
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    still, before = 0, -1
    while still < 50:
        await turns(2)
        now = _twisted.unsent(peer.transport)
        still, before = still + 1 if now == before else 0, now
    assert now > size // 2
