"""The ends of connections through ``upgrade-switch forward``, and the lines that tell of them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import LOCAL, echo, listening, read_all, read_until, reset, serving, switch
from tests.kit.forwarding import Answering, connected, forwarding, logged
from tests.kit.secured import Secured
from tests.kit.wscodec import BINARY
from tests.kit.wsstream import answer, close, frame


def open_websocket(client: socket.socket) -> None:
    client.sendall(answer(read_until(client, b"\r\n\r\n")))


def read_into(data: bytearray, client: socket.socket) -> None:
    while chunk := client.recv(65536):
        data += chunk


def read_to_reset(client: socket.socket) -> bytes:
    """What comes before the connection is reset; any other end is an error."""
    data = bytearray()
    with pytest.raises(ConnectionResetError):
        read_into(data, client)
    return bytes(data)


WAYS = pytest.mark.parametrize("way", ["https", "wss"])


class Far:
    """A server behind TLS, and the arguments for a ``forward`` that leads to it."""

    def __init__(self, way: str, directory: Path) -> None:
        self._way = way
        if way == "wss":
            data = frame(BINARY, b"some")
            self.server = Secured(directory, open_websocket, data, close(1000))
        else:
            self.server = Secured(directory)

    def arguments(self, port: int, *options: str) -> list[str]:
        url = f"{self._way}://localhost:{port}/"
        token = [] if self._way == "wss" else ["echo"]
        return ["--ca", str(self.server.authority), *options, LOCAL, url, *token]


@WAYS
def test_tls_server_dies(tmp_path: Path, way: str) -> None:
    """A server that is killed: its bytes arrive, then a reset; and a line says so."""
    far = Far(way, tmp_path)
    with (
        listening(far.server.dies) as port,
        forwarding(*far.arguments(port)) as process,
        connected(process) as client,
    ):
        assert read_to_reset(client) == b"some"
        assert b"the server's connection was cut off" in logged(process)


@WAYS
def test_tls_server_ends(tmp_path: Path, way: str) -> None:
    """A server that ends its TLS has ended: so its client sees it, and no line is said."""
    far = Far(way, tmp_path)
    with (
        listening(far.server.ends) as port,
        forwarding(*far.arguments(port)) as process,
        connected(process) as client,
    ):
        assert read_all(client) == b"some"


def test_forgive_truncation(tmp_path: Path) -> None:
    """Whoever knows the server not to say goodbye has its end taken for one."""
    far = Far("https", tmp_path)
    with (
        listening(far.server.dies) as port,
        forwarding(*far.arguments(port, "--forgive-truncation")) as process,
        connected(process) as client,
    ):
        assert read_all(client) == b"some"


def send_and_reset(client: socket.socket) -> None:
    switch(client)
    client.sendall(b"some")
    assert read_until(client, b"!") == b"!"
    reset(client)


def go_away(client: socket.socket) -> None:
    open_websocket(client)
    client.sendall(frame(BINARY, b"some") + close(1001))
    read_all(client)


def vanish(client: socket.socket) -> None:
    open_websocket(client)
    client.sendall(frame(BINARY, b"some"))


@pytest.mark.parametrize(
    ("talk", "scheme"), [(send_and_reset, "http"), (go_away, "ws"), (vanish, "ws")]
)
def test_server_is_cut_off(talk: Any, scheme: str) -> None:
    """A server's reset, its 1001, and a WebSocket without a Close frame are no ends; each is told."""
    with (
        listening(talk) as port,
        forwarding(LOCAL, f"{scheme}://127.0.0.1:{port}/", *(["echo"] * (scheme == "http"))) as process,
        connected(process) as client,
    ):
        assert read_until(client, b"some") == b"some"
        if talk is send_and_reset:
            # Only now: a reset throws away what has not been read.
            client.sendall(b"!")
        assert read_to_reset(client) == b""
        assert b"the server's connection was cut off" in logged(process)


@pytest.mark.parametrize("token", ["x", "websocket"])
def test_client_is_cut_off(token: str) -> None:
    """A client's reset is passed on, and told."""
    with (
        Answering(echo) as target,
        serving("--tunnel", f"/x {token} tcp:127.0.0.1:{target}") as server,
        forwarding(LOCAL, server.url + "x", token) as process,
    ):
        client = connected(process)
        client.sendall(b"here")
        assert read_until(client, b"here") == b"here"
        reset(client)
        assert b"the client's connection was cut off" in logged(process)


def test_eof_close() -> None:
    """With ``--eof close``, the end of what a client sends closes, when nothing moves any more."""

    def talk(client: socket.socket) -> None:
        open_websocket(client)
        client.sendall(frame(BINARY, b"answer"))
        # Its Close frame, behind the question.
        read_until(client, b"\x88")
        client.sendall(close())

    with (
        listening(talk) as port,
        forwarding("--eof", "close", LOCAL, f"ws://127.0.0.1:{port}/") as process,
        connected(process) as client,
    ):
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"answer"
