"""
``serve --ready``: what a load balancer is told.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.kit.commands import LOCAL, fails, read_all, read_until, serving
from tests.kit.harness import status
from tests.kit.operating import connected, get, operated, upgraded


def asked(client: socket.socket) -> int:
    """The status that a load balancer gets, on a connection that stays."""
    client.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    while not body.endswith(b"\n"):
        body += client.recv(100)
    return status(head)


@pytest.mark.parametrize("kind", ["serve", "twist"])
def test_ready_until_it_drains(kind: str) -> None:
    """200 while the server takes connections; 503, and the end, on an open one when it drains."""
    options = ["--drain", "60", "--ready", "/ready"]
    with operated(kind, *options) as server, connected(server.url) as checking:
        code, answer = get(server.url, "/ready")
        assert (code, answer.endswith(b"\r\n\r\nready\n")) == (200, True)
        with upgraded(server.url, "/echo", "echo"):
            server.terminate()
            # Until the signal has arrived.
            while (code := asked(checking)) == 200:
                pass
            assert code == 503
            # As it has said.
            assert read_all(checking) == b""
        server.finishes()


def test_no_password_for_it(tmp_path: Path) -> None:
    """It is open where the rest is guarded, stands before a proxy at /, and can be in the file."""
    config = tmp_path / "config.toml"
    config.write_text('ready = "/health/ready"\n')
    proxy = ["--proxy", "/ http://127.0.0.1:9", "--auth", "memory:ops:secret"]
    with serving("--config", str(config), *proxy) as server:
        assert get(server.url, "/health/ready")[0] == 200
        assert get(server.url, "/health")[0] == 401


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--ready", "ready"], "needs a /PATH"),
        (["--ready", "/"], "needs a /PATH"),
        (["--ready", "/ready", "--status", "/ready"], "taken by another resource"),
    ],
)
def test_misuse(options: list[str], why: str) -> None:
    """A path that is malformed or taken is a usage error: one line, exit code 2."""
    assert why in fails(2, "serve", "--listen", LOCAL, *options)
