"""
``upgrade-switch probe URL``: what a server switches to, and what it says of servers that do not
speak HTTP.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import LOCAL, Process, fails, listening, read_until, run, serving, shown_on
from tests.kit.strangers import endless, says, talking


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key, and the certificate of localhost."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(b"".join(make_certificate()))
    return path


@pytest.fixture(scope="module")
def servers(certificate: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a server with all that it can switch to, without TLS and with it."""
    secure = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    with serving("--h2c", "--http2-connect", listen=(LOCAL, secure)) as process:
        plain, over_tls = process.addresses
        yield plain.rstrip("/"), over_tls.rstrip("/").replace("127.0.0.1", "localhost")


def found(*arguments: str) -> dict[str, str]:
    """The answers, by token."""
    done = run("probe", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    answers = json.loads(done.stdout)
    for answer in answers:
        assert answer["milliseconds"] > 0
        assert answer["switched"] == (" to " in answer["answer"] or "with extended" in answer["answer"])
    return {answer["token"]: answer["answer"] for answer in answers}


def test_what_a_server_names(servers: tuple[str, str]) -> None:
    """The tokens of a 426 are tried, and those that clients commonly ask for."""
    assert found(f"{servers[0]}/echo") == {
        "echo": "101 Switching Protocols to echo",
        "websocket": "101 Switching Protocols to websocket",
        "h2c": "101 Switching Protocols to h2c",
    }


def test_what_is_asked_for(servers: tuple[str, str]) -> None:
    """Given tokens come first; an unknown one is ignored, as HTTP wants it (RFC 9110 §7.8)."""
    answers = found(f"{servers[0]}/echo", "nonsense/1", "echo")
    assert list(answers) == ["nonsense/1", "echo", "websocket", "h2c"]
    assert answers["nonsense/1"] == "426 Upgrade Required"


def test_a_page(servers: tuple[str, str]) -> None:
    """A resource that switches to nothing."""
    answers = found(f"{servers[0]}/")
    assert answers["websocket"] == "200 OK"


def test_over_tls(servers: tuple[str, str], certificate: Path) -> None:
    """Over TLS, HTTP/2 is looked at, too; a ws URL says the same as an http one."""
    url = servers[1].replace("https", "wss")
    assert found("--ca", str(certificate), f"{url}/echo") == {
        "echo": "101 Switching Protocols to echo",
        "websocket": "101 Switching Protocols to websocket",
        "CONNECT over HTTP/2": "HTTP/2, with extended CONNECT (RFC 8441)",
    }


def test_without_extended_connect(certificate: Path) -> None:
    """HTTP/2 without RFC 8441."""
    secure = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    with serving(listen=(secure,)) as process:
        answers = found("--insecure", process.url)
    assert answers["CONNECT over HTTP/2"] == "HTTP/2, without extended CONNECT"


def test_lines(servers: tuple[str, str]) -> None:
    """For a person: a line for each token."""
    done = run("probe", f"{servers[0]}/echo", "nonsense/1")
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, b"", 4)
    assert re.fullmatch(r"nonsense/1 +no +[0-9.]+ ms +426 Upgrade Required", lines[0])
    assert re.fullmatch(r"echo +yes +[0-9.]+ ms +101 Switching Protocols to echo", lines[1])


def test_fields() -> None:
    """Each request has the given fields; of the tokens that a server names, few are tried."""
    heads: list[bytes] = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        names = b", ".join([b"x" * 65, *(b"t%d" % number for number in range(100))])
        client.sendall(b"HTTP/1.1 426 X\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n" % names)

    with listening(talk, connections=12) as port:
        answers = found("--header", "X-Key: 1", f"http://127.0.0.1:{port}/")
    assert list(answers) == [*(f"t{number}" for number in range(8)), "websocket", "h2c"]
    assert [head for head in heads if b"X-Key: 1\r\n" not in head] == []
    assert {head.split()[0] for head in heads} == {b"GET", b"OPTIONS"}


def test_an_answer_without_end() -> None:
    """Only its head is read."""
    talk = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000)
    with talking(talk) as port:
        answers = found(f"http://127.0.0.1:{port}/")
    assert answers == {"websocket": "200 OK", "h2c": "200 OK"}


