"""
The command line: what it refuses, and what it says then. Exit codes: 0 success; 1 the network failed;
2 usage error; 3 the server did not switch.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.kit.commands import (
    COMMAND,
    LOCAL,
    SWITCH,
    Process,
    fails,
    listening,
    one_line,
    read_all,
    read_until,
    reset,
    run,
    serving,
    switch,
)
from upgrade_switch.command.client.target import parse_target

SUBCOMMANDS = ("serve", "connect")

HELP = {
    "": SUBCOMMANDS,
    "serve": ("--listen", "--tunnel", "[default: tcp:8080:interface=127.0.0.1]"),
    "connect": ("--timeout", "URL", "TOKEN"),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running server's URL."""
    with serving() as server:
        yield server.url


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port that nobody listens on, and nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.mark.parametrize("words", [[], ["serve"], ["connect"]])
def test_help(words: list[str]) -> None:
    """``--help`` explains every command and option on standard output."""
    done = run(*words, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = " ".join(done.stdout.decode().split())
    assert " ".join(["upgrade-switch", *words]) in text
    assert [word for word in HELP[" ".join(words)] if word not in text] == []


@pytest.mark.parametrize("words", [[], ["serve"]])
@pytest.mark.parametrize("nobody", ["reads", "is there"])
def test_help_for_nobody(words: list[str], nobody: str) -> None:
    """A reader that stops reading the help (``head``), or a closed standard output, is no failure."""
    reader, writer = os.pipe()
    os.close(reader)
    closed = (1,) if nobody == "is there" else ()
    try:
        done = run(*words, "--help", stdout=writer, closed=closed)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [[], ["serve"], ["connect"]])
def test_version(words: list[str]) -> None:
    """``--version`` is the package's."""
    done = run(*words, "--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == version("upgrade_switch") + "\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["serve", "--nonsense"],
        ["serve", "extra"],
        ["serve", "--listen"],
        ["serve", "--tunnel"],
        ["connect"],
        ["connect", "--nonsense"],
        ["connect", "http://127.0.0.1:1/"],
        ["connect", "http://127.0.0.1:1/", "echo", "extra"],
        ["connect", "--timeout", "soon", "http://127.0.0.1:1/", "echo"],
        ["connect", "--timeout", "-1", "http://127.0.0.1:1/", "echo"],
        ["connect", "--timeout", "nan", "http://127.0.0.1:1/", "echo"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(arguments: list[str]) -> None:
    """Missing, unknown and superfluous arguments: exit code 2, and a line that says so."""
    fails(2, *arguments)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/echo",
        "127.0.0.1:8080",
        "localhost",
        "ftp://127.0.0.1/",
        "http:",
        "http://",
        "http:///echo",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://a b/",
        "http://127.0.0.1:1/a b",
        "http://127.0.0.1:1/\r\nX: y",
        "http://exämple_.example/",
        "http://127.0.0.1:1/ä",
    ],
)
def test_no_url(url: str) -> None:
    """A string that is not the URL of a web server is refused before anything is asked: exit code 2."""
    fails(2, "connect", url, "echo")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://127.0.0.1/", "not an http or https URL"),
        ("http://127.0.0.1:99999/", "a port is a number from 1 to 65535"),
        ("http://exämple_.example/", "not a host"),
        ("http://user:secret@127.0.0.1/", "use --user"),
    ],
)
def test_why_no_url(url: str, why: str) -> None:
    """The message says what is wrong with a URL, and never repeats a password."""
    said = fails(2, "connect", url, "echo")
    assert why in said
    assert "secret" not in said


def test_internationalised_host() -> None:
    """A host need not be ASCII."""
    assert parse_target(("http://exämple.example/", "echo")).url == "http://exämple.example/"


@pytest.mark.parametrize("token", ["", " ", "a b", "a/", "/1", "a/b/c", "a,b", "tö", "a\r\nX: y"])
@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_no_token(command: str, token: str) -> None:
    """A string that is not an upgrade token is refused before anything is asked: exit code 2."""
    if command == "connect":
        fails(2, "connect", "http://127.0.0.1:1/", token)
    else:
        fails(2, "serve", "--listen", LOCAL, "--tunnel", f"/x {token} tcp:127.0.0.1:1")


BAD_SERVERS = [
    "",
    "8080",
    "tcp",
    "tcp:port",
    "nonsense:1",
    "tcp:0:nonsense=1",
    "ssl:0",
    "ssl:0:privateKey=/nowhere/to/be/found.pem",
    "unix",
]
BAD_CLIENTS = ["tcp", "tcp:127.0.0.1", "tcp:127.0.0.1:port", "nonsense:1", "tcp:a:1:nonsense=1"]


@pytest.mark.parametrize("endpoint", BAD_SERVERS)
def test_bad_server_endpoint(endpoint: str) -> None:
    """A ``--listen`` that is not a server endpoint string: exit code 2."""
    assert endpoint in fails(2, "serve", "--listen", endpoint)


@pytest.mark.parametrize("endpoint", BAD_CLIENTS)
def test_bad_client_endpoint(endpoint: str) -> None:
    """A ``--tunnel`` with a string that is not a client endpoint's: exit code 2."""
    assert endpoint in fails(2, "serve", "--listen", LOCAL, "--tunnel", f"/x x {endpoint}")


@pytest.mark.parametrize("value", ["", "/x", "/x x", "x x tcp:127.0.0.1:1", "x"])
def test_bad_tunnel(value: str) -> None:
    """A ``--tunnel`` that lacks a part, or whose path is not a path: exit code 2."""
    fails(2, "serve", "--listen", LOCAL, "--tunnel", value)


