"""
``upgrade-switch serve --preface``: a web server whose port is SSH's as well, and what it is told.
"""

from __future__ import annotations

import html
import http.client
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import LOCAL, PATIENCE, echo, fails, listening, read_all, read_until, serving
from tests.kit.openssh import HOST, client_options, running_sshd, scp, ssh

MUCH = random.Random(4).randbytes(5_000_000)


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    match = re.fullmatch(r"http://([0-9.]+):([0-9]+)/", url)
    assert match is not None, url
    return match[1], int(match[2])


def page(url: str) -> str:
    """The page at ``/``."""
    connection = http.client.HTTPConnection(*address(url), timeout=PATIENCE)
    connection.request("GET", "/", headers={"Connection": "close"})
    with connection.getresponse() as response:
        assert response.status == 200
        return response.read().decode()


# With OpenSSH.


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and options that lead ssh straight to its port."""
    folder = tmp_path_factory.mktemp("ssh")
    with (
        running_sshd(folder) as port,
        serving("--preface", f"SSH-2.0- tcp:127.0.0.1:{port}", "--h2c") as server,
    ):
        host, here = address(server.url)
        options = client_options(
            folder, f"HostName={host}", f"Port={here}", f"HostKeyAlias={HOST}", "CheckHostIP=no"
        )
        yield server.url, options


def test_ssh(both: tuple[str, list[str]]) -> None:
    """ssh, which knows nothing of HTTP, logs in at the web server's port."""
    done = ssh(both[1], "echo out; echo error >&2; exit 7")
    # The last of it: the shell may say something of its own when it begins.
    assert (done.returncode, done.stdout, done.stderr[-6:]) == (7, b"out\n", b"error\n")


def test_ssh_much(both: tuple[str, list[str]]) -> None:
    """Much goes there and back as it is."""
    done = ssh(both[1], "cat", input=MUCH)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == MUCH


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_scp(both: tuple[str, list[str]], tmp_path: Path, back: bool) -> None:
    """``scp`` brings a file through the web server's port, whole, in either direction."""
    assert scp(both[1], tmp_path, MUCH, back) == MUCH


@pytest.mark.parametrize(("way", "version"), [("--http1.1", b"1.1"), ("--http2-prior-knowledge", b"2")])
def test_curl(both: tuple[str, list[str]], way: str, version: bytes) -> None:
    """The same port serves the page to curl, during an ssh session, too; the page says so."""
    url, options = both
    command = ["ssh", *options, HOST, "echo here; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"here\n"
        done = subprocess.run(
            ["curl", "-sSf", "--noproxy", "*", way, "-w", "|%{http_version}", url],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert session.communicate(b"hello", timeout=PATIENCE) == (b"hello", None)
    assert b"<code>SSH-2.0-</code>" in done.stdout
    assert done.stdout.endswith(b"|" + version)


# What a preface is, on a command line.


@pytest.mark.parametrize(
    ("text", "preface"),
    [
        ("HELLO", b"HELLO"),
        (r"HELLO\r\n", b"HELLO\r\n"),
        (r"a\tb\\c\x00\xFf\x20d", b"a\tb\\c\x00\xff d"),
        (r"\\x41", rb"\x41"),
        (r"\x5cn", rb"\n"),
        ("é", "é".encode()),
        ("<b>&", b"<b>&"),
    ],
)
def test_escapes(text: str, preface: bytes) -> None:
    """A preface's escapes are the bytes that they stand for; it reaches the server, whole."""
    with (
        listening(echo) as port,
        serving("--preface", f" {text}   tcp:127.0.0.1:{port} ") as server,
    ):
        with socket.create_connection(address(server.url), PATIENCE) as client:
            client.sendall(preface + b"rest")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == preface + b"rest"
        assert f"<code>{repr(preface)[2:-1]}</code>" in html.unescape(page(server.url))


def test_several() -> None:
    """Several prefaces lead to several servers; the default upgrade stays."""

    def say(what: bytes, preface: bytes) -> Any:
        def talk(client: socket.socket) -> None:
            # What is left unread at the close would be answered with a reset.
            read_until(client, preface)
            client.sendall(what)

        return talk

    with listening(say(b"one", b"ONE")) as one, listening(say(b"two", b"TWO\r\n")) as two:
        options = [f"ONE tcp:127.0.0.1:{one}", rf"TWO\r\n tcp:host=127.0.0.1:port={two}"]
        with serving(*(word for option in options for word in ("--preface", option))) as server:
            for first, answer in ((b"TWO\r\n", b"two"), (b"ONE", b"one")):
                with socket.create_connection(address(server.url), PATIENCE) as client:
                    client.sendall(first)
                    assert read_all(client) == answer
            assert "<code>/echo</code>" in page(server.url)


def test_between_requests() -> None:
    """A preface that is a line is a flag line behind a request, too."""
    with (
        listening(echo) as port,
        serving("--preface", rf"HELLO\r\n tcp:127.0.0.1:{port}") as server,
        socket.create_connection(address(server.url), PATIENCE) as client,
    ):
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\nHELLO\r\nrest")
        client.shutdown(socket.SHUT_WR)
        head, _, rest = read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert rest == b"HELLO\r\nrest"


def test_nobody_there() -> None:
    """Where the server behind it is down, the connection ends, and the server goes on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with serving("--preface", f"HELLO tcp:127.0.0.1:{taken.getsockname()[1]}") as server:
            with socket.create_connection(address(server.url), PATIENCE) as client:
                client.sendall(b"HELLO")
                assert read_all(client) == b""
            assert "HELLO" in page(server.url)


@pytest.mark.parametrize(
    "values",
    [
        [""],
        [" "],
        ["HELLO"],
        ["HELLO "],
        [" tcp:127.0.0.1:22"],
        [r"HEL\LO tcp:127.0.0.1:22"],
        [r"HELLO\ tcp:127.0.0.1:22"],
        [r"HELLO\x1 tcp:127.0.0.1:22"],
        [r"HELLO\xgg tcp:127.0.0.1:22"],
        [r"HELLO\R tcp:127.0.0.1:22"],
        ["HELLO nowhere:127.0.0.1:22"],
        ["HELLO tcp"],
        ["HELLO tcp:127.0.0.1:ssh:more:and=more"],
        ["HELLO tcp:127.0.0.1:22", "HELLO tcp:127.0.0.1:23"],
        ["HELLO tcp:127.0.0.1:22", r"\x48ELLO tcp:127.0.0.1:22"],
    ],
    ids=repr,
)
def test_bad_values(values: list[str]) -> None:
    """A value that says nothing good ends the command: exit code 2, one line."""
    options = [word for value in values for word in ("--preface", value)]
    line = fails(2, "serve", "--listen", LOCAL, *options)
    assert line.startswith("serve: ")
