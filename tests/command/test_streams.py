"""``connect --http2`` and ``forward --http2``: upgrades over HTTP/2 (RFC 8441)."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import LOCAL, PATIENCE, echo, fails, read_all, run, serving
from tests.kit.forwarding import Answering, connected, forwarding

MUCH = random.Random(13).randbytes(5_000_000)

#: With these the command waits for the server's end, which only a half-close can bring about: there is
#: none with TLS over HTTP/1.1.
WAITING = ("--http2", "--eof", "wait")


class Relay:
    """Stands in front of a port, and counts the connections."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._port = port

    def talk(self, client: socket.socket) -> None:
        self.count += 1
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as server:
            back = threading.Thread(target=self._copy, args=(server, client))
            back.start()
            self._copy(client, server)
            back.join(PATIENCE)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Served:
    """A server with TLS that has tunnels to an echo at ``/load``."""

    def __init__(self, url: str, authority: Path, relay: Relay) -> None:
        self.url = url
        self.trusting = ("--ca", str(authority))
        self.relay = relay


@contextmanager
def secured(folder: Path, *options: str) -> Iterator[Served]:
    authority, key = folder / "certificate.pem", folder / "key.pem"
    authority.write_bytes(CERTIFICATE_PEM)
    key.write_bytes(KEY_PEM)
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={authority}"
    with Answering(echo) as target:
        tunnels = [f"/{token} {token} tcp:127.0.0.1:{target}" for token in ("load", "websocket")]
        arguments = [part for tunnel in tunnels for part in ("--tunnel", tunnel)]
        with serving(*arguments, *options, listen=(endpoint,)) as server:
            relay = Relay(int(server.url.rpartition(":")[2].strip("/")))
            with Answering(relay.talk) as port:
                yield Served(f"https://localhost:{port}", authority, relay)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with secured(tmp_path, "--http2-connect") as served:
        yield served


@pytest.mark.parametrize("path", ["load", "websocket"])
def test_connect(served: Served, path: str, tmp_path: Path) -> None:
    """Standard input is echoed, to its last byte, and its end is a half-close."""
    file = tmp_path / "much"
    file.write_bytes(MUCH)
    with file.open("rb") as source:
        done = run("connect", *WAITING, *served.trusting, f"{served.url}/{path}", path, stdin=source)
    assert (done.returncode, done.stderr, len(done.stdout)) == (0, b"", len(MUCH))
    assert done.stdout == MUCH


def test_connect_falls_back(tmp_path: Path) -> None:
    """A server that does not take upgrades over HTTP/2 is asked over HTTP/1.1."""
    with secured(tmp_path) as served:
        url = f"{served.url}/load"
        done = run("connect", "--http2", *served.trusting, url, "load", input=b"hello")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
        assert served.relay.count == 2


def test_connect_refused(served: Served) -> None:
    """A refusal's exit code and message are those of HTTP/1.1."""
    line = fails(3, "connect", "--http2", *served.trusting, f"{served.url}/load", "other")
    assert "501" in line


def test_forward(served: Served) -> None:
    """Local connections share one to the server; each has its half-close."""
    with forwarding("--http2", *served.trusting, LOCAL, f"{served.url}/load", "load") as process:
        clients: list[Any] = [connected(process) for _ in range(20)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number * 10_000)
            client.shutdown(socket.SHUT_WR)
        for number, client in enumerate(clients):
            with client:
                assert read_all(client) == b"%d" % number * 10_000
        assert served.relay.count == 1


@pytest.mark.parametrize("command", ["connect", "forward"])
def test_needs_tls(command: str) -> None:
    """Without TLS there is nothing that chooses HTTP/2."""
    local = [LOCAL] if command == "forward" else []
    line = fails(2, command, "--http2", *local, "http://127.0.0.1/", "echo")
    assert line.endswith("--http2 is for https and wss URLs only")
