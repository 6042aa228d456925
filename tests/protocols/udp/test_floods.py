"""Flows that are idle, and flows that are flooded: what they hold, and when they end."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone

from tests.kit.datagrams import (
    CapsuleClient,
    MixedReactor,
    UDPEcho,
    UDPRecorder,
    flow_head,
    flow_sockets,
    udp_site,
)
from tests.kit.harness import SOCKETS, Flood, status, turns
from tests.kit.waiting import eventually
from upgrade_switch.protocols._udp.capsules import datagram_capsule
from upgrade_switch.protocols._udp.flow import UDPFlow

MANY = 10_000_000


async def flow(listening: Any, port: int) -> CapsuleClient:
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(port))
    assert status(await client.switched()) == 101
    return client


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What is done in here needs no more memory than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


# A slow other side.


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_flood_from_the_destination(kind: str, listen: Any, udp: Any) -> None:
    """
    A client that does not read what a destination floods it with: memory is bounded, the newest are
    dropped, and what is left comes when the client reads again.
    """
    server = udp.listen(UDPRecorder())
    listening = await listen(kind, udp_site())
    client = await flow(listening, server.port)
    client.send(datagram_capsule(b"begin"))
    await server.receives(b"begin")
    (there,) = server.senders
    (connection,) = listening.site.switched
    client.transport.pauseProducing()
    datagram = b"x" * 1200
    with at_most(3_000_000):
        # Until the flow has filled everything on the way and stops reading, and then some more.
        sent, more = 0, 20
        while flow_sockets() or (more := more - 1):
            sent += 50 * len(datagram)
            assert sent < 20 * MANY, "the flow goes on reading"
            for _ in range(50):
                server.transport.write(datagram, there)
            await turns(1)
    assert connection.unsent < 1_000_000
    client.transport.resumeProducing()
    await client.until(lambda: len(client.got) > 10)
    assert set(client.got) == {datagram}
    await turns(20)
    # The flow is as good as new.
    client.got.clear()
    server.transport.write(b"end", there)
    await client.until(lambda: client.got[-1:] == [b"end"])


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_flood_from_the_client(kind: str, listen: Any) -> None:
    """A destination that does not read: what the client sends is passed on or dropped, never kept."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        listening = await listen(kind, udp_site())
        client = await flow(listening, deaf.getsockname()[1])
        (connection,) = listening.site.switched
        chunk = datagram_capsule(b"x" * 1200) * 50
        with at_most(3_000_000):
            flood = Flood(client.transport, chunk)
            await eventually(lambda: flood.sent > MANY)
            client.transport.unregisterProducer()
            await eventually(lambda: connection.bytes_in == flood.sent)


@pytest_twisted.ensureDeferred
async def test_flood_of_empty_datagrams(listen: Any, udp: Any) -> None:
    """The smallest capsules, as many as there can be, both ways."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await flow(listening, echo.port)
    with at_most(20_000_000):
        for _ in range(10):
            client.send(datagram_capsule(b"") * 3000)
            await turns(2)
    client.send(datagram_capsule(b"end"))
    await client.until(lambda: client.got[-1:] == [b"end"])


# Nothing moves.


@pytest_twisted.ensureDeferred
async def test_idle_flows_end(listen: Any, udp: Any) -> None:
    """Two minutes after the last datagram, either way, a flow and its connection end."""
    on = MixedReactor()
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site(on=on))
    client = await flow(listening, echo.port)
    for _ in range(3):
        on.clock.advance(119)
        client.got.clear()
        client.send(datagram_capsule(b"hello"))
        await client.until(lambda: client.got == [b"hello"])
    (there, *_) = echo.senders
    on.clock.advance(119)
    echo.transport.write(b"from the other side", there)
    await client.until(lambda: client.got[-1:] == [b"from the other side"])
    on.clock.advance(119.9)
    await turns()
    assert not client.reason
    on.clock.advance(0.1)
    await client.is_lost()
    assert not client.reason.check(ConnectionDone)
    assert flow_sockets() == []
    assert on.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_flow_without_a_time_out(listen: Any, udp: Any) -> None:
    """Without a time-out, there is no timer."""
    on = MixedReactor()
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site(on=on, idle_timeout=None))
    client = await flow(listening, echo.port)
    assert on.clock.getDelayedCalls() == []
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])


@pytest_twisted.ensureDeferred
async def test_a_stuck_client_is_idle(listen: Any, udp: Any) -> None:
    """A flow whose client takes nothing, and sends nothing, ends although its destination goes on."""
    on = MixedReactor()
    server = udp.listen(UDPRecorder())
    listening = await listen("tcp", udp_site(on=on))
    client = await flow(listening, server.port)
    client.send(datagram_capsule(b"begin"))
    await server.receives(b"begin")
    (there,) = server.senders
    (connection,) = listening.site.switched
    client.transport.pauseProducing()
    while flow_sockets():
        for _ in range(50):
            server.transport.write(b"x" * 1200, there)
        await turns(1)
    assert isinstance(connection.target, UDPFlow)
    on.clock.advance(120)
    await listening.site.switched.when_empty()
    client.transport.resumeProducing()
    await client.is_lost()
