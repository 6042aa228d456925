"""
The exec service of the examples, and Docker's own client.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import PATIENCE
from tests.kit.examples import Example
from tests.kit.executing import MUCH, Fifo, folder, read_soon, server
from tests.kit.foreign import find, needs
from tests.kit.programs import Program

__all__ = ["folder", "server"]  # fixtures

docker_client = needs("docker")


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
