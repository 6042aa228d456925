"""
The exec service of the examples, and its clients: Docker's own, ``upgrade-switch connect``, and one
that is older than Upgrade.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.kit.commands import PATIENCE, read_all, read_until, reset
from tests.kit.commands import run as command
from tests.kit.examples import Example, refused, serving
from tests.kit.foreign import find, needs
from tests.kit.harness import field, status
from tests.kit.programs import Program

docker_client = needs("docker")

MUCH = random.Random(14).randbytes(2_000_000)

SCRIPTS = {
    # Apart, and with an exit code.
    "both": "echo out; echo err >&2; exit $1",
    # Ends with a signal.
    "killed": "kill -TERM $$",
    # Says that it has seen the end of its input; writes when it is told to.
    "late": 'cat; echo ended > "$1"; read line < "$2"; echo "$line"',
    # Holds a FIFO open for as long as it lives, and writes without end.
    "flooding": 'exec 3> "$1"; echo begun >&3; exec yes',
    # Leaves a child behind, which could still write, until a FIFO is written to.
    "leaving": 'echo begun; read line < "$1" & exit 3',
    # Says what it sees of its terminal.
    "terminal": 'stty size; read line; echo "got $line"; exit 7',
    # Says that there is nothing to read.
    "detached": 'read line || echo nothing > "$1"',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scripts."""
    path = tmp_path_factory.mktemp("exec")
    for name, text in SCRIPTS.items():
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Example]:
    """The example; it allows the scripts, and three programs."""
    allowed = ["cat", "head", "yes", *(str(folder / name) for name in SCRIPTS)]
    with serving("remote_exec.py", " ".join(allowed)) as example:
        yield example


