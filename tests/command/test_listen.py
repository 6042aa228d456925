"""
``upgrade-switch serve``: on many kinds of ports at the same time, and as ``--help`` shows it.
"""

from __future__ import annotations

import shlex
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import COMMAND, LOCAL, echo, listening, read_all, read_until, run
from tests.kit.harness import upgrade_head
from tests.kit.operating import TWIST, Operated, body_of, connected, get, upgraded
from tests.kit.programs import Program
from upgrade_switch.command.server.options import ServeOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the endpoints, and the examples, find in theirs."""
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "cert.pem").write_bytes(CERTIFICATE_PEM)
    (tmp_path / "passwords").write_text("ops:secret\n")
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("welcome")
    return tmp_path


class Activated(Operated):
    """A server that is a new process: it counts descriptors, and compares its process id."""

    _start = Program._start


@contextmanager
def activated(
    sockets: list[socket.socket],
    program: list[str],
    *arguments: str,
    folder: Path,
    have_names: bool = True,
) -> Iterator[Activated]:
    """
    A server that gets its sockets as systemd gives them: descriptors from 3 on.

    :param have_names: False is as ``systemd-socket-activate`` without ``--fdname``.
    """
    given = "; ".join(f"exec {3 + n}<&{one.fileno()}" for n, one in enumerate(sockets))
    names = ":".join(["upgrade-switch.socket"] * len(sockets))
    # LISTEN_PID is the process's own, which only it knows.
    variables = f"LISTEN_FDS={len(sockets)} LISTEN_PID=$$"
    if have_names:
        variables += f" LISTEN_FDNAMES={names}"
    script = f"{given}; {variables} exec {shlex.join([*program, *arguments])}"
    # Above those that the shell puts them at.
    numbers = [one.fileno() for one in sockets]
    assert min(numbers) > 2 + len(sockets), numbers
    with Activated(["bash", "-c", script], pass_fds=numbers, cwd=folder) as server:
        for one in sockets:
            # From here on it is the server's alone: without it, nobody waits for an answer.
            one.close()
        yield server


def hears_itself(address: str) -> None:
    """A client gets its echo from a server that listens there."""
    with upgraded(address, "/echo", "echo") as client:
        client.sendall(b"hello")
        assert read_until(client, b"hello") == b"hello"


def high(made: socket.socket) -> socket.socket:
    """The same socket, under a number that is out of the way."""
    with made:
        return socket.socket(fileno=fcntl(made.fileno(), F_DUPFD_CLOEXEC, 10))


PROGRAMS = {"serve": [COMMAND, "serve"], "twist": [TWIST, "upgrade-switch"]}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_every_kind(kind: str, folder: Path) -> None:
    """TCP, TLS, a UNIX socket, and two sockets of systemd's, all at the same time."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(folder / "given"))
    unix.listen()
    inet = socket.create_server(("127.0.0.1", 0))
    port = inet.getsockname()[1]
    endpoints = [
        "systemd:domain=INET:index=0",
        "systemd:domain=UNIX:index=1",
        "unix:made:mode=600",
        LOCAL,
        "ssl:0:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem",
    ]
    options = [part for endpoint in endpoints for part in ("--listen", endpoint)]
    with activated([high(inet), high(unix)], PROGRAMS[kind], *options, folder=folder) as server:
        said = [server.listens() for _ in endpoints]
        assert said[0] == f"http://127.0.0.1:{port}/"
        assert said[1:3] == [str(folder / "given"), "made"]
        assert [url.partition(":")[0] for url in said[3:]] == ["http", "https"]
        for address in said:
            where = str(folder / address) if "://" not in address else address
            hears_itself(where)
            assert get(where)[0] == 200
        assert (folder / "made").stat().st_mode & 0o777 == 0o600
        server.terminate()
        code, _out, error = server.ends()
    assert (code, error) == (0, b"")
    # What it has made, it removes; what it was given is systemd's.
    assert not (folder / "made").exists()
    assert (folder / "given").exists()


def test_activated_again(folder: Path) -> None:
    """Who connects to a UNIX socket of systemd's while there is no server gets the next one."""
    path = folder / "given"
    options = ["--listen", "systemd:domain=UNIX:index=0"]
    with socket.socket(socket.AF_UNIX) as systemds:
        systemds.bind(str(path))
        systemds.listen()
        for _ in range(2):
            with connected(str(path)) as waiting:
                waiting.sendall(upgrade_head(path=b"/echo") + b"hello")
                given = [high(systemds.dup())]
                with activated(given, PROGRAMS["serve"], *options, folder=folder) as server:
                    assert server.listens() == str(path)
                    assert read_until(waiting, b"hello").startswith(b"HTTP/1.1 101 ")
                    waiting.close()
                    server.terminate()
                    assert server.ends() == (0, b"", b"")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_path_is_gone(kind: str, folder: Path) -> None:
    """Where somebody has removed a UNIX socket's path, the server ends as it does else."""
    options = ["--listen", "unix:made", "--listen", LOCAL, "--drain", "0"]
    with Operated(PROGRAMS[kind], *options, cwd=folder) as server:
        address = [server.listens(), server.listens()][1]
        (folder / "made").unlink()
        with upgraded(address, "/echo", "echo") as client:
            server.terminate()
            assert read_all(client) == b""
        code, out, error = server.ends()
    assert code == 0
    assert (out + error).count(b"cannot close ") == 1
    assert b"Traceback" not in out + error