@pytest.mark.parametrize(
    "paths",
    [
        ("/x x", "/x x"),
        ("/x x", "/x X"),
        ("/x x", "/x/ x"),
        ("/x x", "/x/y x"),
        ("/x/y x", "/x x"),
        ("/x/y/z x", "/x x"),
    ],
    ids=" and ".join,
)
def test_overlapping_tunnels(paths: tuple[str, str]) -> None:
    """Two tunnels for the same token, or one beneath the other, contradict each other: exit code 2."""
    tunnels = [word for path in paths for word in ("--tunnel", f"{path} tcp:127.0.0.1:1")]
    fails(2, "serve", "--listen", LOCAL, *tunnels)


def test_port_in_use() -> None:
    """A port that somebody has already: exit code 1, and the line says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        assert endpoint in fails(1, "serve", "--listen", endpoint)


def test_one_of_two_ports_in_use() -> None:
    """Where one of several ports is somebody's, nothing is served: exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        with Process("serve", "--listen", LOCAL, "--listen", endpoint) as process:
            code, out, said = process.ends()
    assert (code, out) == (1, b"")
    lines = said.splitlines(keepends=True)
    assert len([line for line in lines if endpoint in one_line(line)]) == 1
    assert len(lines) <= 2


# What a server says.


@pytest.mark.parametrize(("path", "token"), [("", "echo"), ("echo", "other"), ("nowhere", "echo")])
def test_refused_upgrade(url: str, path: str, token: str) -> None:
    """A server that answers, but does not switch: exit code 3, and its status is told."""
    line = fails(3, "connect", url + path, token, input=b"hello")
    assert {"": "200", "echo": "426", "nowhere": "404"}[path] in line


def test_connection_refused(refused: str) -> None:
    """No server: exit code 1, and the URL is told."""
    assert refused in fails(1, "connect", refused, "echo", input=b"hello")


def test_says_nothing_on_standard_output(refused: str) -> None:
    """Standard output is the connection's alone, also where standard error is closed."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", COMMAND, "connect", refused, "echo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_timeout() -> None:
    """A server that does not answer in the time given: exit code 1."""
    with listening(read_all) as port:
        url = f"http://127.0.0.1:{port}/"
        assert url in fails(1, "connect", "--timeout", "0.2", url, "echo")


GARBAGE = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "zeros": b"\0" * 200_000,
    "half a head": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: ec",
    "another token": SWITCH.replace(b"echo", b"other"),
    "no token": SWITCH.replace(b"Upgrade: echo\r\n", b""),
    "no connection": SWITCH.replace(b"Connection: Upgrade\r\n", b""),
}


@pytest.mark.parametrize("answer", GARBAGE)
def test_garbage(answer: str) -> None:
    """A server whose answer breaks HTTP's rules: exit code 1."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        try:
            client.sendall(GARBAGE[answer])
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # The command has seen enough.
            return
        read_all(client)

    with listening(talk) as port:
        fails(1, "connect", f"http://127.0.0.1:{port}/", "echo", input=b"hello")


def _reset_before(client: socket.socket) -> None:
    read_until(client, b"\r\n\r\n")
    reset(client)


def _reset_after(client: socket.socket) -> None:
    switch(client)
    read_until(client, b"hello")
    reset(client)


@pytest.mark.parametrize("talk", [_reset_before, _reset_after])
def test_reset(talk: Callable[[socket.socket], None]) -> None:
    """A server that resets the connection, before it switches or later: exit code 1."""
    with listening(talk) as port:
        url = f"http://127.0.0.1:{port}/"
        with Process("connect", url, "echo") as process:
            process.sends(b"hello")
            code, out, said = process.ends()
    assert (code, out) == (1, b"")
    assert url in one_line(said)


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1)])
def test_closed_standard_stream(url: str, closed: tuple[int, ...]) -> None:
    """Without standard input or output there is nothing to join: exit code 1."""
    done = run("connect", f"{url}echo", "echo", closed=closed)
    assert (done.returncode, done.stdout) == (1, b"")
    one_line(done.stderr)


@pytest.mark.parametrize("path", ["echo", "nowhere"])
def test_streams_are_left_as_they_were(url: str, tmp_path: Path, path: str) -> None:
    """Standard input and output, which others may share, are blocking again afterwards."""
    ends = [*os.pipe(), *os.pipe()]
    try:
        # Something to read, and its end.
        os.write(ends[1], b"hello")
        os.close(ends.pop(1))
        run("connect", url + path, "echo", stdin=ends[0], stdout=ends[2])
        assert [os.get_blocking(end) for end in ends] == [True] * 3
    finally:
        for end in ends:
            os.close(end)


def test_streams_after_a_signal(url: str) -> None:
    """A signal ends it with exit code 1, without a Traceback, and leaves standard input blocking."""
    reading, writing = os.pipe()
    try:
        with Process("connect", f"{url}echo", "echo", stdin=reading) as process:
            os.write(writing, b"hello")
            assert process.receives(5) == b"hello"
            process.terminate()
            code, out, said = process.ends()
        assert (code, out) == (1, b"")
        assert said == b"" or one_line(said)
        assert os.get_blocking(reading)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serv"], "; available: serve, connect, forward"),
        (["serve", "8080"], "unexpected argument '8080': serve takes only options"),
        (["serve", "--listen", "8080"], "not a server endpoint string (such as tcp:8080): '8080'"),
        (
            ["serve", "--tunnel", "/x x 22"],
            "not a client endpoint string (such as tcp:127.0.0.1:22): '22'",
        ),
    ],
)
def test_hints(arguments: list[str], said: str) -> None:
    """The messages say what users often forget."""
    assert said in fails(2, *arguments)
