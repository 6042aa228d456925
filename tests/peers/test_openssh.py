"""
OpenSSH through a tunnel: ``upgrade-switch connect`` as its ProxyCommand, ``upgrade-switch serve`` in
front of its server, and nothing of either changed.
"""

from __future__ import annotations

import random
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.commands import COMMAND, PATIENCE, serving
from tests.kit.openssh import (
    carries,
    client_options,
    digest,
    make_key,
    running_sshd,
    runs_commands,
    scp,
    ssh,
)

MUCH = random.Random(4).randbytes(20_000_000)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options that lead ssh and scp through a tunnel to a running sshd: the host ``tunnelled``."""
    folder = tmp_path_factory.mktemp("ssh")
    with (
        running_sshd(folder) as port,
        serving("--tunnel", f"/ssh ssh tcp:127.0.0.1:{port}") as server,
    ):
        through = shlex.join([COMMAND, "connect", f"{server.url}ssh", "ssh"])
        yield client_options(folder, f"ProxyCommand={through}")


def test_command(options: list[str]) -> None:
    """A command's output, its errors and its exit status come back through the tunnel."""
    runs_commands(options)


def test_much_there_and_back(options: list[str]) -> None:
    """20 MB through ``cat`` on the other side are the same 20 MB."""
    carries(options, MUCH)


def test_end_of_input(options: list[str]) -> None:
    """The other side's command sees the end of its input, and can still answer."""
    done = ssh(options, "wc -c; echo counted", input=b"x" * 12345)
    assert (done.returncode, done.stdout.split()) == (0, [b"12345", b"counted"])


def test_two_at_once(options: list[str]) -> None:
    """Two sessions at the same time do not disturb one another."""
    command = ["ssh", *options, "tunnelled", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        first.stdin.write(b"first")
        first.stdin.flush()
        assert ssh(options, "cat", input=b"second").stdout == b"second"
        assert first.communicate(timeout=PATIENCE) == (b"first", None)
    assert first.returncode == 0


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_scp(options: list[str], tmp_path: Path, back: bool) -> None:
    """``scp`` brings a file of 20 MB through the tunnel, intact, in either direction."""
    assert digest(scp(options, tmp_path, MUCH, back)) == digest(MUCH)


def test_wrong_key(options: list[str], tmp_path: Path) -> None:
    """ssh's own refusals come through as they are: exit status 255."""
    make_key(tmp_path / "key")
    others = [str(tmp_path / "key") if word.endswith("/user_key") else word for word in options]
    done = ssh(others, "true")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
