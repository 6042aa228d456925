"""
The command and WebSockets: ``serve --tunnel 'PATH websocket ENDPOINT'``, and ``connect`` to it.
"""

from __future__ import annotations

import random
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.typing import Origin

from tests.kit.commands import (
    COMMAND,
    PATIENCE,
    Process,
    echo,
    fails,
    listening,
    read_all,
    read_until,
    run,
    serving,
)
from tests.kit.openssh import carries, client_options, digest, running_sshd, runs_commands, ssh
from tests.kit.wscodec import BINARY, CLOSE, TEXT
from tests.kit.wsstream import Frame, answer, close, frame, take_frame

MUCH = random.Random(6).randbytes(5_000_000)


# ssh.


@pytest.fixture(scope="module", params=["ws", "http"])
def options(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that lead ssh through a WebSocket to a running sshd: the host ``tunnelled``."""
    folder = tmp_path_factory.mktemp("ssh")
    with (
        running_sshd(folder) as port,
        serving("--tunnel", f"/ssh websocket tcp:127.0.0.1:{port}") as server,
    ):
        target = [f"{server.url}ssh", "websocket"]
        if request.param == "ws":
            target = [target[0].replace("http", "ws", 1)]
        yield client_options(folder, f"ProxyCommand={shlex.join([COMMAND, 'connect', *target])}")


def test_ssh(options: list[str]) -> None:
    """A command's output, its errors and its exit status come back through the WebSocket."""
    runs_commands(options)


def test_ssh_much(options: list[str]) -> None:
    """5 MB through ``cat`` on the other side are the same 5 MB."""
    carries(options, MUCH)


def test_two_at_once(options: list[str]) -> None:
    """Two sessions at the same time do not disturb one another."""
    command = ["ssh", *options, "tunnelled", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        first.stdin.write(b"first")
        first.stdin.flush()
        assert ssh(options, "cat", input=b"second").stdout == b"second"
        assert first.communicate(timeout=PATIENCE) == (b"first", None)


# A client as in browsers.


def greet(client: socket.socket) -> None:
    """A far server that speaks first, and then sends back what it gets."""
    client.sendall(b"RFB 003.008\n")
    echo(client)


@contextmanager
def tunnelling(*arguments: str, connections: int = 1) -> Iterator[Any]:
    """A server with a tunnel to one that greets; its ``websocket`` is the URL."""
    with (
        listening(greet, connections) as port,
        serving("--tunnel", f"/vnc websocket tcp:127.0.0.1:{port}", *arguments) as server,
    ):
        server.websocket = server.url.replace("http", "ws", 1) + "vnc"
        yield server


def read(client: Connection, count: int) -> bytes:
    """So many bytes, in binary messages."""
    data = b""
    while len(data) < count:
        more = client.recv(PATIENCE)
        assert isinstance(more, bytes)
        data += more
    return data


@pytest.mark.parametrize("offered", [["base64", "binary"], None])
def test_vnc(offered: Any) -> None:
    """noVNC's way: the subprotocol binary, the server's greeting first, pings in between."""
    with (
        tunnelling() as server,
        connect(server.websocket, subprotocols=offered, origin=own_origin(server)) as client,
    ):
        assert client.subprotocol == (None if offered is None else "binary")
        assert read(client, 12) == b"RFB 003.008\n"
        assert client.ping().wait(PATIENCE)
        client.send([MUCH[:1000], b"", MUCH[1000:]])
        assert digest(read(client, len(MUCH))) == digest(MUCH)
        client.close()
        assert client.close_code == 1000


def own_origin(server: Any) -> Origin:
    """The origin of a page on the same port."""
    return Origin(server.websocket.replace("ws:", "http:").rpartition("/")[0])


def test_foreign_pages() -> None:
    """Another site's page gets no tunnel, unless --origin says so; its port makes it another site."""
    stranger = Origin("http://page.test")
    with tunnelling() as server:
        for origin in (stranger, Origin("http://127.0.0.1:1"), Origin("null")):
            with pytest.raises(InvalidStatus), connect(server.websocket, origin=origin):
                pass
        with connect(server.websocket, origin=own_origin(server)) as client:
            read(client, 12)
    with tunnelling("--origin", str(stranger)) as server:
        with connect(server.websocket, origin=stranger) as client:
            read(client, 12)
        with pytest.raises(InvalidStatus), connect(server.websocket, origin=own_origin(server)):
            pass


def test_text() -> None:
    """A tunnel takes no text messages: the server closes with 1003."""
    with tunnelling() as server, connect(server.websocket) as client:
        read(client, 12)
        client.send("hello")
        with pytest.raises(ConnectionClosedError):
            client.recv(PATIENCE)
        assert client.close_code == 1003


def test_signal() -> None:
    """A server that gets SIGTERM says goodbye to its WebSockets, with 1001, and ends well."""
    with tunnelling() as server, connect(server.websocket) as client:
        read(client, 12)
        server.terminate()
        with pytest.raises(ConnectionClosedOK):
            client.recv(PATIENCE)
        assert client.close_code == 1001
        assert server.ends() == (0, b"", b"")


# connect.


class Frames:
    """Reads frames from a socket."""

    def __init__(self, client: socket.socket, data: bytes = b"") -> None:
        self._client = client
        self._data = data

    def next(self) -> Frame:
        while (found := take_frame(self._data)) is None:
            more = self._client.recv(65536)
            assert more, self._data
            self._data += more
        self._data = self._data[found[1] :]
        return found[0]

    def bytes(self, count: int) -> bytes:
        """So many bytes, in binary messages."""
        data = b""
        while len(data) < count:
            got = self.next()
            assert got.opcode == BINARY, got
            data += got.payload
        return data


def switch(client: socket.socket, fields: bytes = b"", behind: bytes = b"") -> Frames:
    """Read a handshake, and answer it."""
    head, _, rest = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    client.sendall(answer(head, fields) + behind)
    return Frames(client, rest)


def end(client: socket.socket, frames: Frames) -> None:
    """The server's end of the closing handshake."""
    client.sendall(close())
    while frames.next().opcode != CLOSE:
        pass


def test_connect(tmp_path: Path) -> None:
    """Standard input and output are binary messages, what comes with the 101 included."""
    heard = []

    def talk(client: socket.socket) -> None:
        frames = switch(client, behind=frame(BINARY, b"early "))
        heard.append(frames.bytes(len(MUCH)))
        client.sendall(frame(BINARY, b"and ", fin=False) + frame(0, b"late"))
        end(client, frames)

    with listening(talk) as port:
        done = run("connect", f"ws://127.0.0.1:{port}/a?b=c", input=MUCH)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"early and late")
    assert digest(heard[0]) == digest(MUCH)


@pytest.mark.parametrize(
    "url",
    [
        ("ws:///x",),
        ("ws://127.0.0.1:0/",),
        ("ws://127.0.0.1:1/ space",),
        ("wss://",),
        ("http://127.0.0.1:1/",),
        ("ws://127.0.0.1:1/", "echo"),
        ("ftp://127.0.0.1:1/", "websocket"),
        ("ws://127.0.0.1:1/\u00e4",),
    ],
)
def test_no_url(url: tuple[str, ...]) -> None:
    """What is no URL of a WebSocket is an error in the options."""
    fails(2, "connect", *url)
    fails(2, "forward", "tcp:0:interface=127.0.0.1", *url)


@pytest.mark.parametrize(
    "status", [b"200 OK", b"302 Found", b"403 Forbidden", b"426 Other", b"503 \x1b[31mBusy"]
)
def test_refused(status: bytes) -> None:
    """A server that does not switch: exit code 3, and its status in one line."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\nLocation: /x\r\n\r\nbody")

    with listening(talk) as port:
        assert status[:3].decode() in fails(3, "connect", f"ws://127.0.0.1:{port}/")


def no_accept(client: socket.socket) -> None:
    head = read_until(client, b"\r\n\r\n")
    client.sendall(answer(head).replace(b"Accept: ", b"Accept: x"))
    read_all(client)


def another_subprotocol(client: socket.socket) -> None:
    switch(client, b"Sec-WebSocket-Protocol: base64\r\n")
    read_all(client)


def cut_off(client: socket.socket) -> None:
    switch(client)


@pytest.mark.parametrize("talk", [no_accept, another_subprotocol, cut_off, lambda client: None])
def test_wrong(talk: Callable[[socket.socket], None]) -> None:
    """A wrong answer, or an end without a close frame: exit code 1 and one line."""
    with listening(talk) as port:
        fails(1, "connect", f"ws://127.0.0.1:{port}/")


def test_server_sends_text() -> None:
    """A text message is refused with 1003, and none of it gets to standard output."""
    codes = []

    def talk(client: socket.socket) -> None:
        frames = switch(client, behind=frame(BINARY, b"bytes") + frame(TEXT, b"text"))
        codes.append(frames.next().code)
        client.sendall(close(1003))

    with (
        listening(talk) as port,
        Process("connect", f"ws://127.0.0.1:{port}/") as process,
    ):
        _code, out, _said = process.ends()
    assert codes == [1003]
    assert out == b"bytes"


def test_tunnel_to_nowhere() -> None:
    """Where the far server is not there, the client is refused: exit code 3, and 502 in the line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = taken.getsockname()[1]
        with serving("--tunnel", f"/x websocket tcp:127.0.0.1:{nowhere}") as server:
            url = server.url.replace("http", "ws", 1)
            assert "502" in fails(3, "connect", f"{url}x")
            assert "404" in fails(3, "connect", f"{url}other")


def test_timeout() -> None:
    """A server that does not answer in time: exit code 1 and one line."""
    with listening(read_all) as port:
        fails(1, "connect", "--timeout", "0.3", f"ws://127.0.0.1:{port}/")


def test_far_server_closes() -> None:
    """What the far server has sent before it closed is written to the end; the command ends well."""

    def talk(client: socket.socket) -> None:
        client.sendall(MUCH)

    with (
        listening(talk) as port,
        serving("--tunnel", f"/x websocket tcp:127.0.0.1:{port}") as server,
        Process("connect", server.url.replace("http", "ws", 1) + "x") as process,
    ):
        first = process.receives(1)
        code, rest, said = process.ends()
    assert (code, said) == (0, b"")
    assert digest(first + rest) == digest(MUCH)
