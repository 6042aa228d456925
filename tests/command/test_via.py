"""``--via`` and the environment: ``connect`` and ``forward`` through an HTTP proxy."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.error import DNSLookupError
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.http_headers import Headers

from tests.kit.commands import fails, listening, run, serving
from upgrade_switch.command.client.agent import why
from upgrade_switch.command.client.via import proxy_for

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://host/", {"https_proxy": PROXY}, PROXY),
        ("https://host/", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://host/", {"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ("wss://host/", {"https_proxy": PROXY}, PROXY),
        ("http://host/", {"http_proxy": PROXY}, PROXY),
        ("ws://host/", {"http_proxy": PROXY}, PROXY),
        ("http://host/", {"HTTP_PROXY": PROXY}, None),
        ("http://host/", {"https_proxy": PROXY}, None),
        ("http://host/", {"all_proxy": PROXY}, PROXY),
        ("http://host/", {"ALL_PROXY": PROXY}, PROXY),
        ("https://host/", {"all_proxy": "http://other", "https_proxy": PROXY}, PROXY),
        ("https://host/", {"https_proxy": ""}, None),
        ("https://host/", {"https_proxy": "proxy:3128"}, PROXY),
        ("https://host/", {"https_proxy": PROXY, "no_proxy": "host"}, None),
        ("https://a.host:81/", {"https_proxy": PROXY, "NO_PROXY": "other, .host"}, None),
        ("https://xhost/", {"https_proxy": PROXY, "no_proxy": "host"}, PROXY),
        ("https://host/", {"https_proxy": PROXY, "no_proxy": "*"}, None),
        ("https://host/", {}, None),
    ],
)
def test_environment(url: str, environment: dict[str, str], expected: str | None) -> None:
    """The environment names the proxy as for curl."""
    assert proxy_for(url, None, environment) == expected


def test_option() -> None:
    """The option overrides the environment; an empty one is no proxy."""
    environment = {"https_proxy": "http://other", "no_proxy": "*"}
    assert proxy_for("https://host/", PROXY, environment) == PROXY
    assert proxy_for("https://host/", "", environment) is None


@pytest.mark.parametrize(
    "proxy", ["socks5://proxy", "http://", "http://proxy/path", "http://u:secret@"]
)
def test_wrong(proxy: str) -> None:
    """What is not an HTTP proxy is a usage error, which shows no password."""
    with pytest.raises(UsageError, match="--via: ") as raised:
        proxy_for("https://host/", proxy, {})
    assert "secret" not in str(raised.value)
    said = fails(2, "connect", "--via", proxy, "http://host/", "echo")
    assert "--via" in said
    with pytest.raises(UsageError, match="https_proxy: "):
        proxy_for("https://host/", None, {"https_proxy": proxy})


def proxying(asked: list[bytes]) -> Any:
    """A proxy for one connection: does as a CONNECT says."""

    def talk(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1000)
        asked.append(head)
        match = re.match(rb"CONNECT ([^:]+):([0-9]+) ", head)
        assert match is not None
        with socket.create_connection((match[1].decode(), int(match[2])), 10) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for source, target in ((client, server), (server, client)) * 2:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
            # The request and its answer, then what was typed and its echo.

    return talk


@contextmanager
def refusing(answer: bytes) -> Iterator[int]:
    with listening(lambda client: (client.recv(1000), client.sendall(answer))) as port:
        yield port


@pytest.mark.parametrize("way", ["option", "environment"])
def test_connect(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``connect`` asks the proxy for the server, and everything goes through it."""
    asked: list[bytes] = []
    with serving() as server, listening(proxying(asked)) as port:
        proxy = f"http://user:word@127.0.0.1:{port}"
        options = ["--via", proxy] if way == "option" else []
        if way == "environment":
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.delenv("no_proxy", raising=False)
        done = run("connect", *options, f"{server.url}echo", "echo", input=b"hello")
        assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    assert b"\r\nProxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in asked[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unreachable(scheme: str) -> None:
    """A proxy that cannot be reached is named, without its password: it is not the server's fault."""
    with socket.socket() as taken:
        # Nothing listens on it.
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        proxy = f"{scheme}://user:secret@{where}"
        said = fails(1, "connect", "--via", proxy, "http://host/", "echo")
    assert f"http://host/: no connection to the proxy {where}: Connection was refused" in said
    assert "secret" not in said


def test_unknown() -> None:
    """So is a proxy whose name cannot be looked up."""
    said = why(Failure(DNSLookupError("no such name")), Headers(), "echo", "http://user:secret@proxy:1")
    assert said.startswith("no connection to the proxy proxy:1: ")
    assert said.endswith("no such name.")


def test_refused() -> None:
    """A proxy that wants to know who asks is named as what it is."""
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with refusing(answer) as port:
        said = fails(3, "connect", "--via", f"http://127.0.0.1:{port}", "http://host/", "echo")
    assert "the proxy requires a user name and a password" in said
