"""
``serve --tunnel 'PATH TOKEN ENDPOINT proxy-protocol'``: the server behind a tunnel knows its clients.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.kit.commands import fails, run, serving
from tests.kit.documented import Ports, daemon
from tests.kit.foreign import needs, path_of
from tests.kit.forwarding import Answering

HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen here
    bind 127.0.0.1:{port} accept-proxy
    http-request return content-type text/plain lf-string "%[src] %[dst] %[dst_port]"
"""

ASK = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@needs("haproxy")
@pytest.mark.parametrize("token", ["h", "websocket"])
def test_haproxy_knows_the_client(tmp_path: Path, token: str) -> None:
    """HAProxy, which takes connections with such a header only, is told where the client is."""
    with Ports() as ports:
        file, pid_file = tmp_path / "haproxy.cfg", tmp_path / "pid"
        port = ports["there"]
        file.write_text(HAPROXY.format(port=port))
        command = [path_of("haproxy") or "", "-D", "-f", str(file), "-p", str(pid_file)]
        with (
            daemon(command, pid_file),
            serving("--tunnel", f"/t {token} tcp:127.0.0.1:{port} proxy-protocol") as server,
        ):
            done = run("connect", f"{server.url}t", token, input=ASK)
            here = server.url.rstrip("/").rpartition(":")[2]
            assert done.stdout.endswith(f"\r\n\r\n127.0.0.1 127.0.0.1 {here}".encode()), done


def test_spaces(tmp_path: Path) -> None:
    """An endpoint may have spaces in it, with and without the word behind it."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "socket"

    def talk(client: socket.socket) -> None:
        client.sendall(client.recv(100))

    with (
        Answering(talk, str(path)),
        serving(
            "--tunnel", f"/a t unix:{path} ", "--tunnel", f"/b t  unix:{path}  proxy-protocol "
        ) as server,
    ):
        assert run("connect", f"{server.url}a", "t", input=b"hello").stdout == b"hello"
        said = run("connect", f"{server.url}b", "t", input=b"hello").stdout
        assert said.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("/t t proxy-protocol", "not a client endpoint string"),
        ("/t t tcp:127.0.0.1:22 proxy-protocoll", "not a client endpoint string"),
        ("/t t tcp:127.0.0.1:22 proxy-protocol proxy-protocol", "not a client endpoint string"),
        ("/t proxy-protocol", "--tunnel needs '/PATH TOKEN ENDPOINT'"),
    ],
)
def test_misuse(value: str, named: str) -> None:
    """Any other word is a usage error: exit code 2, and one line."""
    assert named in fails(2, "serve", "--tunnel", value)
