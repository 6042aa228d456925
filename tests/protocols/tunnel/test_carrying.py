"""
``upgrade_switch.protocols.tunnel``: an upgrade that is spliced to a connection elsewhere; what it
carries, and how it ends, on real ports at both ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.protocols.portforward import ProxyFactory

from tests.kit.farside import (
    KINDS,
    MEGABYTE,
    PAIRS,
    ClosingCollector,
    Collector,
    Gate,
    Servers,
    every_pair,
    passes_end_on,
    switched,
)
from tests.kit.harness import EVERY_KIND as NEAR_KINDS
from tests.kit.harness import reactor, site_of, turns, upgrade_head
from tests.kit.splicing import Splicing
from upgrade_switch import _twisted
from upgrade_switch.errors import InvalidUpgrades
from upgrade_switch.protocols import TunnelFactory, tunnel
from upgrade_switch.splice import SpliceEnd

half_closing_pairs = pytest.mark.parametrize(
    ("near", "far"), [pair for pair in PAIRS if "tls" not in pair]
)

Listen = Callable[..., Any]


@every_pair
@pytest_twisted.ensureDeferred
async def test_switches_when_connected(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """There is no 101 before the far side is connected; after it, bytes go both ways."""
    server = await serve(far)
    gate = Gate(server.endpoint)
    listening = await listen(near, site_of({"ssh": tunnel(gate)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await gate.until(lambda gate: gate.asked == 1)
    await turns(10)
    assert client.data == b""
    assert not listening.site.switched
    gate.open()
    await switched(client)
    there = await server.site.next()
    client.send(MEGABYTE)
    there.send(MEGABYTE[::-1])
    await there.has(len(MEGABYTE))
    await client.has(len(MEGABYTE))
    assert there.data == MEGABYTE
    assert client.data == MEGABYTE[::-1]
    assert len(listening.site.switched) == 1


@pytest.mark.skipif(not hasattr(os, "splice"), reason="there is no splice")
@pytest.mark.parametrize("near", ["tcp", "tcp at once"])
@pytest_twisted.ensureDeferred
async def test_much(listen: Listen, serve: Servers, monkeypatch: pytest.MonkeyPatch, near: str) -> None:
    """Much goes through pipes, both ways, and is counted; a far side that is closed is told as ever."""
    splicing = Splicing(monkeypatch)
    server = await serve("tcp")
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await switched(client)
    there = await server.site.next()
    (connection,) = listening.site.switched
    read = 0
    for end, other in ((client, there), (there, client)):
        end.send(4 * MEGABYTE)
        await other.has(4 * len(MEGABYTE))
        assert other.data == 4 * MEGABYTE
        assert splicing.read > read + len(MEGABYTE)
        read = splicing.read
    assert (connection.bytes_in, connection.bytes_out) == (4 * len(MEGABYTE), 4 * len(MEGABYTE))
    there.transport.loseConnection()
    await client.sees_end()
    client.transport.loseConnection()
    await listening.site.switched.when_empty()


class Speaker(Collector):
    """A server that speaks first, as SSH, SMTP and MySQL do."""

    banner = b"SSH-2.0-Speaker\r\n"

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(self.banner)


class LongSpeaker(Speaker):
    banner = MEGABYTE


@pytest.mark.parametrize("make", [Speaker, LongSpeaker])
@pytest.mark.parametrize("far", KINDS)
@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_server_speaks_first(
    listen: Listen, serve: Servers, near: str, far: str, make: Any
) -> None:
    """What the far server says of its own accord comes right behind the 101, whole."""
    server = await serve(far, make)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await switched(client)
    await client.has(len(make.banner))
    assert client.data == make.banner


@pytest.mark.parametrize("body", [b"", b"hello world"], ids=["no body", "body"])
@pytest.mark.parametrize("size", [1, 1000, len(MEGABYTE)])
@pytest.mark.parametrize("far", KINDS)
@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_trailing_data(
    listen: Listen, serve: Servers, near: str, far: str, size: int, body: bytes
) -> None:
    """
    What the client has sent behind its request, before there was a connection to the far side,
    arrives there, once, in front of what follows.
    """
    server = await serve(far, Speaker)
    gate = Gate(server.endpoint)
    listening = await listen(near, site_of({"ssh": tunnel(gate)}))
    client = await listening.connect(Collector())
    fields = b"Content-Length: %d\r\n" % len(body) if body else b""
    client.send(upgrade_head(b"ssh", b"POST", fields=fields) + body + MEGABYTE[:size])
    await gate.until(lambda gate: gate.asked == 1)
    gate.open()
    await switched(client)
    there = await server.site.next()
    await there.has(size)
    client.send(b"and more")
    await there.has(size + 8)
    assert there.data == MEGABYTE[:size] + b"and more"
    await client.receives(Speaker.banner)
    assert client.data == Speaker.banner


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_split_behind_the_head(listen: Listen, serve: Servers, near: str, cut: int) -> None:
    """Wherever the bytes behind the head are cut in two, they arrive as one stream."""
    server = await serve("tcp")
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    head, trailing = upgrade_head(b"ssh"), b"GET /x\r\n\r\n"
    stream = head + trailing
    at = len(head) - 4 + cut
    client.send(stream[:at])
    if cut < 4:
        await listening.site.has_received(at)
    else:
        await switched(client)
    client.send(stream[at:])
    there = await server.site.next()
    await there.has(len(trailing))
    assert there.data == trailing


@half_closing_pairs
@pytest_twisted.ensureDeferred
async def test_half_close_by_the_client(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """A client's FIN arrives at the far server behind its data, whose answer still arrives."""
    server = await serve(far)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + MEGABYTE)
    await switched(client)
    client.transport.loseWriteConnection()
    there = await server.site.next()
    await there.sees_end()
    assert there.data == MEGABYTE
    there.send(MEGABYTE)
    there.transport.loseConnection()
    await client.sees_end()
    assert client.data == MEGABYTE
    await listening.site.switched.when_empty()


