"""
``tunnel(endpoint, proxy_protocol=True)``: the server is told who the client is, by version 2 of the
PROXY protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.protocols.haproxy._v2parser import V2Parser
from twisted.web.resource import Resource

from tests.kit.farside import Collector, Gate, Servers, switched
from tests.kit.h2client import client_by, h2c_site
from tests.kit.harness import KINDS as NEAR_KINDS
from tests.kit.harness import connected, reactor, site_of, turns, upgrade_head
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import TunnelFactory, WebSocketEndpoint, byte_stream, tunnel
from upgrade_switch.protocols._proxy_header import proxy_header

Listen = Callable[..., Any]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
#: What the kind "proxy" says of its clients (tests.kit.harness).
TOLD = (
    SIGNATURE
    + b"\x21\x11\x00\x0c"
    + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    + struct.pack("!2H", 1111, 2222)
)


def expected(kind: str, client: Any) -> bytes:
    """The header for a client of the harness."""
    if kind.startswith("unix"):
        return LOCAL
    if kind == "proxy":
        return TOLD
    here, there = client.transport.getHost(), client.transport.getPeer()
    addresses = bytes([127, 0, 0, 1, 127, 0, 0, 1])
    return SIGNATURE + b"\x21\x11\x00\x0c" + addresses + struct.pack("!2H", here.port, there.port)


@pytest.mark.parametrize("early", [b"", b"early"])
@pytest.mark.parametrize("near", [kind for kind in NEAR_KINDS if kind != "memory"])
@pytest_twisted.ensureDeferred
async def test_header(listen: Listen, serve: Servers, near: str, early: bytes) -> None:
    """The header comes first, with the client's address if it has one; then the rest."""
    server = await serve("tcp")
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint, proxy_protocol=True)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + early)
    there = await server.site.next()
    header = expected(near, client)
    # Before the client has sent anything: a server that speaks first waits for it.
    await there.has(len(header + early))
    assert there.data == header + early
    await switched(client)
    client.send(b"more")
    there.send(b"answer")
    await there.has(len(header + early + b"more"))
    await client.has(len(b"answer"))
    assert (there.data, client.data) == (header + early + b"more", b"answer")
    (connection,) = listening.site.switched
    # The header is not the client's.
    assert connection.bytes_in == len(early + b"more")


@pytest_twisted.ensureDeferred
async def test_without_it(listen: Listen, serve: Servers) -> None:
    """Without the option, nothing is sent in front."""
    server = await serve("tcp")
    listening = await listen("tcp", site_of({"ssh": tunnel(server.endpoint)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + b"early")
    there = await server.site.next()
    await there.has(5)
    assert there.data == b"early"


@pytest.mark.parametrize("near", ["tcp", "unix", "proxy"])
@pytest_twisted.ensureDeferred
async def test_preface(listen: Listen, serve: Servers, near: str) -> None:
    """The same for a connection that begins with a preface."""
    server = await serve("tcp")
    prefaces = {b"SSH-": TunnelFactory(reactor, server.endpoint, proxy_protocol=True)}
    listening = await listen(near, site_of(Resource(), prefaces=prefaces))
    client = await listening.connect(Collector())
    client.send(b"SSH-2.0-")
    there = await server.site.next()
    header = expected(near, client)
    await there.has(len(header + b"SSH-2.0-"))
    assert there.data == header + b"SSH-2.0-"


@pytest.mark.parametrize("near", ["tcp", "tls", "proxy", "unix"])
@pytest_twisted.ensureDeferred
async def test_read_by_twisted(listen: Listen, serve: Servers, near: str) -> None:
    """Twisted's ``haproxy:`` takes the header off, and knows the client's address from it."""
    server = await serve("proxy")
    listening = await listen(near, site_of({"ssh": tunnel(server.endpoint, proxy_protocol=True)}))
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"ssh") + b"hello")
    there = await server.site.next()
    await there.has(5)
    assert there.data == b"hello"
    if near == "unix":
        return
    told = there.transport.getPeer()
    ours = client.transport.getHost()
    assert (told.host, told.port) == (
        ("192.0.2.1", 1111) if near == "proxy" else (ours.host, ours.port)
    )


