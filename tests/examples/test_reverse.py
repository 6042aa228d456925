"""
Reverse HTTP, of the examples: visitors, the public server, and the device that nobody can connect to.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from tests.kit.commands import read_all, read_until
from tests.kit.examples import Example, refused, running, serving

SECRET = {"DEVICE_SECRET": "open sesame"}

HELLO = b"hello from behind the firewall\n"
MUCH = random.Random(6).randbytes(20_000_000)


@pytest.fixture
def server() -> Iterator[Example]:
    """The public server, which no device has come to yet."""
    with serving("reverse_http.py", "serve", **SECRET) as example:
        yield example


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the device serves."""
    path = tmp_path_factory.mktemp("device")
    (path / "hello.txt").write_bytes(HELLO)
    (path / "a name").write_bytes(HELLO)
    (path / "much").write_bytes(MUCH)
    return path


@contextmanager
def device(server: Example, folder: Path) -> Iterator[Example]:
    """The device, connected."""
    url = f"{server.url}/device"
    with running("reverse_http.py", "device", url, str(folder), **SECRET) as example:
        assert example.says() == f"serving {folder} at {url}"
        assert server.says() == "the device is connected"
        yield example


@contextmanager
def asking(
    server: Example, path: str, method: str = "GET", body: bytes | None = None, **fields: str
) -> Iterator[HTTPResponse]:
    """A visitor's request, and the response to it."""
    visitor = HTTPConnection("127.0.0.1", server.port, timeout=60)
    visitor.request(method, f"/device{path}", body, fields)
    response = visitor.getresponse()
    try:
        yield response
    finally:
        response.close()
        visitor.close()


def status(server: Example, path: str) -> int:
    with asking(server, path) as response:
        response.read()
        return response.status


@contextmanager
def scripted_device(server: Example) -> Iterator[socket.socket]:
    """A device that does what a test wants, connected."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(
            b"GET /device HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: PTTH/1.0\r\nAuthorization: Bearer open sesame\r\n\r\n"
        )
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert server.says() == "the device is connected"
        yield connection


@contextmanager
def visitor(server: Example, request: bytes) -> Iterator[socket.socket]:
    """A visitor who has sent a request, and has not got the answer yet."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(request)
        yield connection


GET = b"GET /device/x HTTP/1.1\r\nHost: public.example\r\n\r\n"


def test_files(server: Example, folder: Path) -> None:
    """Visitors get what the device serves: files small and large, parts of them, and its errors."""
    with device(server, folder):
        with asking(server, "/hello.txt") as response:
            assert (response.status, response.read()) == (200, HELLO)
            assert response.headers["content-type"] == "text/plain"
        with asking(server, "/a%20name?some=query") as response:
            assert (response.status, response.read()) == (200, HELLO)
        with asking(server, "/much") as response:
            assert hashlib.sha256(response.read()).digest() == hashlib.sha256(MUCH).digest()
        with asking(server, "/much", Range="bytes=7-11") as response:
            assert (response.status, response.read()) == (206, MUCH[7:12])
        with asking(server, "/hello.txt", method="HEAD") as response:
            assert (response.status, response.read()) == (200, b"")
        with asking(server, "/hello.txt", method="POST", body=b"a=b") as response:
            assert (response.status, response.headers["allow"]) == (405, "HEAD, GET")
        assert status(server, "/nothing") == 404
        # A visitor cannot climb out of the folder.
        assert status(server, "/..%2f..%2fetc%2fpasswd") == 404
    assert server.says() == "the device has gone"


def test_no_device(server: Example, folder: Path) -> None:
    """Without the device, before it and after it, there is 503."""
    assert status(server, "/hello.txt") == 503
    with device(server, folder):
        assert status(server, "/hello.txt") == 200
    assert server.says() == "the device has gone"
    assert status(server, "/hello.txt") == 503


def test_wrong_secret(server: Example, folder: Path) -> None:
    """Who does not know the secret does not become the device, and says why."""
    url = f"{server.url}/device"
    line = refused("reverse_http.py", "device", url, str(folder), DEVICE_SECRET="guessed")
    assert line.startswith("the server did not switch protocols: 403 Forbidden")
    assert status(server, "/hello.txt") == 503


