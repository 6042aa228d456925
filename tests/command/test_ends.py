"""
How ``connect`` ends where its output cannot be written, or where it is told to end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.commands import COMMAND, Process, run, serving
from tests.kit.programs import Program


def test_full_disk(tmp_path: Path) -> None:
    """Output that cannot be written is said, and is no success."""
    with serving() as server:
        limited = f'ulimit -f 10; exec {COMMAND} connect {server.url}echo echo > "$0"'
        for command in (f"exec {COMMAND} connect {server.url}echo echo > /dev/full", limited):
            done = subprocess.run(
                ["bash", "-c", command, str(tmp_path / "out")],
                input=bytes(1_000_000),
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 1
            assert done.stderr == b"upgrade-switch: standard output could not be written\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(number: signal.Signals) -> None:
    """A signal ends a connection without a word, and is no success."""
    with serving() as server, Process("connect", f"{server.url}echo", "echo") as process:
        process.sends(b"hello")
        assert process.receives(5) == b"hello"
        process.send_signal(number)
        code, _out, said = process.ends()
        assert (code, said) == (1, b"")


def test_quoted_path() -> None:
    """A tunnel's path is a URL's: what is quoted there is found."""
    with serving("--tunnel", "/a%20b x tcp:127.0.0.1:1") as server:
        done = run("connect", f"{server.url}a%20b", "x")
        assert b"502 Bad Gateway" in done.stderr
    for path in ("/q?x", "/q#x"):
        assert run("serve", "--tunnel", f"{path} x tcp:127.0.0.1:1").returncode == 2


def test_signals_of_children() -> None:
    """
    What these tests start begins with default signal handlers, though the tests ignore a signal, as
    ``make test &`` does.
    """
    code = "import signal; print(signal.getsignal(2).__name__)"
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Program([sys.executable, "-c", code]) as program:
            assert program.ends() == (0, b"default_int_handler\n", b"")
    finally:
        signal.signal(signal.SIGINT, ours)