def test_nobody_there() -> None:
    """No server, or no such host."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    line = fails(3, "probe", f"http://127.0.0.1:{port}/")
    assert line.startswith(f"probe: no HTTP server at 127.0.0.1:{port}: no connection to")
    assert "Connection refused" in line
    assert fails(3, "probe", "http://nowhere.invalid/").startswith("probe: no HTTP server at nowhere")


def test_tls_where_there_is_none() -> None:
    """A URL with https of a server that answers a ClientHello in HTTP."""
    with talking(says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as port:
        line = fails(3, "probe", "--insecure", f"https://127.0.0.1:{port}/")
    assert line == f"probe: 127.0.0.1:{port} does not speak TLS: the URL has to begin with http"


def test_no_tls_where_there_is(servers: tuple[str, str]) -> None:
    """A URL with http of a server that speaks TLS."""
    url = servers[1].replace("https", "http")
    line = fails(3, "probe", url)
    host = url.removeprefix("http://")
    assert line in (
        f"probe: {host} speaks TLS: the URL has to begin with https",
        f"probe: no HTTP server at {host}: the end of the connection",
    )


def test_a_certificate_that_nobody_trusts(servers: tuple[str, str]) -> None:
    """It is checked."""
    line = fails(3, "probe", servers[1])
    assert line.endswith("(its certificate is not trusted: self-signed certificate)")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "a URL is needed"),
        (("ftp://h/",), "not a ws or wss URL: 'ftp://h/'"),
        (("http://u:p@h/",), "a user name in the URL is not allowed: use --header"),
        (("http://h/", "to ken"), "not an upgrade token (name or name/version): 'to ken'"),
        (("--timeout", "0", "http://h/"), "--timeout needs a number of seconds above 0, not '0'"),
        (("--within", "x", "http://h/"), "--within needs a number of seconds above 0, not 'x'"),
        (("--jobs", "65", "http://h/"), "--jobs needs a number from 1 to 64, not '65'"),
        (("--slow", "9", "http://h/"), "--slow needs --conformance or --through"),
        (
            ("--slow", "9", "--within", "9", "--conformance", "http://h/"),
            "--slow needs more time than --within gives: raise it, too",
        ),
        (("--verbose", "http://h/"), "--verbose needs --conformance or --through"),
        (("--conformance", "http://h/", "a", "b"), "--conformance and --through check one TOKEN"),
        (("--insecure", "http://h/"), "--ca and --insecure are for https and wss URLs only"),
        (("--insecure", "--ca", "f", "https://h/"), "--ca and --insecure cannot be combined"),
        (("--ca", "/nowhere", "https://h/"), "--ca /nowhere: No such file or directory"),
        (("--header", "x", "http://h/"), "--header needs 'Name: value', not 'x'"),
        (("--header", "Host: x", "http://h/"), "--header Host: the probe sets this field"),
    ],
)
def test_usage(arguments: tuple[str, ...], line: str) -> None:
    """What cannot be meant."""
    assert fails(2, "probe", *arguments).removeprefix("probe: ") == line


def test_progress_on_a_terminal() -> None:
    """A line that is cleared at the end; standard output has the answers only."""
    terminal, theirs = pty.openpty()
    try:
        with talking(says(b"HTTP/1.1 200 OK\r\n\r\n")) as port, open(theirs, "wb") as stderr:
            done = run("probe", f"http://127.0.0.1:{port}/", stderr=stderr.fileno())
        shown = shown_on(terminal)
    finally:
        os.close(terminal)
    assert done.returncode == 0
    assert shown == b"\rasking what the server switches to\x1b[K\r\x1b[K"


def test_interrupted() -> None:
    """Ctrl-C ends it with one line."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with Process("probe", url) as process:
            client, _ = server.accept()
            read_until(client, b"\r\n\r\n")
            process.send_signal(signal.SIGINT)
            ended = process.ends()
            client.close()
    assert ended == (1, b"", b"upgrade-switch: probe: interrupted\n")
