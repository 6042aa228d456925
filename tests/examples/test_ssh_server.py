"""
The SSH server of the examples, and OpenSSH's client, which comes through ``upgrade-switch connect``.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.commands import COMMAND, PATIENCE
from tests.kit.examples import Example, running, serving
from tests.kit.foreign import needs
from tests.kit.openssh import HOST, client_options, make_key, ssh

pytestmark = needs("ssh")

# An older conch, beside a newer cryptography, warns of the ciphers that it has.
QUIET = {"PYTHONWARNINGS": "ignore:TripleDES"}

GREETING = b"Hello, guest. 'exit' ends it.\n"


def options_for(server: Example, folder: Path, path: str = "/ssh") -> list[str]:
    """Options that lead ssh to the example, as guest."""
    through = shlex.join([COMMAND, "connect", server.url + path, "ssh"])
    return client_options(folder, "User=guest", f"ProxyCommand={through}")


@contextmanager
def ssh_server(folder: Path, *arguments: str) -> Iterator[Example]:
    """The example, whose key ssh knows."""
    make_key(folder / "user_key")
    with serving("ssh_server.py", str(folder / "user_key.pub"), *arguments, **QUIET) as server:
        key = server.says().removeprefix("the server's key: ")
        (folder / "known_hosts").write_text(f"{HOST} {key}\n")
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Example, Path]]:
    """The example, and the folder with its user's key."""
    folder = tmp_path_factory.mktemp("ssh")
    with ssh_server(folder) as example:
        yield example, folder


@pytest.fixture
def options(server: tuple[Example, Path]) -> list[str]:
    return options_for(*server)


def test_lines(options: list[str]) -> None:
    """The shell greets, says back what it hears, and ends well when the input does."""
    done = ssh(["-T", *options], "", input=b"one\ntwo\n")
    said = GREETING + b"You said: one\nYou said: two\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, b"")


def test_exit(options: list[str]) -> None:
    """``exit`` ends it, though the input goes on."""
    done = ssh(["-T", *options], "", input=b"one\nexit\ntwo\n")
    assert (done.returncode, done.stdout) == (0, GREETING + b"You said: one\n")


def test_command(options: list[str], tmp_path: Path) -> None:
    """A command is said back, and not run."""
    done = ssh(options, f"touch {tmp_path}/made")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == GREETING + f"You said: touch {tmp_path}/made\n".encode()
    assert not list(tmp_path.iterdir())


def test_line_too_long(options: list[str]) -> None:
    """A line that is too long ends the session."""
    done = ssh(["-T", *options], "", input=b"x" * 100_000)
    assert (done.returncode, done.stdout) == (0, GREETING + b"Too long.\n")


def test_terminal(options: list[str]) -> None:
    """There is no terminal, and nothing else that an SSH server may have."""
    done = ssh(["-tt", *options], "")
    assert b"PTY allocation request failed" in done.stderr
    done = ssh(["-s", *options], "sftp")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"subsystem request failed" in done.stderr


def test_wrong_key(options: list[str], tmp_path: Path) -> None:
    """Who has another key does not come in."""
    make_key(tmp_path / "key")
    others = [str(tmp_path / "key") if word.endswith("/user_key") else word for word in options]
    done = ssh(others, "hello")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)" in done.stderr


def test_wrong_name(options: list[str]) -> None:
    """Nor does anybody but guest, with any key."""
    done = ssh(["-l", "root", *options], "hello")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)" in done.stderr


def test_elsewhere(server: tuple[Example, Path]) -> None:
    """Where there is no SSH, ssh passes on what ``upgrade-switch connect`` says."""
    done = ssh(options_for(*server, path="/elsewhere"), "hello")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"404" in done.stderr


def test_server_goes(tmp_path: Path) -> None:
    """ssh notices that the server has gone, and the server ends in the middle of a session."""
    with ssh_server(tmp_path) as server:
        command = ["ssh", "-T", *options_for(server, tmp_path), HOST]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as session:
            assert session.stdout is not None
            try:
                assert session.stdout.read(len(GREETING)) == GREETING
                assert server.finishes() == (0, "")
                # Its input stays open.
                assert session.wait(PATIENCE) == 255
            finally:
                session.kill()


def test_key_of_a_file(tmp_path: Path) -> None:
    """A server that is given a key has that one."""
    make_key(tmp_path / "user_key")
    make_key(tmp_path / "host_key")
    arguments = [
        str(tmp_path / "user_key.pub"),
        "tcp:0:interface=127.0.0.1",
        str(tmp_path / "host_key"),
    ]
    with running("ssh_server.py", *arguments, **QUIET) as server:
        assert server.says().startswith("listening on ")
        key = server.says().removeprefix("the server's key: ")
    assert key.split() == (tmp_path / "host_key.pub").read_text().split()[:2]
