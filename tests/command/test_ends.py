"""How ``connect`` and ``forward`` end, and what their exit codes say about it."""

from __future__ import annotations

import random
import socket
import subprocess
from pathlib import Path

import pytest

from tests.kit.commands import (
    Process,
    echo,
    fails,
    listening,
    read_all,
    read_until,
    run,
    serving,
    switch,
)
from tests.kit.forwarding import Answering
from tests.kit.secured import Secured
from tests.kit.wscodec import BINARY
from tests.kit.wsstream import answer, close, frame

MUCH = random.Random(11).randbytes(5_000_000)


@pytest.fixture
def much(tmp_path: Path) -> Path:
    file = tmp_path / "much"
    file.write_bytes(MUCH)
    return file


def test_half_closed_server_gets_all(much: Path) -> None:
    """A server that ends its own direction first still gets all of standard input."""
    heard = []

    def talk(client: socket.socket) -> None:
        switch(client)
        client.shutdown(socket.SHUT_WR)
        heard.append(read_all(client))

    with listening(talk) as port, much.open("rb") as source:
        done = run("connect", f"http://127.0.0.1:{port}/", "echo", stdin=source)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert heard == [MUCH]


def test_server_that_does_not_take_it(much: Path) -> None:
    """If the server closes before it has got all of standard input, the exit code is 1."""
    with listening(switch) as port, much.open("rb") as source:
        fails(1, "connect", f"http://127.0.0.1:{port}/", "echo", stdin=source)


def test_output_closed_behind_the_input() -> None:
    """A reader that has enough (``head -c``) ends it with 0, also when standard input has ended."""

    def talk(client: socket.socket) -> None:
        switch(client)
        read_all(client)
        try:
            while True:
                client.sendall(MUCH)
        except OSError:
            pass

    with (
        listening(talk) as port,
        Process("connect", f"http://127.0.0.1:{port}/", "echo", stdin=subprocess.DEVNULL) as process,
    ):
        assert process.receives(10) == MUCH[:10]
        process.stdout.close()
        assert process.ends() == (0, b"", b"")


def websocket(client: socket.socket) -> None:
    client.sendall(answer(read_until(client, b"\r\n\r\n")))


def test_eof_close() -> None:
    """Where there is no half-close, the end of standard input closes, when nothing moves any more."""

    def talk(client: socket.socket) -> None:
        websocket(client)
        client.sendall(frame(BINARY, b"answer"))
        client.recv(65536)
        # Its Close frame.
        client.recv(65536)
        client.sendall(close())

    with listening(talk) as port:
        done = run("connect", f"ws://127.0.0.1:{port}/", input=b"question")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"answer", b"")


def test_going_away() -> None:
    """A server that goes down in the middle (1001) has cut the stream off."""

    def talk(client: socket.socket) -> None:
        websocket(client)
        client.sendall(frame(BINARY, b"some") + close(1001))
        read_all(client)

    with listening(talk) as port:
        done = run("connect", f"ws://127.0.0.1:{port}/")
    assert (done.returncode, done.stdout) == (1, b"some")
    assert b"cut off" in done.stderr


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


def secured_connect(secured: Secured, port: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Connect to the server, with standard input at its end."""
    url = f"https://localhost:{port}/"
    return run("connect", "--ca", str(secured.authority), *options, url, "echo", input=b"")


def test_tls_server_dies(secured: Secured) -> None:
    """TLS that ends without its alert was cut off: the code is 1, and what came before is there."""
    with listening(secured.dies) as port:
        done = secured_connect(secured, port)
    assert (done.returncode, done.stdout) == (1, b"some")
    assert b"cut off" in done.stderr


def test_tls_server_ends(secured: Secured) -> None:
    """TLS that ends with its alert has ended."""
    with listening(secured.ends) as port:
        done = secured_connect(secured, port)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"some", b"")


def test_forgive_truncation(secured: Secured) -> None:
    """Whoever knows the server not to say goodbye has its end taken for one."""
    with listening(secured.dies) as port:
        done = secured_connect(secured, port, "--forgive-truncation")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"some", b"")


@pytest.mark.parametrize("command", ["connect", "forward"])
def test_eof_is_one_of_two(command: str) -> None:
    """``--eof`` takes nothing but close and wait."""
    local = ["tcp:0"] if command == "forward" else []
    assert "--eof" in fails(2, command, "--eof", "perhaps", *local, "http://127.0.0.1/", "echo")


def test_file_over_tls(secured: Secured, tmp_path: Path) -> None:
    """A file as standard input, over https: it is echoed, and the command ends by itself."""
    key = tmp_path / "key.pem"
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={secured.authority}"
    file = tmp_path / "data.csv"
    file.write_bytes(MUCH)
    with (
        Answering(echo) as target,
        serving(
            "--tunnel",
            f"/load load tcp:127.0.0.1:{target}",
            listen=(endpoint,),
        ) as server,
        file.open("rb") as data,
    ):
        url = server.url.replace("127.0.0.1", "localhost") + "load"
        done = run("connect", "--ca", str(secured.authority), url, "load", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == MUCH


@pytest.mark.parametrize("token", ["websocket", "load"])
def test_drain_lets_a_transfer_finish(token: str) -> None:
    """SIGTERM with ``--drain``, in the middle of a transfer through a tunnel: all of it arrives."""
    data = MUCH * 10

    def talk(client: socket.socket) -> None:
        client.sendall(data)

    with (
        listening(talk) as port,
        serving("--tunnel", f"/x {token} tcp:127.0.0.1:{port}", "--drain", "60") as server,
        Process("connect", server.url + "x", token, stdin=subprocess.DEVNULL) as client,
    ):
        received = client.receives(10)
        server.terminate()
        received += client.stdout.read()
        assert (len(received), received == data) == (len(data), True)
        assert client.ends() == (0, b"", b"")
