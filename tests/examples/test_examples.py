"""
The examples run: those that have no module of their own here.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.kit.commands import read_all, read_until
from tests.kit.commands import run as command
from tests.kit.examples import EXAMPLES, Example, refused, run, serving


@pytest.fixture(scope="module")
def echo() -> Iterator[Example]:
    """The echo example."""
    with serving("echo_server.py") as server:
        yield server


@pytest.fixture(scope="module")
def frames() -> Iterator[Example]:
    """The server of the example with frames."""
    with serving("frames.py", "serve") as server:
        yield server


@pytest.fixture(scope="module")
def amp() -> Iterator[Example]:
    """The server of the example with AMP."""
    with serving("amp_calls.py", "serve") as server:
        yield server


def test_echo(echo: Example) -> None:
    """The treq example gets its line back from the echo example."""
    done = run("treq_client.py", f"{echo.url}/echo")
    assert (done.stdout, done.stderr, done.returncode) == ("hello, switched world\n", "", 0)


def test_echo_through_the_command(echo: Example) -> None:
    """``upgrade-switch connect`` gets all back from the echo example, and the end."""
    much = b"0123456789abcdef" * 100_000
    done = command("connect", f"{echo.url}/echo", "echo", input=much)
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(much).digest()


def test_refusal(echo: Example) -> None:
    """Where the server does not switch, the treq example says what it said."""
    done = run("treq_client.py", f"{echo.url}/")
    assert "did not switch protocols: 200 OK\nAn ordinary page." in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_hybrid() -> None:
    """The hybrid example answers HTTP, and shouts at who begins with the flag line."""
    with serving("hybrid.py") as server:
        with urlopen(f"{server.url}/", timeout=30) as response:
            assert response.read() == b"An ordinary page.\n"
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            lines = connection.makefile("rwb")
            for line in (b"SHOUT\r\n", b"hello\r\n"):
                lines.write(line)
                lines.flush()
                assert lines.readline() == line.upper()
            lines.close()


def test_twisted_websocket() -> None:
    """The example listens; tests of docs/ say what it does."""
    with (
        serving("twisted_websocket.py") as server,
        pytest.raises(HTTPError) as refusal,
    ):
        urlopen(f"{server.url}/ws", timeout=30)
    assert (refusal.value.code, refusal.value.headers["upgrade"]) == (426, "websocket")
    refusal.value.close()


def test_frames(frames: Example, tmp_path: Path) -> None:
    """Each frame gets its answer: an empty one, one of a byte, and the longest that there may be."""
    files = {tmp_path / str(length): b"x" * length for length in (0, 1, 1_000_000)}
    for path, content in files.items():
        path.write_bytes(content)
    done = run("frames.py", "digest", f"{frames.url}/digest", *map(str, files))
    expected = [f"{hashlib.sha256(content).hexdigest()} {path}" for path, content in files.items()]
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (expected, "", 0)


def test_frames_behind_the_request(frames: Example) -> None:
    """The answers come to a client too that sends all at once, half-closes, and reads then."""
    head = (
        b"GET /digest HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: digest/1\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", frames.port), 30) as connection:
        connection.sendall(head + b"\0\0\0\1a" + b"\0\0\0\0")
        connection.shutdown(socket.SHUT_WR)
        answers = read_all(connection).partition(b"\r\n\r\n")[2]
    length = b"\0\0\0\x20"
    assert answers == b"".join(length + hashlib.sha256(frame).digest() for frame in (b"a", b""))


def test_frame_too_long(frames: Example, tmp_path: Path) -> None:
    """Who sends a frame that is too long is disconnected, and says so."""
    path = tmp_path / "long"
    path.write_bytes(b"x" * 1_000_001)
    assert "onnection" in refused("frames.py", "digest", f"{frames.url}/digest", str(path))


def test_frames_refused(frames: Example) -> None:
    """Where the server does not switch, the client says what it answered instead."""
    line = refused("frames.py", "digest", f"{frames.url}/elsewhere", __file__)
    assert line.startswith("the server did not switch protocols: 404 Not Found")


def test_frames_of_another_version(frames: Example) -> None:
    """Another version of the protocol is refused with 426, which names the one that there is."""
    head = (
        b"GET /digest HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: digest/2\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", frames.port), 30) as connection:
        connection.sendall(head)
        answer = read_until(connection, b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: digest/1\r\n" in answer


def test_amp(amp: Example) -> None:
    """A call over the upgrade has its result."""
    done = run("amp_calls.py", "divide", f"{amp.url}/amp", "1", "4")
    assert (done.stdout, done.stderr, done.returncode) == ("0.25\n", "", 0)


def test_amp_error(amp: Example) -> None:
    """An error that the server raises arrives at the client as what it is."""
    line = refused("amp_calls.py", "divide", f"{amp.url}/amp", "1", "0")
    assert line == "the server cannot divide by zero"


def test_amp_refused(amp: Example, frames: Example) -> None:
    """A server that does not speak AMP there is one that the client cannot connect to."""
    line = refused("amp_calls.py", "divide", f"{frames.url}/digest", "1", "4")
    assert line.startswith("the server did not switch protocols: 426 Upgrade Required")


@pytest.mark.parametrize(
    "name", ["amp_calls.py", "frames.py", "remote_exec.py", "reverse_http.py", "ssh_server.py"]
)
def test_usage(name: str) -> None:
    """Without arguments, an example says how it is tried."""
    done = run(name)
    assert done.returncode == 1
    assert f"python examples/{name} " in done.stderr
    assert "Traceback" not in done.stderr


def test_every_example_is_run() -> None:
    """A new example wants a test here."""
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == {
        "amp_calls.py",
        "echo_server.py",
        "frames.py",
        "hybrid.py",
        "line_chat.py",
        "remote_exec.py",
        "reverse_http.py",
        "reverse_proxy.py",
        "ssh_server.py",
        "treq_client.py",
        "twisted_websocket.py",
    }


def test_reverse_proxy(echo: Example) -> None:
    """The reverse proxy passes pages on, and an upgrade to another token as a plain request."""
    with serving("reverse_proxy.py", echo.url) as server:
        with urlopen(f"{server.url}/", timeout=30) as response:
            assert response.read() == b"An ordinary page. The echo is at /echo.\n"
        done = command("connect", f"{server.url}/echo", "echo", input=b"")
        assert done.returncode == 3
