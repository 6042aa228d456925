"""Proxies whose destination the client names, on streams of HTTP/2: CONNECT (RFC 9113 §8.5) and UDP."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.datagrams import UDPEcho, UDPServers, udp_site
from tests.kit.farside import Servers
from tests.kit.h2client import H2Client, client_by, h2c_site
from tests.kit.harness import reactor
from upgrade_switch.protocols import Destinations, connect_to
from upgrade_switch.protocols._udp.capsules import CapsuleReader, datagram_capsule

YES = [(b"capsule-protocol", b"?1")]


@pytest_twisted.ensureDeferred
async def test_datagrams(listen: Any, udp: Any) -> None:
    """A stream carries the datagrams of a flow there and back, and its end closes the flow."""
    echo = udp.listen(UDPEcho())
    client = await begun(listen)
    path = b"/.well-known/masque/udp/127.0.0.1/%d/" % echo.port
    stream = client.begin_connect(b"connect-udp", path, YES)
    code, fields = await client.head_of(stream)
    assert (code, fields[b"capsule-protocol"]) == (200, b"?1")
    sent = [b"hello", b"", b"x" * 30_000, b"bye"]
    for datagram in sent:
        capsule = datagram_capsule(datagram)
        for start in range(0, len(capsule), 16_000):
            client.give(stream, capsule[start : start + 16_000])
    whole = b"".join(map(datagram_capsule, sent))
    await client.until(lambda: len(client.body_of(stream)) == len(whole))
    assert sorted(CapsuleReader().feed(client.body_of(stream))) == sorted(sent)
    client.give(stream, b"", end=True)
    await client.until(lambda: stream in client.ended)
    assert len(client.site.switched) == 0


@pytest.mark.parametrize(
    ("path", "code"), [(b"/.well-known/masque/udp/127.0.0.1/0/", 400), (b"/x/", 404)]
)
@pytest_twisted.ensureDeferred
async def test_refused_flow(listen: Any, path: bytes, code: int) -> None:
    """What is wrong with a request costs its stream, and the answer says so."""
    client = await begun(listen)
    stream = client.begin_connect(b"connect-udp", path, YES)
    assert (await client.head_of(stream))[0] == code


async def begun(listen: Any) -> Any:
    """A client of a site with connect-udp, whose streams may switch."""
    site = h2c_site(http2_connect=True)
    site.resource.putChild(b".well-known", udp_site().resource.children[b".well-known"])
    listening = await listen("tls", site)
    client = await client_by("alpn", listening)
    client.site = site
    return client


@pytest_twisted.async_yield_fixture
async def serve(listen: Any) -> Any:
    """``await serve(kind)``: a listening server of another protocol, at the far end."""
    servers = Servers(listen)
    yield servers
    await servers.stop()


@pytest_twisted.async_yield_fixture
async def udp() -> Any:
    """UDP servers, which are stopped after the test."""
    servers = UDPServers()
    yield servers
    await servers.stop()


def connecting(stream_client: H2Client, authority: bytes, more: Any = ()) -> int:
    """Send a CONNECT; gives its stream."""
    stream: int = stream_client.connection.get_next_available_stream_id()
    fields = [(b":method", b"CONNECT"), (b":authority", authority), *more]
    stream_client.connection.send_headers(stream, fields)
    stream_client.flush()
    return stream


@pytest.mark.parametrize("way", ["upgrade", "knowledge", "alpn"])
@pytest_twisted.ensureDeferred
async def test_connect(listen: Any, serve: Any, way: str) -> None:
    """A CONNECT on a stream leads to its destination, with half-close; other streams go on."""
    server = await serve("tcp")
    port = server.port.getHost().port
    acceptor = connect_to(Destinations("127.0.0.1:*"), reactor)
    listening = await listen("tls" if way == "alpn" else "tcp", h2c_site(connect=acceptor))
    client = await client_by(way, listening)
    stream = connecting(client, b"127.0.0.1:%d" % port)
    client.give(stream, b"early")
    code, fields = await client.head_of(stream)
    assert (code, b"content-length" in fields) == (200, False)
    there = await server.site.next()
    await there.receives(b"early")
    assert (await client.ask(b"/page"))[0] == 200
    client.give(stream, b"hello", end=True)
    await there.receives(b"hello")
    await there.sees_end()
    there.send(b"answer")
    there.transport.loseConnection()
    await client.until(lambda: stream in client.ended)
    assert client.body_of(stream) == b"answer"
    assert client.broken == []


@pytest.mark.parametrize(
    ("authority", "code", "error"),
    [(b"10.0.0.1:80", 403, b"destination_ip_prohibited"), (b"127.0.0.1:1", 502, b"connection_refused")],
)
@pytest_twisted.ensureDeferred
async def test_refused_connect(listen: Any, authority: bytes, code: int, error: bytes) -> None:
    """A CONNECT that is refused says why, and costs its stream alone."""
    acceptor = connect_to(Destinations("127.0.0.1:*"), reactor)
    client = await client_by("alpn", await listen("tls", h2c_site(connect=acceptor)))
    stream = connecting(client, authority)
    await client.until(lambda: stream in client.ended)
    answered, fields = await client.head_of(stream)
    assert answered == code
    assert error in fields[b"proxy-status"]
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_connect_without_acceptor(listen: Any) -> None:
    """A site without an acceptor answers every CONNECT with 501, even if a page would take it."""
    client = await client_by("alpn", await listen("tls", h2c_site()))
    stream = connecting(client, b"localhost:22")
    assert (await client.head_of(stream))[0] == 501
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200