def test_no_server(server: Example, folder: Path) -> None:
    """Where nobody listens, the device says so."""
    assert status(server, "/") == 503
    assert server.finishes() == (0, "")
    line = refused("reverse_http.py", "device", f"{server.url}/device", str(folder), **SECRET)
    assert "refused" in line


def test_visitor_leaves(server: Example, folder: Path) -> None:
    """A visitor who leaves in the middle ends the connection; the device comes again."""
    with device(server, folder):
        with asking(server, "/much") as response:
            response.read(1000)
        assert server.says() == "the device has gone"
        assert server.says() == "the device is connected"
        assert status(server, "/hello.txt") == 200


def test_request(server: Example) -> None:
    """The device gets the path as it was asked for, the body, and no field of the other connection."""
    request = (
        b"POST /device/a%2fb//?c=d&e HTTP/1.1\r\nHost: public.example\r\n"
        b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-End: 2\r\nTE: trailers\r\n"
        b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"
    )
    with scripted_device(server) as connection, visitor(server, request) as asking:
        head, _, body = read_until(connection, b"body").partition(b"\r\n\r\n")
        line, *fields = head.lower().split(b"\r\n")
        assert line == b"post /a%2fb//?c=d&e http/1.1"
        assert sorted(fields) == [b"content-length: 4", b"host: public.example", b"x-end: 2"]
        assert body == b"body"
        connection.sendall(
            b"HTTP/1.1 201 Made\r\nContent-Length: 3\r\nX-End: 3\r\nKeep-Alive: timeout=5\r\n\r\nyes"
        )
        answer = read_until(asking, b"0\r\n\r\n")
        assert b"HTTP/1.1 201 Made\r\n" in answer
        assert b"x-end: 3\r\n" in answer.lower()
        assert b"keep-alive" not in answer.lower()
        assert answer.endswith(b"3\r\nyes\r\n0\r\n\r\n")


def test_one_after_the_other(server: Example) -> None:
    """A second request is sent when the first has its answer."""
    with (
        scripted_device(server) as connection,
        visitor(server, GET) as first,
        visitor(server, GET.replace(b"/x", b"/y")) as second,
    ):
        for answer in (b"one", b"two"):
            heard = read_until(connection, b"\r\n\r\n")
            assert heard.count(b"HTTP/1.1\r\n") == 1
            # Which of the two comes first is not known.
            asking = first if heard.startswith(b"GET /x ") else second
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + answer)
            assert b"3\r\n" + answer + b"\r\n" in read_until(asking, b"0\r\n\r\n")


def test_device_goes_before_its_answer(server: Example) -> None:
    """A device that goes before it has answered is a 502."""
    with scripted_device(server) as connection, visitor(server, GET) as asking:
        read_until(connection, b"\r\n\r\n")
        connection.close()
        assert read_until(asking, b"\r\n\r\n").startswith(b"HTTP/1.1 502 ")


def test_device_goes_in_its_answer(server: Example) -> None:
    """A visitor sees that what he has got is not all."""
    with scripted_device(server) as connection:
        visitor = HTTPConnection("127.0.0.1", server.port, timeout=60)
        visitor.request("GET", "/device/x")
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        response = visitor.getresponse()
        assert response.read(4) == b"half"
        connection.close()
        with pytest.raises((IncompleteRead, ConnectionError)):
            response.read()
        response.close()
        visitor.close()


def test_device_speaks_no_http(server: Example) -> None:
    """A device that answers something else is a 502, and is cut off."""
    with scripted_device(server) as connection, visitor(server, GET) as asking:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"what?\r\n\r\n")
        assert read_until(asking, b"\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        assert read_all(connection) == b""


def test_second_device(server: Example) -> None:
    """A device that connects anew takes the place of the old connection, which is aborted."""
    with scripted_device(server) as old, scripted_device(server) as new:
        assert read_all(old) == b""
        with visitor(server, GET) as asking:
            read_until(new, b"\r\n\r\n")
            new.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert read_until(asking, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")
