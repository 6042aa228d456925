"""
``upgrade-switch connect``: what goes through it, and when it ends.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.commands import (
    COMMAND,
    PATIENCE,
    SWITCH,
    Process,
    listening,
    read_all,
    read_until,
    run,
    serving,
    switch,
)

MUCH = random.Random(3).randbytes(20_000_000)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a running server's echo."""
    with serving() as server:
        yield f"{server.url}echo"


@pytest.fixture(scope="module")
def much(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 20 MB."""
    path = tmp_path_factory.mktemp("much") / "much"
    path.write_bytes(MUCH)
    return path


# pytest would compare them byte by byte, and print them.
def same(data: bytes) -> bool:
    return data == MUCH


def test_file_to_file(url: str, much: Path, tmp_path: Path) -> None:
    """20 MB from a file, through the server and into a file, are the same 20 MB."""
    arrived = tmp_path / "arrived"
    with much.open("rb") as source, arrived.open("wb") as sink:
        done = run("connect", url, "echo", stdin=source, stdout=sink)
    assert (done.returncode, done.stderr) == (0, b"")
    assert same(arrived.read_bytes())


def test_pipe_to_pipe(url: str) -> None:
    """20 MB from a pipe, through the server and into a pipe, are the same 20 MB."""
    done = run("connect", url, "echo", input=MUCH)
    assert (done.returncode, done.stderr) == (0, b"")
    assert same(done.stdout)


def test_socket_to_socket(url: str) -> None:
    """Standard input and output may be one socket, as inetd has it: 20 MB arrive, and the end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours, Process("connect", url, "echo", stdin=theirs, stdout=theirs) as process:
        theirs.close()

        def send() -> None:
            ours.sendall(MUCH)
            ours.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        arrived = read_all(ours)
        sender.join()
        assert process.ends() == (0, b"", b"")
    assert same(arrived)


def test_slow_reader() -> None:
    """What the server has sent before it closed is written to the end, however late it is read."""

    def talk(client: socket.socket) -> None:
        switch(client)
        client.sendall(MUCH[:1_000_000])

    with (
        listening(talk) as port,
        Process("connect", f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        first = process.receives(1)
        process.stdin.close()
        code, rest, said = process.ends()
    assert (code, said) == (0, b"")
    assert first + rest == MUCH[:1_000_000]


def test_empty_input(url: str) -> None:
    """With nothing on standard input (``/dev/null``), it ends at once and well."""
    done = run("connect", url, "echo", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_answer_to_the_end() -> None:
    """The end of standard input is a half-close: what the server says to it still arrives."""
    heard = []

    def talk(client: socket.socket) -> None:
        switch(client)
        heard.append(read_all(client))
        client.sendall(b"I have heard it all")

    with listening(talk) as port:
        done = run("connect", f"http://127.0.0.1:{port}/", "echo", input=b"hello")
    assert heard == [b"hello"]
    assert (done.returncode, done.stdout, done.stderr) == (0, b"I have heard it all", b"")


def _closes(client: socket.socket) -> None:
    client.close()


def _half_closes(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    read_all(client)


@pytest.mark.parametrize("end", [_closes, _half_closes])
def test_server_closes(end: Callable[[socket.socket], None]) -> None:
    """When the server has said its last word, it ends, though standard input stays open."""

    def talk(client: socket.socket) -> None:
        switch(client)
        client.sendall(b"bye")
        end(client)

    with (
        listening(talk) as port,
        Process("connect", f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        assert process.ends() == (0, b"bye", b"")


def test_server_speaks_with_the_101() -> None:
    """What comes in one piece with the 101 is written."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(SWITCH + b"welcome")
        read_all(client)

    with listening(talk) as port:
        done = run("connect", f"http://127.0.0.1:{port}/", "echo")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"welcome", b"")


def test_input_while_connecting() -> None:
    """What is on standard input before the server has switched is not lost."""
    heard = []

    def talk(client: socket.socket) -> None:
        asked.set()
        written.wait(PATIENCE)
        switch(client)
        heard.append(read_all(client))

    asked, written = threading.Event(), threading.Event()
    with (
        listening(talk) as port,
        Process("connect", f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        assert asked.wait(PATIENCE)
        process.sends(b"early")
        process.stdin.close()
        written.set()
        assert process.ends() == (0, b"", b"")
    assert heard == [b"early"]


def test_nobody_reads_any_more(url: str, much: Path) -> None:
    """When standard output is closed under it (``| head -c 10``), it ends, without complaint."""
    with much.open("rb") as source, Process("connect", url, "echo", stdin=source) as process:
        assert process.receives(10) == MUCH[:10]
        process.stdout.close()
        assert process.ends() == (0, b"", b"")


def test_nobody_reads_while_idle(url: str) -> None:
    """It ends when standard output is closed, also while nothing goes through and input is open."""
    with Process("connect", url, "echo") as process:
        process.sends(b"hello")
        assert process.receives(5) == b"hello"
        process.stdout.close()
        assert process.ends() == (0, b"", b"")


def test_shell_pipeline(url: str, much: Path) -> None:
    """In a pipeline, ``head`` gets its bytes and the pipeline ends."""
    done = subprocess.run(
        ["sh", "-c", '"$1" connect "$2" echo < "$3" | head -c 10', "sh", COMMAND, url, str(much)],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr) == (MUCH[:10], b"")


def test_tokens_and_paths() -> None:
    """The server is asked for the token as it was written, at the URL's path and query."""
    asked = []

    def talk(client: socket.socket) -> None:
        asked.append(read_until(client, b"\r\n\r\n"))

    with listening(talk) as port:
        run("connect", f"http://127.0.0.1:{port}/a/b%20c?d=e&f", "Chat/2.0")
    lines = asked[0].split(b"\r\n")
    assert lines[0] == b"GET /a/b%20c?d=e&f HTTP/1.1"
    assert b"Upgrade: Chat/2.0" in lines
    assert b"Connection: Upgrade" in lines
    assert b"Host: 127.0.0.1:%d" % port in lines


def test_terminal(url: str) -> None:
    """It works on a terminal, where Ctrl-D ends it."""
    master, slave = os.openpty()
    with Process("connect", url, "echo", stdin=slave) as process:
        os.close(slave)
        os.write(master, b"hello\n")
        assert process.receives(6) == b"hello\n"
        os.write(master, b"\x04")
        assert process.ends() == (0, b"", b"")
    os.close(master)


@pytest.mark.parametrize("token", ["echo", "other"])
def test_connected(url: str, token: str) -> None:
    """Where standard error is a terminal, one line says that the connection has switched, if it has."""
    master, slave = os.openpty()
    with Process("connect", url, token, stderr=slave) as process:
        os.close(slave)
        said = os.read(master, 1000).decode()
        process.stdin.close()
        code, out, _ = process.ends()
    os.close(master)
    if token == "echo":
        assert (code, out, said) == (0, b"", f"upgrade-switch: {url}: connected\r\n")
    else:
        assert (code, out) == (3, b"")
        assert "connected" not in said
