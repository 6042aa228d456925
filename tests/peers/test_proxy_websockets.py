"""
WebSockets through a proxy, with clients and back ends that others have written; and other upgrades.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import pytest_twisted
import websockets.sync.client

from tests.kit.back_ends.fixtures import back_end, in_thread, node, proxies
from tests.kit.back_ends.running import KINDS
from tests.kit.commands import PATIENCE, read_all, read_until
from tests.kit.peers import (
    CLIENTS,
    COMPRESSING_CLIENTS,
    PLEASE_CLOSE,
    PLEASE_PING,
    REFUSED,
    SERVERS,
    WELCOME,
    RefusedError,
    WebsocketsClient,
    connected,
    echoes,
)

__all__ = ["back_end", "node", "proxies"]  # fixtures

MANY = random.Random(8).randbytes(1_000_000)
TEXT = "ä€😀" * 100_000

kinds = pytest.mark.parametrize("kind", KINDS)
clients = pytest.mark.parametrize("client_kind", CLIENTS)


def port_of(proxy: Any) -> int:
    port: int = proxy.port.getHost().port
    return port


def url_to(proxy: Any, path: str = "/") -> str:
    return f"ws://127.0.0.1:{port_of(proxy)}{path}"


async def is_over(proxy: Any) -> None:
    """Nothing is left of what has switched."""
    await proxy.site.switched.when_empty()


@kinds
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest_twisted.ensureDeferred
async def test_messages(back_end: Any, proxies: Any, kind: str, compress: bool) -> None:
    """Messages come back as they were, a megabyte too, with permessage-deflate and without."""

    def talk(url: str) -> None:
        with connected(WebsocketsClient, url, compress=compress) as client:
            assert client.compresses is compress
            echoes(client, "text", b"\x00\xff", "", b"", TEXT, MANY)

    proxy = await proxies(back_end.urls[kind])
    await in_thread(talk, url_to(proxy))
    await is_over(proxy)
    await in_thread(back_end.closed)


@kinds
@pytest_twisted.ensureDeferred
async def test_fragments(back_end: Any, proxies: Any, kind: str) -> None:
    """A message in fragments comes back, with another client's beside it."""

    def talk(url: str) -> None:
        with (
            websockets.sync.client.connect(url, max_size=None, proxy=None) as one,
            websockets.sync.client.connect(url, max_size=None, proxy=None) as two,
        ):
            one.send(["a", "b" * 70_000, "c"])
            two.send([b"x", MANY, b"z"])
            assert one.recv(PATIENCE) == "a" + "b" * 70_000 + "c"
            assert two.recv(PATIENCE) == b"x" + MANY + b"z"

    proxy = await proxies(back_end.urls[kind])
    await in_thread(talk, url_to(proxy))
    for _ in range(2):
        await in_thread(back_end.closed)


