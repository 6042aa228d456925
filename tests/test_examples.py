"""
The examples run.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(name: str) -> Iterator[int]:
    """Run an example that listens; gives its port."""
    command = [sys.executable, str(EXAMPLES / name), "tcp:0:interface=127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        match = re.search(r"port=(\d+)", process.stdout.readline())
        assert match is not None
        yield int(match[1])
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.fixture
def server() -> Iterator[str]:
    """The echo server's URL."""
    with serving("echo_server.py") as port:
        yield f"http://127.0.0.1:{port}"


def test_echo(server: str) -> None:
    """The treq example gets its line back from the echo example."""
    done = run("treq_client.py", f"{server}/echo")
    assert (done.stdout, done.stderr, done.returncode) == ("hello, switched world\n", "", 0)


def test_refusal(server: str) -> None:
    """Where the server does not switch, the treq example says what it said."""
    done = run("treq_client.py", f"{server}/")
    assert "did not switch protocols: 200 OK\nAn ordinary page." in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_hybrid() -> None:
    """The hybrid example answers HTTP, and shouts at who begins with the flag line."""
    with serving("hybrid.py") as port:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert response.read() == b"An ordinary page.\n"
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            lines = connection.makefile("rwb")
            for line in (b"SHOUT\r\n", b"hello\r\n"):
                lines.write(line)
                lines.flush()
                assert lines.readline() == line.upper()
            lines.close()


def test_twisted_websocket() -> None:
    """The example listens; tests of docs/ say what it does."""
    with (
        serving("twisted_websocket.py") as port,
        pytest.raises(HTTPError) as refused,
    ):
        urlopen(f"http://127.0.0.1:{port}/ws", timeout=30)
    assert (refused.value.code, refused.value.headers["upgrade"]) == (426, "websocket")
    refused.value.close()


def test_every_example_is_run() -> None:
    """A new example wants a test here."""
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == {
        "echo_server.py",
        "hybrid.py",
        "treq_client.py",
        "twisted_websocket.py",
    }
