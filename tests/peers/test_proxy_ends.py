"""
Ends through a proxy, of clients and of servers of Node's: each is passed on as what it was.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted

from tests.kit.back_ends.clients import ask, connect, port_of
from tests.kit.back_ends.fixtures import in_thread, node, proxies
from tests.kit.back_ends.running import KINDS, BackEnd
from tests.kit.commands import PATIENCE, read_all, read_until, reset
from tests.kit.foreign import needs
from tests.kit.harness import patient, reactor, upgrade_head

__all__ = ["node", "proxies"]  # fixtures

pytestmark = [needs("node"), needs("ws (of Node)")]

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def mortal() -> Any:
    """A server of Node's that may be killed."""
    running = BackEnd("node")
    yield running
    running.end()


@contextmanager
def asking(port: int, path: bytes, version: bytes = b"1.1") -> Iterator[Any]:
    """A client that has sent a request."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"GET %b HTTP/%b\r\nHost: localhost\r\n\r\n" % (path, version))
        yield client


@kinds
@pytest_twisted.ensureDeferred
async def test_client_leaves(node: Any, proxies: Any, kind: str) -> None:
    """When a client leaves a stream of events, the back end hears of it."""

    def talk(port: int) -> None:
        with asking(port, b"/events") as client:
            read_until(client, b"\r\n\r\n")
        assert node.tells("left") == ["left"]

    await in_thread(talk, port_of(await proxies(node.urls[kind])))


@kinds
@pytest.mark.parametrize("path", [b"/events", b"/stuck"])
@pytest_twisted.ensureDeferred
async def test_back_end_dies(mortal: Any, proxies: Any, kind: str, path: bytes) -> None:
    """
    If the back end dies in the middle of an answer, no client takes a part for the whole; then requests
    get 502.
    """

    def talk(port: int) -> None:
        with asking(port, path) as client, asking(port, b"/events", b"1.0") as old:
            response = http.client.HTTPResponse(client)
            response.begin()
            read_until(old, b"\r\n\r\n")
            mortal.kill()
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                response.read()
            response.close()
            # Without a length and without chunks, nothing else says so.
            with pytest.raises(ConnectionResetError):
                old.recv(1)
        with connect(port) as client:
            assert ask(client, "GET", "/page")[0].status == 502

    await in_thread(talk, port_of(await proxies(mortal.urls[kind])))


HANDSHAKE = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@contextmanager
def welcomed(port: int) -> Iterator[Any]:
    """A WebSocket's client that has got its first message."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(upgrade_head(b"websocket", path=b"/welcome", fields=HANDSHAKE))
        read_until(client, b"\x81\x07welcome")
        yield client


@kinds
@pytest.mark.parametrize("how", ["closed", "reset", "aborted"])
@pytest_twisted.ensureDeferred
async def test_websocket_client_is_gone(node: Any, proxies: Any, kind: str, how: str) -> None:
    """
    A client that goes without a Close frame, by FIN or by RST, or is ended by the site, is gone for the
    back end, too.
    """

    def talk(port: int) -> None:
        with welcomed(port) as client:
            if how == "aborted":
                reactor.callFromThread(lambda: [each.abort() for each in proxy.site.switched])
                assert read_all(client) == b""
            elif how == "reset":
                reset(client)
        assert node.closed() == (1006, "")

    proxy = await proxies(node.urls[kind])
    await in_thread(talk, port_of(proxy))
    await patient(proxy.site.switched.when_empty())


@kinds
@pytest_twisted.ensureDeferred
async def test_websocket_back_end_is_gone(mortal: Any, proxies: Any, kind: str) -> None:
    """A client hears at once that the back end has died."""

    def talk(port: int) -> None:
        with welcomed(port) as client:
            mortal.kill()
            assert read_all(client) == b""

    proxy = await proxies(mortal.urls[kind])
    await in_thread(talk, port_of(proxy))
    await patient(proxy.site.switched.when_empty())


@kinds
@pytest_twisted.ensureDeferred
async def test_upload_is_cut_off(node: Any, proxies: Any, kind: str) -> None:
    """If a client leaves in the middle of its content, the back end does not take it for the whole."""

    def talk(port: int) -> None:
        head = b"POST /digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(head + bytes(50_000))
        assert node.tells("left") == ["left"]
        with connect(port) as client:
            assert ask(client, "GET", "/page")[1] == b"page"

    proxy = await proxies(node.urls[kind])
    await in_thread(talk, port_of(proxy))


# HTTP/2 with the client.


def curling(proxy: Any, path: str) -> Any:
    """curl, which does not look at certificates."""
    command = ["curl", "-sSkN", "--http2", "--noproxy", "*", f"{proxy.url}{path}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@needs("curl")
@pytest_twisted.ensureDeferred
async def test_http2_client_leaves(node: Any, proxies: Any) -> None:
    """When a client of HTTP/2 leaves a stream of events, the back end hears of it."""

    def talk(port: int) -> None:
        with curling(proxy, "/events") as client:
            with connect(port) as other:
                assert ask(other, "POST", "/next", b"one")[0].status == 204
            assert client.stdout.readline() == b"data: one\n"
            client.kill()
            assert node.tells("left") == ["left"]

    plain, proxy = [await proxies(node.urls["tcp"], kind) for kind in ("tcp", "tls")]
    await in_thread(talk, port_of(plain))


@needs("curl")
@kinds
@pytest.mark.parametrize("path", ["/events", "/stuck"])
@pytest_twisted.ensureDeferred
async def test_http2_back_end_dies(mortal: Any, proxies: Any, kind: str, path: str) -> None:
    """If the back end dies in the middle of an answer, a client of HTTP/2 sees that, too."""

    def talk(port: int) -> None:
        with curling(proxy, path) as client:
            if path == "/events":
                with connect(port) as other:
                    assert ask(other, "POST", "/next", b"one")[0].status == 204
            assert client.stdout.read(5) in (b"data:", b"12345")
            mortal.kill()
            _, said = client.communicate(timeout=PATIENCE)
            # 92: the stream was not closed cleanly; 55 and 56: neither was the connection.
            assert client.returncode in (55, 56, 92), said

    plain, proxy = [await proxies(mortal.urls[kind], near) for near in ("tcp", "tls")]
    await in_thread(talk, port_of(plain))