@kinds
@pytest.mark.parametrize(("offered", "chosen"), [((), None), (("a", "b"), "b")])
@pytest_twisted.ensureDeferred
async def test_subprotocol(
    back_end: Any, proxies: Any, kind: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    """The client knows the subprotocol that the back end has chosen, or that it chose none."""

    def talk(url: str) -> None:
        with connected(WebsocketsClient, url, offered) as client:
            assert client.subprotocol == chosen
            echoes(client, "text")
        back_end.closed()

    await in_thread(talk, url_to(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_client_closes(back_end: Any, proxies: Any, kind: str) -> None:
    """The client's close code and reason arrive at the back end."""

    def talk(url: str) -> Any:
        with connected(WebsocketsClient, url) as client:
            client.close(4001, "bye")
        return back_end.closed()

    proxy = await proxies(back_end.urls[kind])
    code, reason = await in_thread(talk, url_to(proxy))
    await is_over(proxy)
    # aiohttp does not tell its users the reason.
    assert (code, reason) == (4001, "" if back_end.name == "aiohttp" else "bye")


@kinds
@pytest_twisted.ensureDeferred
async def test_back_end_closes(back_end: Any, proxies: Any, kind: str) -> None:
    """The back end's close code and reason arrive at the client."""

    def talk(url: str) -> None:
        with connected(WebsocketsClient, url) as client:
            client.send(PLEASE_CLOSE)
            assert client.closed() == (4002, "done")
        back_end.closed()

    proxy = await proxies(back_end.urls[kind])
    await in_thread(talk, url_to(proxy))
    await is_over(proxy)


@kinds
@pytest_twisted.ensureDeferred
async def test_welcome(back_end: Any, proxies: Any, kind: str) -> None:
    """What the back end sends in one go with its 101 is not lost."""

    def talk(url: str) -> None:
        with connected(WebsocketsClient, url) as client:
            assert client.receive() == "welcome"
            echoes(client, "text")
        back_end.closed()

    await in_thread(talk, url_to(await proxies(back_end.urls[kind]), WELCOME))


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@kinds
@pytest_twisted.ensureDeferred
async def test_refused(back_end: Any, proxies: Any, kind: str) -> None:
    """A refusal comes with its body, and the client's connection goes on: to pages, to a WebSocket."""

    def talk(port: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
            client.connect()
            connection = client.sock
            for _ in range(2):
                client.request("GET", REFUSED, headers=HANDSHAKE)
                response = client.getresponse()
                assert (response.status, b"Forbidden" in response.read()) == (403, True)
                client.request("GET", "/page")
                assert client.getresponse().read() == b"page"
            client.request("GET", WELCOME, headers=HANDSHAKE)
            head = read_until(connection, b"\x81\x07welcome")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert client.sock is connection
        back_end.closed()

    proxy = await proxies(back_end.urls[kind])
    await in_thread(talk, port_of(proxy))
    await is_over(proxy)


@pytest_twisted.async_yield_fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> Any:
    """A server that speaks WebSocket only."""
    running = request.param()
    yield running
    await in_thread(running.end)


@pytest_twisted.ensureDeferred
async def test_servers(server: Any, proxies: Any) -> None:
    """In front of a server that speaks WebSocket only, all of it passes."""

    def talk(url: str) -> None:
        with connected(WebsocketsClient, url + WELCOME[1:], ("a", "b"), True) as client:
            assert (client.subprotocol, client.compresses) == ("b", True)
            assert client.receive() == "welcome"
            echoes(client, "text", TEXT, MANY)
            client.ping("anybody")
            client.send(PLEASE_PING)
            assert client.receive() == "pong there?"
            client.close(4001, "bye")
        assert server.closed() == (4001, "bye")
        with pytest.raises(RefusedError) as info:
            WebsocketsClient(url + REFUSED[1:], [], False)
        assert info.value.args == (403,)

    proxy = await proxies(f"http://127.0.0.1:{server.port}")
    await in_thread(talk, url_to(proxy))
    await is_over(proxy)


@clients
@pytest_twisted.ensureDeferred
async def test_clients(node: Any, proxies: Any, client_kind: Any) -> None:
    """Each client's messages, pings and codes pass, and it sees refusals."""

    def talk(url: str) -> None:
        with connected(client_kind, url + WELCOME[1:], ("a", "b")) as client:
            assert client.subprotocol == "b"
            assert client.receive() == "welcome"
            echoes(client, "text", b"\x00\xff", "", b"", TEXT, MANY)
            client.ping("anybody")
            client.send(PLEASE_CLOSE)
            assert client.closed() == (4002, "done")
        node.closed()
        with connected(client_kind, url) as client:
            client.close(4001, "bye")
        assert node.closed() == (4001, "bye")
        with pytest.raises(RefusedError) as info:
            client_kind(url + REFUSED[1:], [], False)
        assert info.value.args == (403,)

    proxy = await proxies(node.urls["tcp"])
    await in_thread(talk, url_to(proxy))
    await is_over(proxy)


@pytest.mark.parametrize("client_kind", COMPRESSING_CLIENTS)
@pytest_twisted.ensureDeferred
async def test_compressing_clients(node: Any, proxies: Any, client_kind: Any) -> None:
    """Each client that can compress does so."""

    def talk(url: str) -> None:
        with connected(client_kind, url, compress=True) as client:
            assert client.compresses
            echoes(client, "text", "text", b"", TEXT, MANY, bytes(1_000_000))
        node.closed()

    await in_thread(talk, url_to(await proxies(node.urls["tcp"])))


# Node's server with tokens of its own.


@contextmanager
def switching(port: int, *lines: bytes, content: bytes = b"", behind: bytes = b"") -> Iterator[Any]:
    """A socket on which a request has been sent."""
    head = b"\r\n".join([*lines, b"Host: localhost", b"Connection: Upgrade", b"", b""])
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(head + content + behind)
        yield client


RAW = b"GET / HTTP/1.1", b"Upgrade: raw"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_half_close(node: Any, proxies: Any, kind: str) -> None:
    """
    Behind a 101, what either side sends early arrives, and an end of the client's side is passed on:
    what the back end says after it comes.
    """

    def talk(port: int) -> None:
        with switching(port, *RAW, behind=b"mine") as client:
            head, _, rest = read_until(client, b"earlymine").partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"Upgrade: raw" in head
            client.sendall(MANY)
            client.shutdown(socket.SHUT_WR)
            assert rest + read_all(client) == b"earlymine" + MANY + b"late"

    proxy = await proxies(node.urls[kind], tokens=["raw"])
    await in_thread(talk, port_of(proxy))
    await is_over(proxy)


@pytest_twisted.ensureDeferred
async def test_end_over_tls(node: Any, proxies: Any) -> None:
    """A back end with TLS hears that the client has finished sending, and what it says then arrives."""

    def talk(port: int) -> None:
        with switching(port, *RAW) as client:
            read_until(client, b"early")
            client.sendall(b"mine")
            read_until(client, b"mine")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"late"

    proxy = await proxies(node.urls["tls"], tokens=["raw"])
    await in_thread(talk, port_of(proxy))
    await is_over(proxy)


@kinds
@pytest_twisted.ensureDeferred
async def test_other_tokens(node: Any, proxies: Any, kind: str) -> None:
    """A token that is not passed on reaches nobody: the request is an ordinary one."""

    def talk(port: int) -> None:
        lines = b"GET /asked HTTP/1.1", b"Upgrade: raw, h2c"
        with switching(port, *lines) as client:
            with closing(http.client.HTTPResponse(client)) as response:
                response.begin()
                assert response.status == 200
                names = {name.lower() for name, _ in json.loads(response.read())["fields"]}
            assert "upgrade" not in names
            client.sendall(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_until(client, b"page").startswith(b"HTTP/1.1 200 ")

    await in_thread(talk, port_of(await proxies(node.urls[kind])))


CONTENT = b'{"Tty":true}'

EXEC = (
    b"POST /exec/1/start HTTP/1.1",
    b"Upgrade: tcp",
    b"Content-Type: application/json",
    b"Content-Length: %d" % len(CONTENT),
)


@kinds
@pytest.mark.parametrize("cut", [0, 1, len(CONTENT)])
@pytest_twisted.ensureDeferred
async def test_like_docker(node: Any, proxies: Any, kind: str, cut: int) -> None:
    """
    A POST whose content comes behind its head is answered 101 UPGRADED, and the connection is a stream,
    until the client ends its side.
    """

    def talk(port: int) -> None:
        with switching(port, *EXEC, content=CONTENT[:cut]) as client:
            client.sendall(CONTENT[cut:])
            head, _, rest = read_until(client, b"early").partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
            assert b"application/vnd.docker.raw-stream" in head
            client.sendall(b"mine")
            rest += read_until(client, b"mine")
            client.shutdown(socket.SHUT_WR)
            assert rest + read_all(client) == b"earlyminelate"
        assert node.tells("exec") == ["exec", {"Tty": True}]

    proxy = await proxies(node.urls[kind], tokens=["tcp"])
    await in_thread(talk, port_of(proxy))
    await is_over(proxy)
