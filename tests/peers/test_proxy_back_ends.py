"""
A proxy in front of servers of others, and of our own: HTTP over TCP, TLS and UNIX sockets.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.kit.back_ends.clients import ask, connect, digest_of, pieces, port_of
from tests.kit.back_ends.fixtures import back_end, in_thread, proxies
from tests.kit.back_ends.running import KINDS, LARGE_FILE
from tests.kit.commands import PATIENCE
from tests.kit.streamed import chunk

__all__ = ["back_end", "proxies"]  # fixtures

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest_twisted.ensureDeferred
async def test_pages(back_end: Any, proxies: Any, kind: str) -> None:
    """GET, HEAD, a query, a 304 and a 204 pass, on one connection of the client's."""

    def talk(port: int) -> None:
        with connect(port) as client:
            response, body = ask(client, "GET", "/page")
            assert (response.status, body) == (200, b"page")
            connection = client.sock
            etag = response.headers["ETag"]
            response, body = ask(client, "GET", "/page", headers={"If-None-Match": etag})
            assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
            if back_end.name != "uvicorn":
                # ASGI leaves HEAD to the application.
                response, body = ask(client, "HEAD", "/page")
                assert (response.status, body) == (200, b"")
            response, body = ask(client, "GET", "/asked?a=%2F&b")
            assert json.loads(body)["target"] == "/asked?a=%2F&b"
            response, body = ask(client, "POST", "/next", b"line")
            assert (response.status, body) == (204, b"")
            response, body = ask(client, "GET", "/poll")
            assert (response.status, body) == (200, b"line")
            assert client.sock is connection

    proxy = await proxies(back_end.urls[kind])
    await in_thread(talk, port_of(proxy))
    assert len(proxy.site.channels) == 1


@kinds
@pytest_twisted.ensureDeferred
async def test_connection_is_kept(back_end: Any, proxies: Any, kind: str) -> None:
    """The connection to the back end serves one request after the other, of several clients."""

    def talk(port: int) -> None:
        seen = set()
        for content in (b"a", b"b", b"c"):
            with connect(port) as client:
                assert ask(client, "POST", "/digest", content)[1] == digest_of(content)
                seen.add(json.loads(ask(client, "GET", "/asked")[1])["port"])
        # UNIX sockets have none: one of None.
        assert len(seen) == 1

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_fields(back_end: Any, proxies: Any, kind: str) -> None:
    """The back end sees the client's Host and address, and nothing of the client's connection."""

    def talk(port: int) -> None:
        with connect(port) as client:
            fields = {
                "Connection": "keep-alive, X-Own",
                "Keep-Alive": "300",
                "X-Own": "1",
                "TE": "trailers",
                "X-Forwarded-For": "192.0.2.1",
                "X-Kept": "as it is",
            }
            asked = json.loads(ask(client, "GET", "/asked", headers=fields)[1])
            seen = {name.lower(): value for name, value in asked["fields"]}
            assert seen["host"] == f"127.0.0.1:{port}"
            assert seen["x-forwarded-for"] == "127.0.0.1"
            assert seen["x-forwarded-proto"] == "http"
            assert seen["x-kept"] == "as it is"
            assert seen["via"].startswith("1.1 ")
            assert not {"connection", "keep-alive", "x-own", "te"} & seen.keys()

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest_twisted.ensureDeferred
async def test_uploads(back_end: Any, proxies: Any, kind: str, size: int) -> None:
    """Contents arrive as they were, by POST and PUT, of known length and in chunks."""
    content = LARGE_FILE[:size]

    def talk(port: int) -> None:
        with connect(port) as client:
            for method in ("POST", "PUT"):
                known = ask(client, method, "/digest", content)
                chunked = ask(client, method, "/digest", pieces(content), encode_chunked=True)
                assert known[1] == chunked[1] == digest_of(content)

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_downloads(back_end: Any, proxies: Any, kind: str) -> None:
    """Three megabytes come as they were, of known length and in chunks; the connection goes on."""

    def talk(port: int) -> None:
        with connect(port) as client:
            response, body = ask(client, "GET", "/large")
            assert response.headers["Content-Length"] == str(len(LARGE_FILE))
            assert body == LARGE_FILE
            connection = client.sock
            response, body = ask(client, "GET", "/large?chunked")
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert body == LARGE_FILE
            assert ask(client, "GET", "/page")[1] == b"page"
            assert client.sock is connection

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_http_1_0(back_end: Any, proxies: Any, kind: str) -> None:
    """A client of HTTP/1.0 gets a body of unknown length until the connection's end, and no chunks."""

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(b"GET /large?chunked HTTP/1.0\r\n\r\n")
            with closing(http.client.HTTPResponse(client)) as response:
                response.begin()
                assert response.headers["Transfer-Encoding"] is None
                assert response.read() == LARGE_FILE

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_events(back_end: Any, proxies: Any, kind: str) -> None:
    """Server-sent events come one by one, each before the next has been made."""

    def talk(port: int) -> None:
        with connect(port) as client, connect(port) as other:
            client.request("GET", "/events")
            response = client.getresponse()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            for line in (b"one", b"two", b"end"):
                assert ask(other, "POST", "/next", line)[0].status == 204
                assert response.readline() == b"data: " + line + b"\n"
                assert response.readline() == b"\n"
            assert response.read() == b""

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_long_polling(back_end: Any, proxies: Any, kind: str) -> None:
    """An answer that takes its time comes when there is something to say."""

    def talk(port: int) -> None:
        with connect(port) as client, connect(port) as other:
            for line in (b"one", b"two"):
                client.request("GET", "/poll")
                assert ask(other, "POST", "/next", line)[0].status == 204
                assert client.getresponse().read() == line

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@kinds
@pytest_twisted.ensureDeferred
async def test_both_ways_at_once(back_end: Any, proxies: Any, kind: str) -> None:
    """An answer may begin in the middle of its request: a part comes back before the next is sent."""

    def talk(port: int) -> None:
        head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(head + chunk(b"first\n"))
            with closing(http.client.HTTPResponse(client)) as response:
                response.begin()
                assert response.readline() == b"first\n"
                for line in (b"second\n", b"third\n"):
                    client.sendall(chunk(line))
                    assert response.readline() == line
                client.sendall(chunk(b""))
                assert response.read() == b""

    await in_thread(talk, port_of(await proxies(back_end.urls[kind])))


@pytest_twisted.ensureDeferred
async def test_http_server(proxies: Any, tmp_path: Path) -> None:
    """Python's http.server, which speaks HTTP/1.0, shows its files, whose ends are the connection's."""
    (tmp_path / "large").write_bytes(LARGE_FILE)
    # Its log is the only thing that says where it listens: "Serving HTTP on 127.0.0.1 port 1234 ...".
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]

    def talk(port: int) -> None:
        with connect(port) as client:
            connection = None
            for _ in range(2):
                response, body = ask(client, "GET", "/large")
                assert (response.status, body) == (200, LARGE_FILE)
                assert client.sock is (connection := connection or client.sock)
            assert ask(client, "HEAD", "/large")[0].headers["Content-Length"] == str(len(LARGE_FILE))
            response, body = ask(client, "GET", "/nothing")
            assert (response.status, b"File not found" in body) == (404, True)
            assert ask(client, "POST", "/large", LARGE_FILE[:10])[0].status == 501
            assert b"large</a>" in ask(client, "GET", "/")[1]

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            port = int((await in_thread(process.stdout.readline)).split()[5])
            await in_thread(talk, port_of(await proxies(f"http://127.0.0.1:{port}")))
        finally:
            process.kill()
