"""
``upgrade-switch serve``: its page, its ports, its tunnels, and its end.
"""

from __future__ import annotations

import html
import http.client
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import (
    COMMAND,
    LOCAL,
    PATIENCE,
    Process,
    echo,
    listening,
    read_all,
    run,
    serving,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running server's URL."""
    with serving() as server:
        yield server.url


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    match = re.fullmatch(r"http://([0-9.]+):([0-9]+)/", url)
    assert match is not None, url
    return match[1], int(match[2])


def get(url: str, path: str = "/") -> http.client.HTTPResponse:
    """A page; its body has not been read yet."""
    connection = http.client.HTTPConnection(*address(url), timeout=PATIENCE)
    connection.request("GET", path, headers={"Connection": "close"})
    return connection.getresponse()


def lines_to_try(url: str) -> list[str]:
    """The command lines on the page."""
    with get(url) as page:
        text = page.read().decode()
    return [
        html.unescape(line) for line in re.findall("<pre><code>(.*?)</code></pre>", text, re.DOTALL)
    ]


def test_page(url: str) -> None:
    """The default page is HTML, and says what is where and how to try it."""
    with get(url) as page:
        text = page.read().decode()
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert text.startswith("<!DOCTYPE html>")
    assert "<code>/echo</code>" in text
    assert f"upgrade-switch connect {url}echo echo" in text


def test_page_elsewhere(url: str) -> None:
    """What is not there is a 404; the address of an upgrade says so to a client that does not ask."""
    with get(url, "/nowhere") as page:
        assert page.status == 404
    with get(url, "/echo") as page:
        assert page.status == 426
        assert page.headers["Upgrade"] == "echo, websocket"


def test_connect_line_on_the_page(url: str) -> None:
    """The line that the page says to try works in a shell, as it stands."""
    (line,) = lines_to_try(url)
    done = subprocess.run(
        line, shell=True, input=b"hello\n", capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_wire_on_the_page(url: str) -> None:
    """What the page says goes over the wire, sent by hand, gets the answer that the page says."""
    with get(url) as page:
        match = re.search("<pre>(&gt; .*?)</pre>", page.read().decode(), re.DOTALL)
    assert match is not None
    lines = html.unescape(match[1]).splitlines()
    sent = [line[2:] for line in lines if line.startswith(">")]
    expected = [line[2:] for line in lines if line.startswith("<")]
    assert len(lines) == len(sent) + len(expected)
    assert sent[-1] == expected[-1] == ""
    with socket.create_connection(address(url), PATIENCE) as client:
        client.sendall(b"".join(line.encode() + b"\r\n" for line in sent) + b"hello")
        client.shutdown(socket.SHUT_WR)
        head, _separator, rest = read_all(client).partition(b"\r\n\r\n")
    got = head.decode().split("\r\n")
    assert got[0] == expected[0]
    assert set(expected[1:-1]) <= set(got[1:])
    assert rest == b"hello"


def test_echo(url: str) -> None:
    """The default server sends back what it gets."""
    done = run("connect", f"{url}echo", "echo", input=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, Path]:
    """An ``ssl:`` endpoint with a key and a certificate, and who to trust for it."""
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_bytes(KEY_PEM)
    chain.write_bytes(CERTIFICATE_PEM)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={chain}", chain


def test_several_ports(certificate: tuple[str, Path], tmp_path: Path) -> None:
    """One server listens on TCP, on a UNIX socket and with TLS, and says where."""
    endpoint, _chain = certificate
    path = tmp_path / "socket"
    another = "tcp:port=0:interface=127.0.0.1"
    with serving(listen=(LOCAL, f"unix:{path}", endpoint, another)) as server:
        kinds = [re.sub(r"[0-9]+/$", "", address) for address in server.addresses]
        assert sorted(kinds) == sorted(
            ["http://127.0.0.1:", str(path), "https://127.0.0.1:", "http://127.0.0.1:"]
        )
        for url in server.addresses:
            if url.startswith("http:"):
                assert run("connect", f"{url}echo", "echo", input=b"hello").stdout == b"hello"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(
                b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello"
            )
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                text = answer.read()
        assert text.startswith(b"HTTP/1.1 101 ")
        assert text.endswith(b"\r\n\r\nhello")
    assert not path.exists()


@pytest.mark.parametrize("input_ends", [False, True])
def test_connect_over_tls(
    certificate: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, input_ends: bool
) -> None:
    """
    ``connect`` goes through TLS. The end of standard input cannot be passed on there, and cuts no
    answer off; the end of who reads standard output ends it.
    """
    endpoint, chain = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    with (
        serving(listen=(endpoint,)) as server,
        Process("connect", f"{server.url}echo", "echo") as process,
    ):
        process.sends(b"hello")
        if input_ends:
            process.stdin.close()
        assert process.receives(5) == b"hello"
        process.stdout.close()
        assert process.ends() == (0, b"", b"")


def test_unknown_certificate(certificate: tuple[str, Path]) -> None:
    """A server whose certificate nobody vouches for is not talked to: exit code 1, one line."""
    endpoint, _chain = certificate
    with serving(listen=(endpoint,)) as server:
        done = run("connect", f"{server.url}echo", "echo", input=b"hello")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"\n") == 1
        assert b"certificate" in done.stderr


def shouting(client: socket.socket) -> None:
    """Send back what comes, louder."""
    while data := client.recv(65536):
        client.sendall(data.upper())


def test_tunnels() -> None:
    """Each tunnel's path and token lead to its own server; the page lists them all."""
    with listening(echo) as quiet, listening(shouting, connections=2) as loud:
        options = [
            f"/a/b/quiet ssh tcp:127.0.0.1:{quiet}",
            f"/loud ssh tcp:127.0.0.1:{loud}",
            f"/loud chat/2 tcp:host=127.0.0.1:port={loud}",
        ]
        with serving(*(word for option in options for word in ("--tunnel", option))) as server:
            where = [("a/b/quiet", "ssh"), ("loud", "ssh"), ("loud", "chat/2")]
            answers = []
            for path, token in where:
                done = run("connect", server.url + path, token, input=b"hello")
                assert (done.returncode, done.stderr) == (0, b"")
                answers.append(done.stdout)
            assert answers == [b"hello", b"HELLO", b"HELLO"]
            assert lines_to_try(server.url) == [
                f"{COMMAND} connect {server.url}{path} {token}" for path, token in where
            ]
            # It has tunnels instead of the default, not besides it.
            assert run("connect", f"{server.url}echo", "echo").returncode == 3
            assert run("connect", f"{server.url}loud", "chat").returncode == 3


def test_tunnel_at_the_root() -> None:
    """A tunnel at ``/`` leaves the page there to clients that ask for a page."""
    with listening(echo) as port, serving("--tunnel", f"/ x tcp:127.0.0.1:{port}") as server:
        with get(server.url) as page:
            assert page.status == 200
        assert run("connect", server.url, "x", input=b"hello").stdout == b"hello"


def test_tunnel_to_nowhere() -> None:
    """A tunnel whose server is down is a 502, and a warning that names it and says why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with serving("--tunnel", f"/x x tcp:127.0.0.1:{taken.getsockname()[1]}") as server:
            done = run("connect", f"{server.url}x", "x")
    assert done.returncode == 3
    assert b"502" in done.stderr
    line, declined = server.log
    assert " was not switched to x at /x: answered (" in declined
    assert line.startswith("the tunnel at /x cannot connect to 127.0.0.1:")
    assert "Connection was refused" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end(number: int) -> None:
    """SIGTERM and SIGINT end the server, with exit code 0 and without a word."""
    with Process("serve", "--listen", LOCAL, stdin=None, stdout=None) as server:
        server.says()
        server.send_signal(number)
        assert server.ends() == (0, b"", b"")


def wait_until_refused(url: str) -> None:
    """Try until nobody listens there any more."""
    while True:
        try:
            socket.create_connection(address(url), PATIENCE).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            # It was in the queue of the port that has been closed in this moment.
            pass


def test_end_while_connected() -> None:
    """A server that is told to end takes nobody any more, and lets who is connected finish."""
    with Process("serve", "--listen", LOCAL, stdin=None, stdout=None) as server:
        url = server.says().removeprefix("listening on ")
        with Process("connect", f"{url}echo", "echo") as client:
            client.sends(b"hello")
            assert client.receives(5) == b"hello"
            server.terminate()
            wait_until_refused(url)
            client.sends(b"and bye")
            assert client.receives(7) == b"and bye"
            client.stdin.close()
            assert client.ends() == (0, b"", b"")
        assert server.ends() == (0, b"", b"")