@pytest_twisted.ensureDeferred
async def test_stream_of_http2(listen: Listen, serve: Servers) -> None:
    """A client on a stream of HTTP/2 is the one at the other end of the connection."""
    server = await serve("tcp")
    at_u = UpgradeResource({"ssh": tunnel(server.endpoint, proxy_protocol=True)})
    listening = await listen("tls", h2c_site(at_u, http2_connect=True))
    client = await client_by("alpn", listening)
    stream = client.begin_connect(b"ssh", b"/u")
    assert (await client.head_of(stream))[0] == 200
    there = await server.site.next()
    header = expected("tls", client)
    client.give(stream, b"hello")
    await there.has(len(header) + 5)
    assert there.data == header + b"hello"


@pytest_twisted.ensureDeferred
async def test_in_messages(listen: Listen, serve: Servers) -> None:
    """Through a WebSocket, the header comes once, and in no message's place."""
    server = await serve("tcp")
    at_u = {"websocket": byte_stream(tunnel(server.endpoint, proxy_protocol=True))}
    listening = await listen("tcp", site_of(at_u))
    client = Collector()
    await connected(WebSocketEndpoint(reactor, f"{listening.url}/u"), client)
    client.send(b"hello")
    there = await server.site.next()
    await there.has(28 + 5)
    assert there.data[:12] == SIGNATURE
    assert there.data[28:] == b"hello"
    there.send(b"answer")
    await client.has(6)
    assert client.data == b"answer"
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_client_has_left(listen: Listen, serve: Servers) -> None:
    """Of a client that leaves while the server is being connected to, the server hears nothing."""
    server = await serve("tcp")
    gate = Gate(server.endpoint)
    listening = await listen("tcp", site_of({"ssh": tunnel(gate, proxy_protocol=True)}))
    await gate.sees_a_client_leave(listening)
    gate.open()
    there = await server.site.next()
    await there.is_lost()
    assert there.data == b""


class Leaving(Collector):
    """A server that leaves before it has read anything."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_server_has_left(listen: Listen, serve: Servers) -> None:
    """A server that resets the connection before it has read the header: the client is reset, too."""
    server = await serve("tcp", Leaving)
    listening = await listen("tcp", site_of({"ssh": tunnel(server.endpoint, proxy_protocol=True)}))
    for early in (b"", b"early"):
        client = await listening.connect(Collector())
        client.send(upgrade_head(b"ssh") + early)
        await client.is_lost()
    await turns()
    assert not listening.site.switched


V4, ALSO_V4 = IPv4Address("TCP", "192.0.2.1", 1), IPv4Address("TCP", "192.0.2.2", 2)
ADDRESSES = {
    "IPv4": (V4, ALSO_V4, "192.0.2.1", "192.0.2.2"),
    "IPv6": (
        IPv6Address("TCP", "2001:db8::1", 1),
        IPv6Address("TCP", "2001:db8::2", 2),
        "2001:db8:0:0:0:0:0:1",
        "2001:db8:0:0:0:0:0:2",
    ),
    # A listening socket for both has IPv4 in its own spelling.
    "mapped": (
        IPv6Address("TCP", "::ffff:192.0.2.1", 1),
        IPv6Address("TCP", "::ffff:192.0.2.2", 2),
        "192.0.2.1",
        "192.0.2.2",
    ),
    "zone": (
        IPv6Address("TCP", "fe80::1%eth0", 1),
        IPv6Address("TCP", "fe80::2%eth0", 2),
        "fe80:0:0:0:0:0:0:1",
        "fe80:0:0:0:0:0:0:2",
    ),
    "mixed": (
        V4,
        IPv6Address("TCP", "2001:db8::2", 2),
        "0:0:0:0:0:ffff:c000:201",
        "2001:db8:0:0:0:0:0:2",
    ),
    "unknown here": (V4, UNIXAddress("/run/x"), "192.0.2.1", "0.0.0.0"),
    "a name here": (V4, IPv4Address("TCP", "a.io", 2), "192.0.2.1", "0.0.0.0"),
}


@pytest.mark.parametrize(("client", "here", "source", "destination"), ADDRESSES.values(), ids=ADDRESSES)
def test_addresses(client: Any, here: Any, source: str, destination: str) -> None:
    """Twisted's parser reads the addresses that were given."""
    info = V2Parser.parse(proxy_header(client, here))
    assert (info.source.host, info.source.port) == (source, 1)
    assert info.destination.host == destination


@pytest.mark.parametrize(
    "client", [None, UNIXAddress(None), UNIXAddress("/run/x"), IPv4Address("TCP", "a.io", 1)]
)
def test_local(client: Any) -> None:
    """A client without an IP address is LOCAL, and nothing is said of it."""
    header = proxy_header(client, V4)
    assert header == LOCAL
    info = V2Parser.parse(header)
    assert (info.source, info.destination) == (None, None)
