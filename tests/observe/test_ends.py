"""How the end of a switched connection is reported: as what it was."""

from __future__ import annotations

import socket
import struct
from ctypes import addressof, create_string_buffer
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from tests.kit.ends import Ends
from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, site_of, upgrade_head
from tests.kit.wsstream import WebSocketByHand
from upgrade_switch import _twisted
from upgrade_switch.protocols import byte_stream


def close(client: Any) -> None:
    client.transport.loseConnection()


def reset(client: Any) -> None:
    client.transport.abortConnection()


def end_without_goodbye(client: Any) -> None:
    _twisted.bottom(client.transport).loseConnection()


@pytest.mark.parametrize(
    ("kind", "end", "why"),
    [
        ("tcp", close, "closed"),
        ("tcp", reset, "reset"),
        ("tls", close, "closed"),
        ("tls", reset, "reset"),
        ("tls", end_without_goodbye, "TLS error"),
        ("unix", close, "closed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_client_ends(listen: Any, kind: str, end: Any, why: str) -> None:
    """A client's end is told apart: closed, reset, or TLS that ended without its alert."""
    ends = Ends()
    factory, _ = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, observers=[ends]))
    client = await listening.connect(EchoTarget())
    client.send(upgrade_head())
    await client.until(lambda: b"101" in client.data)
    end(client)
    assert await patient(ends.why) == why


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_target_closes(listen: Any, kind: str) -> None:
    """A target that closes is a clean end, whatever the client answers."""
    ends = Ends()
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, observers=[ends]))
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    targets[0].transport.loseConnection()
    assert await patient(ends.why) == "closed"


def hear_nothing(client: Any) -> None:
    """Have the client's kernel drop whatever comes: no acknowledgement, no reset."""
    drop_all = create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HL", 1, addressof(drop_all))
    attach_filter = 26
    client.transport.getHandle().setsockopt(socket.SOL_SOCKET, attach_filter, program)


@pytest.mark.parametrize("writes", [False, True])
@pytest_twisted.ensureDeferred
async def test_tcp_times_out(listen: Any, writes: bool) -> None:
    """A client whose TCP is silent is a time-out, whether keep-alive finds it or what is sent."""
    ends = Ends()
    factory, targets = factory_of(EchoTarget)
    site = site_of({"echo": factory}, observers=[ends], tcp_keepalive=(1, 1, 1))
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    hear_nothing(client)
    if writes:
        # Keep-alive is silent then.
        user_timeout = 18
        targets[0].transport.getHandle().setsockopt(socket.IPPROTO_TCP, user_timeout, 1500)
        targets[0].transport.write(b"x")
    assert await patient(ends.why) == "time-out"
    client.transport.abortConnection()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_heartbeat(listen: Any, kind: str) -> None:
    """A peer that answers no ping is a time-out."""
    ends, clock = Ends(), Clock()
    factory, _ = factory_of(Recorder)
    resource = {"websocket": byte_stream(factory, heartbeat=10)}
    listening = await listen(kind, site_of(resource, observers=[ends], reactor=clock))
    client = await listening.connect(WebSocketByHand())
    client.ask()
    await client.head()
    clock.advance(10)
    clock.advance(10)
    assert await patient(ends.why) == "time-out"


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_not_read(listen: Any, kind: str) -> None:
    """A client that leaves more unread than it may is told apart, too."""
    ends, clock = Ends(), Clock()
    factory, targets = factory_of(EchoTarget)
    site = site_of({"echo": factory}, observers=[ends], reactor=clock, max_unsent=1_000_000)
    listening = await listen(kind, site)
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    client.transport.pauseProducing()
    targets[0].transport.write(bytes(20_000_000))
    clock.advance(1)
    assert await patient(ends.why) == "not read"