@pytest.mark.parametrize("given", [0, 1])
def test_no_socket_of_systemds(given: int, folder: Path) -> None:
    """A socket that systemd has not given: one line, exit code 2."""
    options = ["--listen", f"systemd:domain=INET:index={given}"]
    if given:
        inet = [high(socket.create_server(("127.0.0.1", 0)))]
        with activated(inet, [COMMAND, "serve"], *options, folder=folder) as server:
            code, out, error = server.ends()
    else:
        done = run("serve", *options)
        code, out, error = done.returncode, done.stdout, done.stderr
    assert (code, out) == (2, b"")
    assert error.startswith(
        b"upgrade-switch: serve: systemd has passed no socket for 'systemd:domain=INET:index="
    )
    assert error.count(b"\n") == 1


@pytest.mark.parametrize("kind", PROGRAMS)
def test_sockets_without_names(kind: str, folder: Path) -> None:
    """Where systemd's sockets have no names, one line says how to give them some: exit code 2."""
    inet = [high(socket.create_server(("127.0.0.1", 0)))]
    options = ["--listen", "systemd:domain=INET:index=0"]
    with activated(inet, PROGRAMS[kind], *options, folder=folder, have_names=False) as server:
        code, out, error = server.ends()
    assert (code, out) == (2, b"")
    assert b"systemd-socket-activate with --fdname=NAME" in error
    assert error.count(b"\n") == 1


def test_no_certificate(folder: Path) -> None:
    """A key or a certificate that is missing or broken: one line, exit code 2."""
    (folder / "none.pem").write_text("no certificate\n")
    pairs = [("key.pem", "missing.pem"), ("none.pem", "cert.pem"), ("key.pem", "none.pem")]
    for key, certificate in pairs:
        endpoint = f"ssl:0:privateKey={key}:certKey={certificate}"
        done = run("serve", "--listen", endpoint, cwd=folder)
        assert (done.returncode, done.stdout) == (2, b""), done
        assert done.stderr.count(b"\n") == 1
        assert endpoint.encode() in done.stderr


@pytest.mark.parametrize("kind", ["serve", "twist"])
@pytest.mark.parametrize("number", range(3))
def test_examples(number: int, kind: str, folder: Path) -> None:
    """The examples in ``--help`` run as they are written; only the ports are others."""
    example = ServeOptions.examples[number]
    assert example == run("serve", "--help").stdout.decode().rstrip().splitlines()[number - 3].strip()
    with listening(echo) as port:
        line = example.replace("tcp:8080", LOCAL).replace("ssl:8443:", "ssl:0:interface=127.0.0.1:")
        for far in ("127.0.0.1:22", "127.0.0.1:5900"):
            line = line.replace(far, f"127.0.0.1:{port}")
        words = shlex.split(line)
        assert words[:2] == ["upgrade-switch", "serve"]
        with Operated(PROGRAMS[kind], *words[2:], cwd=folder) as server:
            CHECKS[number](server.listens())
            server.terminate()
            code, _out, _error = server.ends()
    assert code == 0


def _tunnel(url: str) -> None:
    with upgraded(url, "/ssh", "ssh") as client:
        client.sendall(b"hello")
        assert read_until(client, b"hello") == b"hello"


def _files_and_passwords(url: str) -> None:
    assert url.startswith("https:")
    assert body_of(get(url)[1]) == b"welcome"
    fields = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    assert get(url, "/vnc")[0] == 401
    password = b"Authorization: Basic " + b64encode(b"ops:secret") + b"\r\n"
    with upgraded(url, "/vnc", "websocket", fields + password) as client:
        # A binary message, with a mask of zeros.
        client.sendall(b"\x82\x85\0\0\0\0hello")
        assert read_until(client, b"hello") == b"\x82\x05hello"


def _preface_and_status(url: str) -> None:
    with connected(url) as client:
        client.sendall(b"SSH-2.0-me\r\n")
        assert read_until(client, b"\r\n") == b"SSH-2.0-me\r\n"
    assert get(url, "/status")[0] == 200


CHECKS = [_tunnel, _files_and_passwords, _preface_and_status]