@half_closing_pairs
@pytest_twisted.ensureDeferred
async def test_half_close_by_the_server(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """A far server's FIN arrives at the client behind its data, whose answer still arrives."""
    server = await serve(far)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await switched(client)
    there = await server.site.next()
    there.send(MEGABYTE)
    there.transport.loseWriteConnection()
    await client.sees_end()
    assert client.data == MEGABYTE
    client.send(MEGABYTE)
    client.transport.loseConnection()
    await there.sees_end()
    assert there.data == MEGABYTE
    await listening.site.switched.when_empty()


class Brief(Speaker):
    """A server that says a word and closes."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.loseConnection()


class Mute(Collector):
    """A server that closes without a word."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.loseConnection()


@pytest.mark.parametrize("make", [Brief, Mute])
@every_pair
@pytest_twisted.ensureDeferred
async def test_far_side_closes_at_once(
    listen: Listen, serve: Servers, near: str, far: str, make: Any
) -> None:
    """The client of a far server that closes at once gets its word, if any, and sees the end."""
    server = await serve(far, make)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(ClosingCollector())
    client.send(upgrade_head(b"ssh"))
    await switched(client)
    await client.is_lost()
    assert client.data == getattr(make, "banner", b"")
    await listening.site.switched.when_empty()


class Resetting(Collector):
    """A server that resets the connection."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.abortConnection()


@pytest.mark.parametrize("far", ["tcp", "tls"])
@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_far_side_resets_at_once(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """The connection of a far server that resets does not outlive it."""
    server = await serve(far, Resetting)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(ClosingCollector())
    client.send(upgrade_head(b"ssh"))
    await client.is_lost()
    await listening.site.switched.when_empty()


@pytest.mark.parametrize(("near", "far"), [pair for pair in PAIRS if passes_end_on(*pair)])
@pytest_twisted.ensureDeferred
async def test_client_leaves(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """The far connection of a client that leaves is closed."""
    server = await serve(far, ClosingCollector)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh"))
    await switched(client)
    there = await server.site.next()
    client.send(b"bye")
    await there.receives(b"bye")
    client.transport.loseConnection()
    await there.is_lost()
    await listening.site.switched.when_empty()


@pytest.mark.parametrize("trailing", [b"hello", MEGABYTE], ids=["short", "long"])
@pytest.mark.parametrize("near", NEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_portforward_beside_it(
    listen: Listen, serve: Servers, near: str, trailing: bytes
) -> None:
    """Twisted's own ``portforward.ProxyFactory``, which knows nothing of this, does the same."""
    server = await serve("tcp", Speaker)
    port = server.port.getHost().port
    upgrades = {"ssh": tunnel(server.endpoint), "forward": ProxyFactory("127.0.0.1", port)}
    listening = await listen(near, site_of(upgrades))
    for token in (b"forward", b"ssh"):
        client = await listening.connect(Collector())
        client.send(upgrade_head(token) + trailing)
        await switched(client)
        there = await server.site.next()
        await there.has(len(trailing))
        assert there.data == trailing
        await client.receives(Speaker.banner)
        there.send(b"bye")
        await client.receives(b"bye")
        assert client.data == Speaker.banner + b"bye"


@every_pair
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Listen, serve: Servers, near: str, far: str) -> None:
    """When a tunnel has ended, reference counting alone frees it, its request and its channel."""
    server = await serve(far, ClosingCollector)
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + b"hello")
    await switched(client)
    there = await server.site.next()
    await there.receives(b"hello")
    (connection,) = listening.site.switched
    end = connection.target
    assert isinstance(end, SpliceEnd)
    assert _twisted.slot_of(end.transport).get() is end
    watched = [ref(end), ref(end.other), ref(end.splice), ref(connection)]
    watched += listening.site.channels + listening.site.requests
    del end, connection
    there.transport.loseConnection()
    client.transport.loseConnection()
    await there.is_lost()
    await listening.site.switched.when_empty()
    await turns()
    assert [weak() for weak in watched] == [None] * len(watched)


@pytest.mark.parametrize("make", [tunnel, lambda endpoint: TunnelFactory(reactor, endpoint)])
def test_no_endpoint(make: Any) -> None:
    """What is no client endpoint, a string for one too, is refused when the tunnel is made."""
    with pytest.raises(InvalidUpgrades, match="clientFromString"):
        make("tcp:127.0.0.1:22")
