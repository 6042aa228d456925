"""
The examples that ``--help`` of ``connect`` and of ``forward`` shows, run as they are written; only the
hosts and ports are others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import COMMAND, PATIENCE, echo, read_all, read_until, run, serving
from tests.kit.forwarding import Answering
from tests.kit.openssh import HOST, client_options, running_sshd
from upgrade_switch.command.client.connect import ConnectOptions
from upgrade_switch.command.client.forward import ForwardOptions

TO_CONNECT = ConnectOptions.examples
TO_FORWARD = ForwardOptions.examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the examples find in theirs."""
    (tmp_path / "ca.pem").write_bytes(CERTIFICATE_PEM)
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "data.csv").write_bytes(b"1,2,3\n")
    return tmp_path


@contextmanager
def example_com(folder: Path, token: str, port: int, tls: bool) -> Iterator[str]:
    """
    The server of the examples, with a tunnel.

    :return: ``localhost:PORT``, which stands for ``example.com``.
    """
    kind = f"ssl:0:privateKey={folder}/key.pem:certKey={folder}/ca.pem" if tls else "tcp:0"
    path = {"postgres": "db", "websocket": "vnc"}.get(token, token)
    tunnel = f"/{path} {token} tcp:127.0.0.1:{port}"
    with serving("--tunnel", tunnel, listen=(f"{kind}:interface=127.0.0.1",)) as server:
        yield "localhost:" + server.addresses[0].rstrip("/").rpartition(":")[2]


def shell(line: str, folder: Path, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Run an example where it finds the command, its files, and a system that trusts the server."""
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        **kwargs,
    )


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SSL_CERT_FILE": str(folder / "ca.pem")}


@pytest.mark.parametrize(("command", "examples"), [("connect", TO_CONNECT), ("forward", TO_FORWARD)])
def test_shown(command: str, examples: tuple[str, ...]) -> None:
    """``--help`` ends in examples, each on a line of its own."""
    lines = run(command, "--help").stdout.decode().rstrip().split("\n")
    assert [line.strip() for line in lines[-1 - len(examples) :]] == ["Examples:", *examples]


def test_ssh(folder: Path) -> None:
    """ssh, through a ProxyCommand."""
    with running_sshd(folder) as port, example_com(folder, "ssh", port, tls=True) as here:
        options = " ".join(f"'{word}'" for word in client_options(folder))
        program, _, arguments = TO_CONNECT[0].replace("example.com/", f"{here}/").partition(" ")
        line = f"{program} {options} {arguments.replace('user@example.com', HOST)} echo hello"
        done = shell(line, folder, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr


def test_echo(folder: Path) -> None:
    """A word and its echo, from somebody with a name."""
    with Answering(echo) as port, example_com(folder, "echo", port, tls=False) as here:
        done = shell(TO_CONNECT[1].replace("example.com", here), folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_load(folder: Path) -> None:
    """A file into a server, and its answer into another."""

    def load(client: socket.socket) -> None:
        client.sendall(b"%d bytes\n" % len(read_all(client)))

    with Answering(load) as port, example_com(folder, "load", port, tls=False) as here:
        done = shell(TO_CONNECT[2].replace("example.com", here), folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (folder / "log").read_bytes() == b"6 bytes\n"


@pytest.mark.parametrize(
    ("example", "token"),
    # The one with UDP is shown with dig.
    [*zip(TO_FORWARD[:-1], ["postgres", "websocket", "postgres"], strict=True)],
)
def test_forward(example: str, token: str, folder: Path) -> None:
    """A port, or a socket, behind which a server on the far side answers."""
    with Answering(echo) as port, example_com(folder, token, port, tls=True) as here:
        line = example.replace("example.com", here)
        for number in ("5432", "5901"):
            line = line.replace(f"tcp:{number}:", "tcp:0:")
        with subprocess.Popen(
            f"exec {line}", shell=True, cwd=folder, env=environment(folder), stderr=subprocess.PIPE
        ) as process:
            alarm = threading.Timer(PATIENCE, process.kill)
            alarm.start()
            assert process.stderr is not None
            said = process.stderr.readline().decode().strip()
            alarm.cancel()
            with connected_to(said.removeprefix("upgrade-switch: listening on "), folder) as client:
                client.sendall(b"hello\n")
                assert read_until(client, b"\n") == b"hello\n"
            process.terminate()
            assert process.wait(PATIENCE) == 0


def connected_to(address: str, folder: Path) -> socket.socket:
    """A client of what says that it listens there."""
    host, colon, port = address.rpartition(":")
    if colon:
        client = socket.create_connection((host, int(port)))
    else:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(folder / address))
    client.settimeout(PATIENCE)
    return client
