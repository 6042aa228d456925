"""
``upgrade-switch forward``: a port whose connections go through upgrades of their own.
"""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import (
    LOCAL,
    PATIENCE,
    SWITCH,
    Process,
    echo,
    fails,
    listening,
    read_all,
    read_until,
    serving,
    switch,
)
from tests.kit.forwarding import Answering, connected, forwarding, logged
from tests.kit.openssh import HOST, carries, client_options, digest, running_sshd, runs_commands
from tests.kit.wscodec import BINARY
from tests.kit.wsstream import answer, close, frame

MUCH = random.Random(7).randbytes(3_000_000)


# Name, the tunnel's token, and what forward is told of it.
WAYS = {
    "token": ("ssh", lambda url: (url, "ssh")),
    "ws": ("websocket", lambda url: (url.replace("http", "ws", 1),)),
    "token websocket": ("websocket", lambda url: (url, "websocket")),
    "WebSocket": ("websocket", lambda url: (url.replace("http", "ws", 1), "WebSocket")),
}
every_way = pytest.mark.parametrize(("token", "told"), WAYS.values(), ids=WAYS)


@pytest.fixture(scope="module", params=["token", "ws"])
def options(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that lead ssh to a forwarded port, and there to a running sshd."""
    folder = tmp_path_factory.mktemp("ssh")
    token, told = WAYS[request.param]
    with (
        running_sshd(folder) as port,
        serving("--tunnel", f"/ssh {token} tcp:127.0.0.1:{port}") as server,
        forwarding(LOCAL, *told(server.url + "ssh")) as process,
    ):
        host, here = process.address
        yield client_options(
            folder, f"HostName={host}", f"Port={here}", f"HostKeyAlias={HOST}", "CheckHostIP=no"
        )


def test_ssh(options: list[str]) -> None:
    """A command's output, its errors and its exit status come back."""
    runs_commands(options)


def test_ssh_much(options: list[str]) -> None:
    """3 MB through ``cat`` on the other side are the same 3 MB."""
    carries(options, MUCH)


def test_ssh_several_at_once(options: list[str]) -> None:
    """Several sessions at the same time do not disturb one another."""
    command = ["ssh", *options, HOST, "cat"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(3)]
    for at, process in enumerate(running):
        with process:
            assert process.communicate(b"%d" % at, timeout=PATIENCE) == (b"%d" % at, None)


@every_way
def test_there_and_back(token: str, told: Any) -> None:
    """What is sent comes back, over several connections at once, each with a far one of its own."""
    with (
        Answering(echo) as port,
        serving("--tunnel", f"/x {token} tcp:127.0.0.1:{port}") as server,
        forwarding(LOCAL, *told(server.url + "x")) as process,
    ):
        clients = [connected(process) for _ in range(4)]
        for at, client in enumerate(clients):
            client.sendall(b"hello %d\n" % at)
        for at, client in enumerate(clients):
            assert read_until(client, b"\n") == b"hello %d\n" % at
        for client in clients:
            client.close()


def test_half_close() -> None:
    """With a token of your own, half-closes go through in both directions."""

    def talk(client: socket.socket) -> None:
        switch(client)
        assert read_all(client) == b"all of it"
        client.sendall(b"heard")

    with (
        listening(talk) as port,
        forwarding(LOCAL, f"http://127.0.0.1:{port}/", "echo") as process,
        connected(process) as client,
    ):
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"heard"


def test_far_end_closes() -> None:
    """What the server has sent before it closed the WebSocket arrives, and then the end."""

    def talk(client: socket.socket) -> None:
        head = read_until(client, b"\r\n\r\n")
        client.sendall(answer(head) + frame(BINARY, MUCH) + close())
        # The client's close frame; then it is the server that closes (RFC 6455 §7.1.1).
        client.recv(100)

    with (
        listening(talk) as port,
        forwarding(LOCAL, f"ws://127.0.0.1:{port}/") as process,
        connected(process) as client,
    ):
        assert digest(read_all(client)) == digest(MUCH)


REFUSALS = [
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
    SWITCH,
    b"not HTTP\r\n\r\n",
]


@pytest.mark.parametrize("said", REFUSALS)
def test_refused(said: bytes) -> None:
    """A server that refuses, or answers nonsense, ends that connection, with one line in the log."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(said)

    with (
        listening(talk, connections=2) as port,
        forwarding(LOCAL, f"ws://127.0.0.1:{port}/", lines=0) as process,
    ):
        for _ in range(2):
            with connected(process) as client:
                assert read_all(client) == b""
            line = logged(process)
            assert b"ws://127.0.0.1:%d/: " % port in line, line
            assert line.endswith(b"\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_connected(number: signal.Signals) -> None:
    """A signal ends it well although connections are open, one of them still connecting."""

    def talk(client: socket.socket) -> None:
        head = read_until(client, b"\r\n\r\n")
        client.sendall(answer(head) + frame(BINARY, b"hello"))
        read_all(client)

    with (
        listening(talk) as port,
        Process("forward", LOCAL, f"ws://127.0.0.1:{port}/", stdin=None, stdout=None) as process,
    ):
        host, _, here = process.says().removeprefix("listening on ").rpartition(":")
        with socket.create_connection((host, int(here)), PATIENCE) as one:
            assert one.recv(5) == b"hello"
            with socket.create_connection((host, int(here)), PATIENCE) as two:
                process.send_signal(number)
                assert process.ends()[0] == 0
                assert read_all(one) == b""
                assert read_all(two) == b""


def test_on_a_socket_file(tmp_path: Path) -> None:
    """ENDPOINT may be any server endpoint, a UNIX socket too."""

    def talk(client: socket.socket) -> None:
        switch(client)
        echo(client)

    path = tmp_path / "socket"
    with (
        listening(talk) as port,
        Process("forward", f"unix:{path}", f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        assert process.says() == f"listening on {path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"hello\n")
            assert read_until(client, b"\n") == b"hello\n"
        process.terminate()
        assert process.ends() == (0, b"", b"")
    assert not path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [LOCAL],
        [LOCAL, "http://127.0.0.1/"],
        [LOCAL, "http://127.0.0.1/", "echo", "more"],
        [LOCAL, "http://127.0.0.1/", "no token"],
        [LOCAL, "ws://127.0.0.1/", "echo"],
        [LOCAL, "nowhere", "echo"],
        ["nonsense:1", "http://127.0.0.1/", "echo"],
        ["tcp:none", "http://127.0.0.1/", "echo"],
        ["--timeout", "0", LOCAL, "ws://127.0.0.1/"],
        ["--timeout", "soon", LOCAL, "ws://127.0.0.1/"],
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str]) -> None:
    """Wrong arguments are a usage error: exit code 2, and one line."""
    fails(2, "forward", *arguments)


def test_line_about_arguments() -> None:
    """The line says what is wanted: a number."""
    url = "ws://127.0.0.1/"
    assert "--timeout needs a number of seconds, not 'soon'" in fails(
        2, "connect", "--timeout", "soon", url
    )


def test_port_in_use() -> None:
    """A port that is taken: exit code 1, and one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(1, "forward", f"tcp:{port}:interface=127.0.0.1", "ws://127.0.0.1/")
