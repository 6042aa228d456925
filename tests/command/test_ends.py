"""How ``connect`` and ``forward`` end, and what their exit codes say about it."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import Process, fails, listening, read_all, read_until, run, switch
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


class Secured:
    """A server's side of TLS, from certificate to the end of the answer, and how it ends."""

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "certificate.pem"
        self.authority.write_bytes(CERTIFICATE_PEM)
        key = directory / "key.pem"
        key.write_bytes(KEY_PEM)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authority, key)

    def dies(self, client: socket.socket) -> None:
        """Answer, and end without a close_notify, as a process that is killed."""
        with self._context.wrap_socket(client, server_side=True) as secured:
            switch(secured)
            secured.sendall(b"some")
            # Python shuts the socket beneath down, and says no goodbye.
            secured.shutdown(socket.SHUT_WR)
            read_all(secured)

    def ends(self, client: socket.socket) -> None:
        """Answer, and end as TLS ends."""
        secured = self._context.wrap_socket(client, server_side=True)
        switch(secured)
        secured.sendall(b"some")
        secured.unwrap().close()

    def connect(self, port: int, *options: str) -> subprocess.CompletedProcess[bytes]:
        """Connect to the server, with standard input at its end."""
        url = f"https://localhost:{port}/"
        return run("connect", "--ca", str(self.authority), *options, url, "echo", input=b"")


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


def test_tls_server_dies(secured: Secured) -> None:
    """TLS that ends without its alert was cut off: the code is 1, and what came before is there."""
    with listening(secured.dies) as port:
        done = secured.connect(port)
    assert (done.returncode, done.stdout) == (1, b"some")
    assert b"cut off" in done.stderr


def test_tls_server_ends(secured: Secured) -> None:
    """TLS that ends with its alert has ended."""
    with listening(secured.ends) as port:
        done = secured.connect(port)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"some", b"")


def test_forgive_truncation(secured: Secured) -> None:
    """Whoever knows the server not to say goodbye has its end taken for one."""
    with listening(secured.dies) as port:
        done = secured.connect(port, "--forgive-truncation")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"some", b"")


@pytest.mark.parametrize("command", ["connect", "forward"])
def test_eof_is_one_of_two(command: str) -> None:
    """``--eof`` takes nothing but close and wait."""
    local = ["tcp:0"] if command == "forward" else []
    assert "--eof" in fails(2, command, "--eof", "perhaps", *local, "http://127.0.0.1/", "echo")
