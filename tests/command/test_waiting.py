"""
``upgrade-switch forward`` while the far side is down: connections wait, and nothing is lost.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import LOCAL, PATIENCE, SWITCH, listening, read_all, read_until, reset, switch
from tests.kit.forwarding import connected, forwarding, logged
from tests.kit.wscodec import BINARY
from tests.kit.wsstream import answer, close, frame

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def down() -> Iterator[tuple[socket.socket, int]]:
    """A port that refuses connections until its socket listens."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.settimeout(PATIENCE)
        yield taken, taken.getsockname()[1]


def accept(server: socket.socket) -> socket.socket:
    client, _ = server.accept()
    client.settimeout(PATIENCE)
    return client


@pytest.mark.parametrize("target", ["ws://127.0.0.1:{}/", "http://127.0.0.1:{}/ echo"])
def test_down_and_back_again(target: str) -> None:
    """A connection waits while the server is down, with a line in the log, and then goes through."""
    with (
        down() as (server, port),
        forwarding("--timeout", "60", LOCAL, *target.format(port).split(" ")) as process,
        connected(process) as client,
    ):
        line = logged(process)
        assert b"refused" in line
        assert b"a connection waits, for up to 60 seconds" in line
        server.listen()
        with accept(server) as far:
            head = read_until(far, b"\r\n\r\n")
            if target.startswith("ws"):
                far.sendall(answer(head) + frame(BINARY, b"back") + close())
                far.recv(100)
            else:
                far.sendall(SWITCH + b"back")
        assert read_all(client) == b"back"


def test_nothing_is_lost() -> None:
    """What the client sends while the server is down, and its half-close, are there afterwards."""
    early = bytes(range(256)) * 4000
    with (
        down() as (server, port),
        forwarding(LOCAL, f"http://127.0.0.1:{port}/", "echo") as process,
        connected(process) as client,
    ):
        client.sendall(early[:1000])
        logged(process)
        # No more than what fits between the two without being read.
        client.setblocking(False)
        sent = 1000 + client.send(early[1000:])
        client.settimeout(PATIENCE)
        client.shutdown(socket.SHUT_WR)
        server.listen()
        with accept(server) as far:
            switch(far)
            assert read_all(far) == early[:sent]
            far.sendall(b"heard")
        assert read_all(client) == b"heard"


def test_client_that_has_closed() -> None:
    """What a client has sent while the server is down arrives, even if the client has closed."""
    with down() as (server, port), forwarding(LOCAL, f"http://127.0.0.1:{port}/", "echo") as process:
        with connected(process) as client:
            logged(process)
            client.sendall(b"the last word")
        server.listen()
        with accept(server) as far:
            switch(far)
            assert read_all(far) == b"the last word"


@pytest.mark.parametrize("said", [BUSY, BUSY.replace(b"503", b"502"), b""])
def test_busy(said: bytes) -> None:
    """A server that answers 502 or 503, or closes without an answer, is asked again."""
    answers = [said, SWITCH + b"welcome"]

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(answers.pop(0))

    with (
        listening(talk, connections=2) as port,
        forwarding(LOCAL, f"http://127.0.0.1:{port}/", "echo") as process,
        connected(process) as client,
    ):
        assert read_all(client) == b"welcome"
        assert b"a connection waits" in logged(process)


def test_down_for_too_long() -> None:
    """When the time is over the connection is closed, with one line in the log; the next one waits."""
    with (
        down() as (_, port),
        forwarding("--timeout", "0.5", LOCAL, f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        for _ in range(2):
            with connected(process) as client:
                assert b"a connection waits" in logged(process)
                assert read_all(client) == b""
                line = logged(process)
                assert b"refused" in line
                assert b"waits" not in line


def test_client_that_is_gone() -> None:
    """For a client that has reset its connection while it waits, the server is not asked again."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        if len(heads) == 1:
            # The client is gone before the answer is there.
            reset(waiting)
            client.sendall(BUSY)
        else:
            client.sendall(SWITCH)

    with (
        listening(talk, connections=2) as port,
        forwarding(LOCAL, f"http://127.0.0.1:{port}/{{}}", "echo") as process,
    ):
        waiting = connected(process)
        assert b"a connection waits" in logged(process)
        with connected(process) as client:
            assert read_all(client) == b""
    # The second is the other client's.
    assert len(heads) == 2


@pytest.mark.parametrize("comes_back", [True, False])
def test_clients_with_tls(tmp_path: Path, comes_back: bool) -> None:
    """
    A connection waits on a port with TLS, too, and its handshake with it; in the end it goes through,
    or is closed.
    """
    (tmp_path / "server.pem").write_bytes(CERTIFICATE_PEM + KEY_PEM)
    pem = tmp_path / "server.pem"
    local = f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}"
    context = ssl.create_default_context(cadata=CERTIFICATE_PEM.decode())
    timeout = "60" if comes_back else "0.5"
    with (
        down() as (server, port),
        forwarding("--timeout", timeout, local, f"http://127.0.0.1:{port}/", "echo") as process,
        context.wrap_socket(
            connected(process), server_hostname="localhost", do_handshake_on_connect=False
        ) as client,
    ):
        assert b"a connection waits" in logged(process)
        if comes_back:
            server.listen()
            with accept(server) as far:
                switch(far)
                far.sendall(b"back")
                client.do_handshake()
                assert client.recv(4) == b"back"
            # Else its own end, without TLS's alert, could be first.
            assert client.recv(1) == b""
        else:
            with pytest.raises(OSError, match=r"reset|EOF"):
                client.do_handshake()
            assert b"refused" in logged(process)
