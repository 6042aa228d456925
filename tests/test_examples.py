"""
The examples run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def server() -> Iterator[str]:
    """The echo server's URL."""
    command = [sys.executable, str(EXAMPLES / "echo_server.py"), "tcp:0:interface=127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    match = re.search(r"port=(\d+)", process.stdout.readline())
    assert match is not None
    yield f"http://127.0.0.1:{match[1]}"
    process.terminate()
    process.wait(30)
    process.stdout.close()


def test_echo(server: str) -> None:
    """The treq example gets its line back from the echo example."""
    done = run("treq_client.py", f"{server}/echo")
    assert (done.stdout, done.stderr, done.returncode) == ("hello, switched world\n", "", 0)


def test_refusal(server: str) -> None:
    """Where the server does not switch, the treq example says what it said."""
    done = run("treq_client.py", f"{server}/")
    assert "did not switch protocols: 200 OK\nAn ordinary page." in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_every_example_is_run() -> None:
    """A new example wants a test here."""
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == {
        "echo_server.py",
        "treq_client.py",
    }
