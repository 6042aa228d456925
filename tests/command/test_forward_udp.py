"""
``upgrade-switch serve --udp`` and ``upgrade-switch forward --udp-to``: UDP through a proxy.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.commands import LOCAL, PATIENCE, fails, serving
from tests.kit.dns import ADDRESS, LONG_NAME, NAME, TEXT_PARTS, dns_server
from tests.kit.foreign import find
from tests.kit.forwarding import forwarding, logged

HERE = "udp:0:interface=127.0.0.1"


@pytest.fixture(scope="module")
def dns() -> Iterator[int]:
    """The port of a DNS server."""
    with dns_server() as port:
        yield port


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    """The URL of a server that passes UDP on to this machine."""
    with serving("--connect-to", "127.0.0.1:*", "--udp") as server:
        yield server.url


def dig(address: tuple[str, int], *query: str) -> list[str]:
    """The answers that dig gets."""
    command = [find("dig"), f"@{address[0]}", "-p", str(address[1]), "+short", "+tries=1", *query]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done
    return done.stdout.splitlines()


def client() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE)
    return made


def test_dig(proxy: str, dns: int) -> None:
    """dig asks a DNS server through the proxy; the option may stand behind the URL."""
    for arguments in (
        ("--udp-to", f"127.0.0.1:{dns}", HERE, proxy),
        (HERE, proxy, "--udp-to", f"127.0.0.1:{dns}"),
        (HERE, f"--udp-to=localhost:{dns}", proxy + ".well-known/masque/udp/", "connect-udp"),
        (
            HERE,
            proxy + ".well-known/masque/udp/{target_host}/{target_port}/",
            "--udp-to",
            f"127.0.0.1:{dns}",
        ),
    ):
        with forwarding(*arguments) as process:
            assert dig(process.address, NAME, "A") == [ADDRESS]
            assert dig(process.address, "nobody.example", "A") == []
            assert dig(process.address, NAME.upper(), "A") == [ADDRESS]


def test_dig_and_a_large_answer(proxy: str, dns: int) -> None:
    """An answer that is larger than a packet comes whole, too."""
    with forwarding("--udp-to", f"127.0.0.1:{dns}", HERE, proxy) as process:
        assert len(dig(process.address, LONG_NAME, "TXT", "+bufsize=8192", "+ignore")) == TEXT_PARTS


def test_clients_do_not_mix(proxy: str) -> None:
    """Each local client has a flow of its own, and gets its own answers."""
    with (
        client() as server,
        client() as one,
        client() as two,
    ):
        server.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{server.getsockname()[1]}"
        with forwarding("--udp-to", target, HERE, proxy) as process:
            seen: dict[bytes, Any] = {}
            for sender, data in ((one, b"one"), (two, b"two")):
                sender.sendto(data, process.address)
                received, seen[data] = server.recvfrom(100)
                assert received == data
            assert seen[b"one"] != seen[b"two"]
            server.sendto(b"for two", seen[b"two"])
            server.sendto(b"for one", seen[b"one"])
            assert one.recv(100) == b"for one"
            assert two.recv(100) == b"for two"


def test_refused(proxy: str) -> None:
    """What the proxy refuses is logged once a second, and the next datagram asks again."""
    with (
        client() as one,
        forwarding("--udp-to", "192.0.2.1:53", HERE, proxy, lines=0) as process,
    ):
        for _ in range(3):
            one.sendto(b"hello", process.address)
        line = logged(process)
        assert b"403 Forbidden" in line, line


def test_passwords(dns: int) -> None:
    """With --auth, a proxy wants a name and a password, which --user has."""
    with serving("--connect-to", "127.0.0.1:*", "--udp", "--auth", "memory:bob:secret") as server:
        target = f"127.0.0.1:{dns}"
        with forwarding("--udp-to", target, "--user", "bob:secret", HERE, server.url) as process:
            assert dig(process.address, NAME, "A") == [ADDRESS]
        with client() as one, forwarding("--udp-to", target, HERE, server.url) as process:
            one.sendto(b"hello", process.address)
            line = logged(process)
            assert b"--user" in line, line
            assert b"407" in line, line
        # The site's pages have the site's own passwords.
        with socket.create_connection(("127.0.0.1", int(server.url.split(":")[2][:-1]))) as page:
            page.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert page.makefile("rb").readline().split()[1] == b"401"


SERVE_ERRORS = {
    ("--udp",): "--udp needs --connect-to",
    (
        "--udp",
        "--connect-to",
        "*:53",
        "--auth",
        "/page memory:bob:secret",
        "--status",
        "/page",
    ): "--auth",
    ("--udp", "--connect-to", "*:53", "--tunnel", "/.well-known/masque/udp x tcp:h:1"): "taken",
    ("--udp", "--connect-to", "*:53", "--tunnel", "/.well-known/masque/udp/x x tcp:h:1"): "taken",
}


@pytest.mark.parametrize("arguments", SERVE_ERRORS)
def test_serve_usage(arguments: tuple[str, ...]) -> None:
    """--udp needs a policy, a place, and passwords that are for all of the site."""
    assert SERVE_ERRORS[arguments] in fails(2, "serve", "--listen", LOCAL, *arguments)


FORWARD_ERRORS = {
    (HERE, "http://h"): "belong together",
    ("--udp-to", "h:53", "tcp:0", "http://h", "x"): "belong together",
    ("--udp-to", "h", HERE, "http://h"): "HOST:PORT",
    ("--udp-to", "h:0", HERE, "http://h"): "1 to 65535",
    ("--udp-to", "h:65536", HERE, "http://h"): "1 to 65535",
    ("--udp-to", "::1:53", HERE, "http://h"): "brackets",
    ("--udp-to", "a b:53", HERE, "http://h"): "not a host",
    ("--udp-to", "h:53", "--udp-to", "h:53", HERE, "http://h"): "twice",
    ("--udp-to", "h:53", HERE, "http://h", "--udp-to", "h:53"): "twice",
    (HERE, "http://h", "--udp-to"): "requires argument",
    ("--udp-to", "h:53", HERE): "arguments",
    ("--udp-to", "h:53", HERE, "http://h", "echo"): "connect-udp",
    ("--udp-to", "h:53", HERE, "ws://h"): "ws",
    ("--udp-to", "h:53", HERE, "http://h/?x=y"): "target_host",
    ("--udp-to", "h:53", HERE, "http://h/{target_host}"): "target_port",
    ("--udp-to", "h:53", HERE, "http://h/{+target_host}/{target_port}"): "RFC 9298",
    ("--udp-to", "h:53", "udp:x", "http://h"): "udp:PORT",
    ("--udp-to", "h:53", "udp:65536", "http://h"): "udp:PORT",
}


@pytest.mark.parametrize("arguments", FORWARD_ERRORS)
def test_forward_usage(arguments: tuple[str, ...]) -> None:
    """What does not fit together is a usage error."""
    assert FORWARD_ERRORS[arguments] in fails(2, "forward", *arguments)


def test_port_that_is_taken() -> None:
    """A port that cannot be had ends the command."""
    with client() as taken:
        taken.bind(("127.0.0.1", 0))
        there = f"udp:{taken.getsockname()[1]}:interface=127.0.0.1"
        line = fails(1, "forward", "--udp-to", "h:53", there, "http://127.0.0.1:1/")
        assert "cannot listen" in line
