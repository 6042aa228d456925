"""Upgrades of clients that speak HTTP/2 (RFC 8441), to back ends that do not."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.h2client import client_by
from tests.kit.harness import eventually, field
from tests.kit.scripted import SWITCH, HalfClosePeer
from upgrade_switch.fields import accept_key

SWITCHES = {"http2_connect": True}


async def joined(live: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A proxy whose streams may switch, and a client of it."""
    running = await live("tls", "tcp", site=SWITCHES, **kwargs)
    return running, await client_by("alpn", running.front)


@pytest_twisted.ensureDeferred
async def test_switch(live: Any) -> None:
    """A stream becomes an upgrade at the back end; bytes and half-closes pass both ways."""
    running, client = await joined(live)
    stream = client.begin_connect(b"echo", b"/u/x?y=z")
    peer, head = await running.server.asked()
    assert head.startswith(b"GET /x?y=z HTTP/1.1\r\n")
    assert (field(head, b"upgrade"), field(head, b"connection")) == (b"echo", b"Upgrade")
    assert field(head, b"sec-websocket-key") is None
    client.give(stream, b"early")
    peer.data = b""
    peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nX-Mine: 1\r\n\r\n"
        b"hi"
    )
    code, fields = await client.head_of(stream)
    assert (code, fields[b"x-mine"]) == (200, b"1")
    assert not {b"upgrade", b"connection"} & set(fields)
    await client.until(lambda: client.body_of(stream) == b"hi")
    await peer.until(lambda: peer.data == b"early")
    client.give(stream, b" and late", end=True)
    await peer.until(lambda: peer.data == b"early and late")
    peer.send(b" answer")
    peer.transport.loseConnection()
    await client.until(lambda: stream in client.ended)
    assert client.body_of(stream) == b"hi answer"
    await eventually(lambda: not running.back_end.active)
    assert client.broken == []


@pytest_twisted.ensureDeferred
async def test_end_before_switch(live: Any) -> None:
    """What a client has said by the 101, and that it says no more, goes on behind that."""
    running, client = await joined(live)
    running.server.site.peer = HalfClosePeer
    stream = client.begin_connect(b"echo", b"/u/x")
    client.give(stream, b"early", end=True)
    peer, _head = await running.server.asked()
    peer.data = b""
    peer.send(SWITCH)
    await peer.until(lambda: peer.data == b"early" and "read lost" in peer.events)
    peer.send(b"answer")
    await client.until(lambda: client.body_of(stream) == b"answer")
    peer.transport.loseConnection()
    await client.until(lambda: stream in client.ended)
    await eventually(lambda: not running.back_end.active)


@pytest.mark.parametrize("accepts", [True, False])
@pytest_twisted.ensureDeferred
async def test_websocket_key(live: Any, accepts: bool) -> None:
    """The back end gets a key of the proxy's own; its answer to that is checked, and not passed on."""
    running, client = await joined(live, tokens=["websocket"])
    more = [(b"sec-websocket-version", b"13"), (b"origin", b"https://localhost")]
    stream = client.begin_connect(b"websocket", b"/u/chat", more)
    peer, head = await running.server.asked()
    key = field(head, b"sec-websocket-key")
    assert key is not None
    assert field(head, b"sec-websocket-version") == b"13"
    accept = accept_key(key) if accepts else accept_key(key[:-1])
    peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    code, fields = await client.head_of(stream)
    assert code == (200 if accepts else 502)
    assert b"sec-websocket-accept" not in fields
    if accepts:
        assert fields[b"sec-websocket-protocol"] == b"chat"
        client.connection.reset_stream(stream, 8)
        client.flush()
        await peer.is_lost()


@pytest.mark.parametrize(("answer", "code"), [(b"200 OK", 501), (b"403 Forbidden", 403)])
@pytest_twisted.ensureDeferred
async def test_refusal(live: Any, answer: bytes, code: int) -> None:
    """A back end's refusal passes; a page, which would be taken for a tunnel, does not."""
    running, client = await joined(live)
    stream = client.begin_connect(b"echo", b"/u/x")
    peer, _ = await running.server.asked()
    peer.send(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 4\r\n\r\npage")
    await client.until(lambda: stream in client.ended)
    assert (await client.head_of(stream))[0] == code
    assert client.body_of(stream) == (b"page" if code == 403 else b"")
    await eventually(lambda: not running.back_end.active)


@pytest_twisted.ensureDeferred
async def test_unknown_token(live: Any) -> None:
    """A token that is not passed on is 501, and no back end hears of it."""
    running, client = await joined(live)
    stream = client.begin_connect(b"other", b"/u/x")
    assert (await client.head_of(stream))[0] == 501
    assert running.back_end.requests == 0


@pytest_twisted.ensureDeferred
async def test_content_of_unknown_length(live: Any) -> None:
    """A content whose length is not said is passed on while it comes, in chunks."""
    running, client = await joined(live)
    stream = client.connection.get_next_available_stream_id()
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/u/x"), (b":authority", b"a")]
    client.connection.send_headers(stream, fields)
    client.give(stream, b"first")
    peer, head = await running.server.asked()
    assert field(head, b"transfer-encoding") == b"chunked"
    await peer.until(lambda: b"5\r\nfirst\r\n" in peer.data)
    client.give(stream, b"second", end=True)
    await peer.until(lambda: peer.data.endswith(b"6\r\nsecond\r\n0\r\n\r\n"))
    peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await client.answer(stream))[0] == 204
