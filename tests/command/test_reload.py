"""
SIGHUP: ``serve`` does what its options say by then, and whoever is connected does not notice.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import LOCAL, PATIENCE, Process, echo, read_until, serving
from tests.kit.harness import status
from tests.kit.operating import answer, body_of, connected, get, operated, upgraded

MODULE = """
from twisted.web.resource import Resource


class Counter(Resource):
    isLeaf, asked = True, 0

    def render_GET(self, request):
        self.asked += 1
        return b"%d" % self.asked
"""


class Configured:
    """A file with options, and the files that it names."""

    def __init__(self, folder: Path, target: int) -> None:
        self.folder, self.target = folder, target
        self.log, self.moved = folder / "access.log", folder / "access.log.1"
        (folder / "counting.py").write_text(MODULE)
        self.renew()
        self.write()

    def renew(self) -> bytes:
        """A new certificate, and its key, in place of those that were there."""
        certificate, key = make_certificate()
        (self.folder / "both.pem").write_bytes(certificate + key)
        return ssl.PEM_cert_to_DER_cert(certificate.decode())

    def write(self, path: str = "/one", more: str = "") -> None:
        tls = f"ssl:0:privateKey={self.folder}/both.pem:interface=127.0.0.1"
        (self.folder / "config.toml").write_text(
            f"""
            listen = ["{LOCAL}", "{tls}"]
            tunnel = ["{path} chat tcp:127.0.0.1:{self.target}"]
            class = ["/counter counting.Counter"]
            access-log = "{self.log}"
            log-format = "none"
            drain = 0
            {more}
            """
        )


class Echoing(socketserver.ThreadingTCPServer):
    """What the tunnels lead to."""

    allow_reuse_address = True


class Echoed(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        echo(self.request)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configured]:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Echoing(("127.0.0.1", 0), Echoed) as target:
        thread = threading.Thread(target=target.serve_forever, args=(0.01,))
        thread.start()
        yield Configured(tmp_path, target.server_address[1])
        target.shutdown()
        thread.join()


def echoes(client: socket.socket) -> bool:
    client.sendall(b"hello")
    return read_until(client, b"hello") == b"hello"


def reloads(server: Process, wanted: str) -> None:
    """Send SIGHUP, and wait for what it says then."""
    server.send_signal(signal.SIGHUP)
    said = server.says()
    assert wanted in said, said


def certificate_of(client: Any) -> bytes:
    got: bytes = client.getpeercert(binary_form=True)
    return got


def test_reload(configured: Configured) -> None:
    """
    Targets, limits, pages, passwords and certificates change, the access log is reopened, and
    whoever is connected stays so; a broken file, and a broken certificate, change nothing.
    """
    config = str(configured.folder / "config.toml")
    with ExitStack() as stack, Process("serve", "--config", config) as server:
        url, tls_url = (server.says().removeprefix("listening on ") for _ in range(2))
        before = stack.enter_context(upgraded(url, "/one", "chat"))
        kept = stack.enter_context(connected(url))
        tls = stack.enter_context(connected(tls_url))
        assert body_of(get(url, "/counter")[1]) == b"1"
        assert get(url, "/status")[0] == 404
        # Everything is another.
        certificate = configured.renew()
        assert certificate_of(tls) != certificate
        configured.log.rename(configured.moved)
        configured.write("/two", 'max-switched = 2\nstatus = "/status"\nauth = "/status memory:a:b"')
        reloads(server, "reloaded")
        assert echoes(before)
        after = stack.enter_context(upgraded(url, "/two", "chat"))
        assert echoes(after)
        assert get(url, "/one")[0] == 404
        assert body_of(get(url, "/counter")[1]) == b"2"
        assert get(url, "/status")[0] == 401
        assert b'"live": 2' in get(url, "/status/json", b"Authorization: Basic YTpi\r\n")[1]
        for client in (kept, tls):
            client.sendall(b"GET /counter HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status(read_until(client, b"\r\n\r\n")) == 200
        with connected(tls_url) as renewed:
            assert certificate_of(renewed) == certificate
        upgrade = b"Host: a\r\nConnection: close, Upgrade\r\nUpgrade: chat\r\n\r\n"
        assert answer(url, b"GET /two HTTP/1.1\r\n" + upgrade)[0] == 503
        assert configured.log.read_text().count("/one HTTP") == 1
        assert "/one HTTP" in configured.moved.read_text()
        # What is broken changes nothing: a malformed file, and then a malformed certificate.
        configured.write("/three", "tunnel = 1")
        reloads(server, "not reloaded")
        configured.write("/three")
        (configured.folder / "both.pem").write_text("nothing")
        reloads(server, "not reloaded")
        assert get(url, "/two")[0] == 426
        with connected(tls_url) as renewed:
            assert certificate_of(renewed) == certificate
        # And is forgotten when it is repaired.
        configured.renew()
        reloads(server, "reloaded")
        assert get(url, "/three")[0] == 426
        assert echoes(before)
        server.terminate()
        assert server.ends() == (0, b"", b"")


def test_client_certificates(configured: Configured) -> None:
    """
    Certificates can be demanded of clients from a reload on, and their authority can change. But not
    while somebody can come in without: on a port that ``--listen`` no longer has, but that is open.
    """
    folder = configured.folder
    config, pem = folder / "config.toml", folder / "both.pem"
    tls = f"ssl:0:privateKey={pem}:interface=127.0.0.1"
    of_clients = [folder / "first.pem", folder / "second.pem"]
    for file in of_clients:
        file.write_bytes(b"".join(make_certificate()))

    def demand(file: Path, *listen: str) -> None:
        config.write_text(f"listen = {list(listen)}\nclient-ca = '{file}'\nready = '/ready'")

    def is_let_in(url: str, file: Path | None) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if file is not None:
            context.load_cert_chain(file)
        host, port = url.removeprefix("https://").rstrip("/").split(":")
        try:
            with (
                socket.create_connection((host, int(port)), PATIENCE) as plain,
                context.wrap_socket(plain) as client,
            ):
                client.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return status(client.recv(1000)) == 200
        except OSError:
            return False

    base = ["--config", str(config), "--log-format", "none", "--drain", "0"]
    config.write_text(f"listen = ['{tls}']\nready = '/ready'")
    with Process("serve", *base) as server:
        url = server.says().removeprefix("listening on ")
        assert is_let_in(url, None)
        for file, other in (of_clients, of_clients[::-1]):
            demand(file, tls)
            reloads(server, "has reloaded")
            assert [is_let_in(url, each) for each in (file, other, None)] == [True, False, False]
        server.terminate()
        assert server.ends() == (0, b"", b"")
    config.write_text(f"listen = ['{LOCAL}']")
    with Process("serve", *base) as server:
        server.says()
        demand(of_clients[0], tls)
        reloads(server, "not reloaded, nothing changed: --client-ca is for ssl: endpoints only")
        server.terminate()
        assert server.ends() == (0, b"", b"")


def test_other_ports(tmp_path: Path) -> None:
    """Where it listens stays, and it says so; an option of the command line stays what it is."""
    config = tmp_path / "config.toml"
    config.write_text("ready = '/ready'\n")
    options = ["--log-format", "none", "--drain", "0"]
    with Process("serve", "--config", str(config), "--listen", LOCAL, *options) as server:
        url = server.says().removeprefix("listening on ")
        config.write_text(f"listen = ['{LOCAL}']\n")
        reloads(
            server, "has reloaded its options; what --listen says now takes effect at the next start"
        )
        assert get(url, "/ready")[0] == 404
        server.terminate()
        assert server.ends() == (0, b"", b"")


def test_module_that_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that would end the process, since it misses something, ends no server that runs."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "exiting.py").write_text("raise SystemExit('no database')")
    config = tmp_path / "config.toml"
    config.write_text("ready = '/ready'\n")
    options = ["--listen", LOCAL, "--log-format", "none", "--drain", "0"]
    with Process("serve", "--config", str(config), *options) as server:
        url = server.says().removeprefix("listening on ")
        config.write_text("class = ['/page exiting.Page']\n")
        reloads(server, "not reloaded, nothing changed: --class exiting.Page: SystemExit: no database")
        assert get(url, "/ready")[0] == 200
        server.terminate()
        assert server.ends() == (0, b"", b"")


@pytest.mark.parametrize("options", [[], ["--workers", "1"]])
def test_terminal(options: list[str]) -> None:
    """Where the server was started on a terminal, closing that ends it."""
    terminal, theirs = os.openpty()
    base = ["--listen", LOCAL, "--log-format", "none"]
    with Process("serve", *base, *options, stdin=theirs) as server:
        os.close(theirs)
        assert server.says().startswith("listening on ")
        reloads(server, "reloaded")
        os.close(terminal)
        server.send_signal(signal.SIGHUP)
        assert server.ends() == (0, b"", b"")


def test_twist(tmp_path: Path) -> None:
    """The same server as a plugin of twist, and a proxy whose back end changes."""
    config = tmp_path / "config.toml"
    with serving("--ready", "/first") as first, serving("--ready", "/second") as second:
        config.write_text(f'proxy = "/app {first.url} health=/first"\nstatus = "/status"\n')
        with operated("twist", "--config", str(config)) as server:
            assert get(server.url, "/app/first")[0] == 200
            config.write_text(f'proxy = "/app {second.url} health=/second"\nstatus = "/status"\n')
            # What it says then is in twist's own log.
            server.send_signal(signal.SIGHUP)
            while get(server.url, "/app/second")[0] != 200:
                pass
            shown = get(server.url, "/status/json")[1]
            assert second.url.rstrip("/").encode() in shown
            assert first.url.rstrip("/").encode() not in shown
            server.terminate()
            server.finishes()
