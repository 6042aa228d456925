"""
The exec service of the examples, and its clients but for Docker's own: ``upgrade-switch connect``, and
one that is older than Upgrade.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.kit.commands import PATIENCE, read_all, read_until, reset
from tests.kit.commands import run as command
from tests.kit.examples import Example, refused
from tests.kit.executing import MUCH, Fifo, folder, server
from tests.kit.harness import field, status

__all__ = ["folder", "server"]  # fixtures


def post(server: Example, path: str, body: Any = None, **fields: str) -> Any:
    """The answer to a POST."""
    data = b"" if body is None else json.dumps(body).encode()
    request = Request(f"{server.url}{path}", data, fields, method="POST")
    try:
        with urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())["message"]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a stream, as Docker's client reads them."""
    found = []
    while data:
        kind, length = struct.unpack(">BxxxL", data[:8])
        found.append((kind, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def created(server: Example, *words: str, **more: Any) -> str:
    """The path of a command that can be started."""
    name = post(server, "/containers/box/exec", {"Cmd": words, **more})["Id"]
    return f"/exec/{name}"


def exit_code(server: Example, path: str) -> Any:
    with urlopen(f"{server.url}{path}/json", timeout=PATIENCE) as response:
        return json.loads(response.read())["ExitCode"]


def code_at_end(server: Example, path: str) -> Any:
    """The exit code of a command that ends soon."""
    until = time.monotonic() + PATIENCE
    while (code := exit_code(server, path)) is None:
        assert time.monotonic() < until
    return code


@pytest.mark.parametrize("options", [["--method", "POST", "--data", '{"Tty": false}'], ["--data={}"]])
def test_connect(server: Example, folder: Path, options: list[str]) -> None:
    """``upgrade-switch connect`` starts a command, and is its input and output."""
    path = created(server, "cat")
    done = command("connect", *options, f"{server.url}{path}/start", "tcp", input=MUCH)
    assert (done.returncode, done.stderr) == (0, b"")
    found = frames(done.stdout)
    assert {kind for kind, _ in found} == {1}
    assert b"".join(data for _, data in found) == MUCH
    assert exit_code(server, path) == 0


def test_connect_to_terminal(server: Example, folder: Path) -> None:
    """With a terminal, the output comes as it is."""
    path = created(server, str(folder / "both"), "9", Tty=True)
    done = command("connect", "--data", "{}", f"{server.url}{path}/start", "tcp")
    assert (done.returncode, done.stdout) == (0, b"out\r\nerr\r\n")
    assert exit_code(server, path) == 9


def test_connect_twice(server: Example) -> None:
    """A command is started once; what is not known is not started at all."""
    path = created(server, "cat")
    assert command("connect", "--data", "{}", f"{server.url}{path}/start", "tcp").returncode == 0
    for wrong in (f"{path}/start", "/exec/0123/start"):
        done = command("connect", "--data", "{}", f"{server.url}{wrong}", "tcp")
        assert done.returncode == 3
    done = command("connect", f"{server.url}{path}/start", "tcp")
    assert done.returncode == 3


def hijacked(server: Example, path: str, body: bytes = b"{}", version: str = "1.1") -> Any:
    """A connection that begins as those of old clients do; the answer's head, and what came with it."""
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    head = f"POST {path}/start HTTP/{version}\r\nHost: docker\r\nContent-Type: application/json\r\n"
    client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answer, _, rest = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    return client, answer, rest


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_without_upgrade(server: Example, version: str) -> None:
    """A client that knows no Upgrade gets a 200, and behind it the same stream, both ways."""
    path = created(server, "cat")
    client, head, _ = hijacked(server, path, version=version)
    with client:
        assert status(head) == 200
        assert field(head, b"content-type") == b"application/vnd.docker.multiplexed-stream"
        assert field(head, b"content-length") is field(head, b"transfer-encoding") is None
        client.sendall(b"there and back")
        assert frames(client.recv(100)) == [(1, b"there and back")]
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert exit_code(server, path) == 0


def test_nobody_reads(server: Example) -> None:
    """A command whose client does not read stops writing, and ends with the client."""
    path = created(server, "yes")
    client, _, early = hijacked(server, path)
    with client:
        assert early or client.recv(1)
        before = memory_of(server)
        # The server has time for much more while it answers these.
        for _ in range(50):
            assert exit_code(server, path) is None
        assert memory_of(server) - before < 20_000_000
    assert code_at_end(server, path) == 128 + 9


def test_child_that_stays(server: Example, folder: Path, tmp_path: Path) -> None:
    """A command that has ended, but whose child may still write, ends with its client, too."""
    with Fifo(tmp_path / "go", os.O_RDWR) as go:
        path = created(server, str(folder / "leaving"), go.path)
        client, _, early = hijacked(server, path)
        assert frames(early or client.recv(100)) == [(1, b"begun\n")]
        assert exit_code(server, path) is None
        reset(client)
        # Rarely, it has not ended yet when its client resets.
        assert code_at_end(server, path) in (3, 128 + 9)
        go.write(b"\n")


def memory_of(server: Example) -> int:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("body", [{}, {"Cmd": []}, {"Cmd": None}, {"Cmd": [["cat"]]}, [], None])
def test_nonsense(server: Example, body: Any) -> None:
    """What is not a request of Docker's is refused, and so is a page in a browser."""
    code, message = post(server, "/containers/box/exec", body)
    assert code in (400, 403)
    assert message
    origin = post(server, "/containers/box/exec", {"Cmd": ["cat"]}, Origin="http://127.0.0.1")
    assert origin[0] == 403


@pytest.mark.parametrize("commands", ["", "cat no-such-command"])
def test_missing(commands: str) -> None:
    """A command that is not there is named when the server starts."""
    assert refused("remote_exec.py", commands).startswith("no such command: ")