class Docker:
    """Docker's client, which talks to the example."""

    def __init__(self, server: Example, folder: Path) -> None:
        self.command = [find("docker"), "-H", f"tcp://127.0.0.1:{server.port}"]
        self.env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": str(folder), "HOME": str(folder)}

    def __call__(self, *words: str, input: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run it to its end: its exit code, and what it has written."""
        kwargs: Any = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(
            [*self.command, *words],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env=self.env,
            **kwargs,
        )
        return done.returncode, done.stdout, done.stderr

    def begin(self, *words: str, **kwargs: Any) -> Program:
        return Program([*self.command, *words], env=self.env, **kwargs)


@pytest.fixture
def docker(server: Example, folder: Path) -> Docker:
    return Docker(server, folder)


class Fifo:
    """A FIFO that scripts write to, or read from."""

    def __init__(self, path: Path, mode: int = os.O_RDONLY) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.descriptor = os.open(path, mode | os.O_NONBLOCK)

    def __enter__(self) -> Fifo:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.descriptor)

    def read(self) -> bytes:
        """What is written to it; empty if those that have had it open are gone."""
        return read_soon(self.descriptor)

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)


def read_soon(descriptor: int) -> bytes:
    assert select([descriptor], [], [], PATIENCE)[0]
    return os.read(descriptor, 1000)


# Docker's client.


@docker_client
@pytest.mark.parametrize("code", [0, 3, 255])
def test_exec(docker: Docker, folder: Path, code: int) -> None:
    """Standard output and error arrive apart, and the exit code is the command's."""
    done = docker("exec", "box", str(folder / "both"), str(code))
    assert done == (code, b"out\n", b"err\n")


@docker_client
def test_signal(docker: Docker, folder: Path) -> None:
    """The exit code of a command that a signal has ended is a shell's."""
    assert docker("exec", "box", str(folder / "killed")) == (128 + 15, b"", b"")


@docker_client
@pytest.mark.parametrize("words", [("exec", "-i", "box", "cat"), ("attach", "box")])
def test_much(docker: Docker, words: tuple[str, ...]) -> None:
    """2 MB there and back; the command sees the end of its input."""
    code, out, said = docker(*words, input=MUCH)
    assert (code, said) == (0, b"")
    assert out == MUCH, len(out)


@docker_client
def test_no_input(docker: Docker) -> None:
    """Without -i, the command's input is empty."""
    assert docker("exec", "box", "cat", input=b"not asked for") == (0, b"", b"")


@docker_client
def test_input_is_not_read(docker: Docker) -> None:
    """A command that reads a part of its input, and ends, has its output and exit code."""
    assert docker("exec", "-i", "box", "head", "-c", "5", input=MUCH) == (0, MUCH[:5], b"")


@docker_client
def test_output_after_half_close(docker: Docker, folder: Path, tmp_path: Path) -> None:
    """What a command writes long after the end of its input arrives."""
    words = ("exec", "-i", "box", str(folder / "late"), str(tmp_path / "ended"), str(tmp_path / "go"))
    with (
        Fifo(tmp_path / "ended") as ended,
        Fifo(tmp_path / "go", os.O_RDWR) as go,
        docker.begin(*words) as client,
    ):
        client.writes(b"early\n")
        assert ended.read() == b"ended\n"
        assert client.receives(6) == b"early\n"
        go.write(b"late\n")
        assert client.everything() == (0, b"late\n", b"")


@docker_client
def test_terminal(docker: Docker, folder: Path) -> None:
    """With -it, the command has a terminal of the client's size, and what is typed reaches it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
    words = ("exec", "-it", "box", str(folder / "terminal"))
    with docker.begin(*words, stdin=theirs, stdout=theirs, stderr=theirs) as client:
        os.close(theirs)
        said = b""
        while b"\n" not in said:
            said += read_soon(ours)
        os.write(ours, b"typed\r")
        while b"got typed" not in said:
            said += read_soon(ours)
        assert client.wait() == 7
    os.close(ours)
    # Clients before 23.0 send the size in a request of its own, which may come later.
    assert re.match(rb"(33 111|0 0)\r\n", said), said


@docker_client
def test_terminal_without_input(docker: Docker, folder: Path) -> None:
    """With -t alone, standard error is in the output, as with any terminal."""
    done = docker("exec", "-t", "box", str(folder / "both"), "4")
    assert done == (4, b"out\r\nerr\r\n", b"")


@docker_client
def test_detached(docker: Docker, folder: Path, tmp_path: Path) -> None:
    """With -d, nobody waits for the command."""
    with Fifo(tmp_path / "told") as told:
        done = docker("exec", "-d", "box", str(folder / "detached"), told.path)
        assert done == (0, b"", b"")
        assert told.read() == b"nothing\n"


@docker_client
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exec", "box", "rm", "-rf", "/"), b"only these may run: cat, head"),
        (("exec", "-u", "root", "box", "cat"), b"no other user"),
        (("exec", "-e", "A=b", "box", "cat"), b"no other user, folder or environment"),
        # Some versions of the client have their own words for it.
        (("exec", "other", "cat"), b"No such "),
        (("attach", "other"), b"No such "),
        (("logs", "box"), b"No such thing here"),
    ],
)
def test_refused(docker: Docker, words: tuple[str, ...], said: bytes) -> None:
    """What the service does not have is refused, in words that the client shows."""
    code, out, error = docker(*words)
    assert (code, out) == (1, b"")
    assert said in error


@docker_client
def test_version(docker: Docker) -> None:
    """The client can tell what it talks to."""
    code, out, _ = docker("version", "--format", "{{.Server.APIVersion}}")
    assert (code, out) == (0, b"1.44\n")


@docker_client
@pytest.mark.parametrize("options", [[], ["-i"], ["-t"]])
def test_killed_in_the_middle(docker: Docker, folder: Path, tmp_path: Path, options: list[str]) -> None:
    """
    A client that is killed takes the command with it, when that writes. (A FIN alone may as well be the
    end of its input.)
    """
    with Fifo(tmp_path / "life") as life:
        command = ("box", str(folder / "flooding"), life.path)
        with docker.begin("exec", *options, *command) as client:
            assert life.read() == b"begun\n"
            assert client.receives(100_000)
        assert life.read() == b""


# Other clients.


def post(server: Example, path: str, body: Any = None, **fields: str) -> Any:
    """The answer to a POST."""
    data = b"" if body is None else json.dumps(body).encode()
    request = Request(f"{server.url}{path}", data, fields, method="POST")
    try:
        with urlopen(request, timeout=PATIENCE) as response:
            return json.loads(response.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())["message"]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a stream, as Docker's client reads them."""
    found = []
    while data:
        kind, length = struct.unpack(">BxxxL", data[:8])
        found.append((kind, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def created(server: Example, *words: str, **more: Any) -> str:
    """The path of a command that can be started."""
    name = post(server, "/containers/box/exec", {"Cmd": words, **more})["Id"]
    return f"/exec/{name}"


def exit_code(server: Example, path: str) -> Any:
    with urlopen(f"{server.url}{path}/json", timeout=PATIENCE) as response:
        return json.loads(response.read())["ExitCode"]


def code_at_end(server: Example, path: str) -> Any:
    """The exit code of a command that ends soon."""
    until = time.monotonic() + PATIENCE
    while (code := exit_code(server, path)) is None:
        assert time.monotonic() < until
    return code


@pytest.mark.parametrize("options", [["--method", "POST", "--data", '{"Tty": false}'], ["--data={}"]])
def test_connect(server: Example, folder: Path, options: list[str]) -> None:
    """``upgrade-switch connect`` starts a command, and is its input and output."""
    path = created(server, "cat")
    done = command("connect", *options, f"{server.url}{path}/start", "tcp", input=MUCH)
    assert (done.returncode, done.stderr) == (0, b"")
    found = frames(done.stdout)
    assert {kind for kind, _ in found} == {1}
    assert b"".join(data for _, data in found) == MUCH
    assert exit_code(server, path) == 0


def test_connect_to_terminal(server: Example, folder: Path) -> None:
    """With a terminal, the output comes as it is."""
    path = created(server, str(folder / "both"), "9", Tty=True)
    done = command("connect", "--data", "{}", f"{server.url}{path}/start", "tcp")
    assert (done.returncode, done.stdout) == (0, b"out\r\nerr\r\n")
    assert exit_code(server, path) == 9


def test_connect_twice(server: Example) -> None:
    """A command is started once; what is not known is not started at all."""
    path = created(server, "cat")
    assert command("connect", "--data", "{}", f"{server.url}{path}/start", "tcp").returncode == 0
    for wrong in (f"{path}/start", "/exec/0123/start"):
        done = command("connect", "--data", "{}", f"{server.url}{wrong}", "tcp")
        assert done.returncode == 3
    done = command("connect", f"{server.url}{path}/start", "tcp")
    assert done.returncode == 3


def hijacked(server: Example, path: str, body: bytes = b"{}", version: str = "1.1") -> Any:
    """A connection that begins as those of old clients do; the answer's head, and what came with it."""
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    head = f"POST {path}/start HTTP/{version}\r\nHost: docker\r\nContent-Type: application/json\r\n"
    client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answer, _, rest = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
    return client, answer, rest


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_without_upgrade(server: Example, version: str) -> None:
    """A client that knows no Upgrade gets a 200, and behind it the same stream, both ways."""
    path = created(server, "cat")
    client, head, _ = hijacked(server, path, version=version)
    with client:
        assert status(head) == 200
        assert field(head, b"content-type") == b"application/vnd.docker.multiplexed-stream"
        assert field(head, b"content-length") is field(head, b"transfer-encoding") is None
        client.sendall(b"there and back")
        assert frames(client.recv(100)) == [(1, b"there and back")]
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert exit_code(server, path) == 0


def test_nobody_reads(server: Example) -> None:
    """A command whose client does not read stops writing, and ends with the client."""
    path = created(server, "yes")
    client, _, early = hijacked(server, path)
    with client:
        assert early or client.recv(1)
        before = memory_of(server)
        # The server has time for much more while it answers these.
        for _ in range(50):
            assert exit_code(server, path) is None
        assert memory_of(server) - before < 20_000_000
    assert code_at_end(server, path) == 128 + 9


def test_child_that_stays(server: Example, folder: Path, tmp_path: Path) -> None:
    """A command that has ended, but whose child may still write, ends with its client, too."""
    with Fifo(tmp_path / "go", os.O_RDWR) as go:
        path = created(server, str(folder / "leaving"), go.path)
        client, _, early = hijacked(server, path)
        assert frames(early or client.recv(100)) == [(1, b"begun\n")]
        assert exit_code(server, path) is None
        reset(client)
        # Rarely, it has not ended yet when its client resets.
        assert code_at_end(server, path) in (3, 128 + 9)
        go.write(b"\n")


def memory_of(server: Example) -> int:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("body", [{}, {"Cmd": []}, {"Cmd": None}, {"Cmd": [["cat"]]}, [], None])
def test_nonsense(server: Example, body: Any) -> None:
    """What is not a request of Docker's is refused, and so is a page in a browser."""
    code, message = post(server, "/containers/box/exec", body)
    assert code in (400, 403)
    assert message
    origin = post(server, "/containers/box/exec", {"Cmd": ["cat"]}, Origin="http://127.0.0.1")
    assert origin[0] == 403


@pytest.mark.parametrize("commands", ["", "cat no-such-command"])
def test_missing(commands: str) -> None:
    """A command that is not there is named when the server starts."""
    assert refused("remote_exec.py", commands).startswith("no such command: ")
