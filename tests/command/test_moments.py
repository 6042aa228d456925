"""
``serve``, with signals and new files at moments when something else is under way.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import LOCAL, PATIENCE, Process, read_all, read_until
from tests.kit.forwarding import Answering
from tests.kit.harness import status, upgrade_head
from tests.kit.operating import connected
from tests.kit.workers import by_each, page_on, serves, workers, write_module

RELOADED = "has reloaded its options"


class Gate:
    """Workers cannot start before it is opened: one is known to be on its way then."""

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "gate"
        os.mkfifo(self._pipe)
        module = (folder / "who.py").read_text()
        (folder / "who.py").write_text(
            f"""
from pathlib import Path
if Path({str(self._pipe)!r}).exists():
    open({str(self._pipe)!r}).read()
{module}"""
        )
        self._end = -1

    def wait(self) -> None:
        """Wait for a worker that starts."""
        # Until it has been opened to be read, too.
        self._end = os.open(self._pipe, os.O_WRONLY)

    def open(self) -> None:
        self._pipe.unlink()
        os.close(self._end)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    write_module(tmp_path, monkeypatch)
    return Gate(tmp_path)


# One worker, since all that start wait at the same gate.
ONE = ["serve", "--workers", "1", "--listen", LOCAL, "--log-format", "none", "--class", "/who who.Who"]


def test_hangup_at_the_start(gate: Gate) -> None:
    """SIGHUP while the first workers start is obeyed when they serve."""
    with Process(*ONE) as server:
        gate.wait()
        server.send_signal(signal.SIGHUP)
        gate.open()
        url = server.says().removeprefix("listening on ")
        assert server.says() == RELOADED
        serves(url, lambda _: True)
        server.terminate()
        assert server.everything() == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_at_the_start(gate: Gate, number: int) -> None:
    """A signal to end while the first workers start: there is no line, and exit code 0."""
    with Process(*ONE) as server:
        gate.wait()
        server.send_signal(number)
        # Its standard error has ended: no worker is left that has it.
        assert server.everything() == (0, b"", b"")


def test_hangups_while_it_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often SIGHUP comes while workers start, one more reload follows, with the last file."""
    write_module(tmp_path, monkeypatch)
    config = tmp_path / "config.toml"
    config.write_text('ready = "/one"')
    with Process(*ONE, "--config", str(config)) as server:
        url = server.says().removeprefix("listening on ")
        gate = Gate(tmp_path)
        config.write_text('ready = "/two"')
        server.send_signal(signal.SIGHUP)
        gate.wait()
        for path in ("three", "four"):
            config.write_text(f'ready = "/{path}"')
            server.send_signal(signal.SIGHUP)
        gate.open()
        assert [server.says(), server.says()] == [RELOADED, RELOADED]
        for path, code in (("one", 404), ("two", 404), ("three", 404), ("four", 200)):
            with connected(url) as client:
                client.sendall(b"GET /%s HTTP/1.0\r\nHost: a\r\n\r\n" % path.encode())
                assert status(read_all(client)) == code
        server.terminate()
        assert server.everything() == (0, b"", b"")


def ready(client: socket.socket) -> int:
    """Ask on a connection that stays."""
    client.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
    got = b""
    while not got.endswith((b"ready\n", b"draining\n")):
        more = client.recv(1000)
        assert more, got
        got += more
    return status(got)


def test_ready_while_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    SIGTERM, while old workers still have connections: all drain, and whoever asks whether the server
    is ready hears that it is not. That old workers are to end by themselves does not mean that.
    """
    write_module(tmp_path, monkeypatch)
    with ExitStack() as stack, workers("--ready", "/ready", "--drain", "600") as server:

        def kept() -> list[socket.socket]:
            """A connection to each of the workers that accept, besides one that has switched."""
            clients = by_each(stack, server.url, 2)
            found: dict[int, socket.socket] = {}
            while found.keys() != clients.keys():
                client = stack.enter_context(connected(server.url))
                found[page_on(client)] = client
            switched.extend(client.socket for each in clients.values() for client in each)
            return list(found.values())

        switched: list[socket.socket] = []
        old = kept()
        server.send_signal(signal.SIGHUP)
        assert server.says() == RELOADED
        new = kept()
        for client in old:
            # It leaves its place to others, but nothing is wrong with it.
            assert ready(client) == 200
            assert read_all(client) == b""
        assert [ready(client) for client in new] == [200, 200]
        server.terminate()
        # Nobody is accepted any more when the workers have heard of it.
        for client in new:
            while ready(client) == 200:
                pass
            assert read_all(client) == b""
        for each in switched:
            each.sendall(b"hello")
            assert read_until(each, b"hello") == b"hello"
            each.close()
        assert server.everything() == (0, b"", b"")


class Asking:
    """Somebody who does the same again and again, in a thread, and notes what comes of it."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self.found: list[Any] = []
        self._ends = False
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends:
            try:
                found = self._ask()
            except Exception as error:
                found, self._ends = error, True
            with self._more:
                self.found.append(found)
                self._more.notify_all()

    def goes_on(self, count: int = 20) -> list[Any]:
        """Wait for so many more, of which none has begun before: what came of them."""
        with self._more:
            begun = len(self.found) + 1
            assert self._more.wait_for(
                lambda: self._ends or len(self.found) >= begun + count, PATIENCE
            ), self.found[-1]
            return self.found[begun:]

    def ends(self) -> list[Any]:
        self._ends = True
        self._thread.join()
        return self.found


def replace(file: Path, content: bytes) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(content)
    other.replace(file)


def test_targets_while_workers_change(tmp_path: Path) -> None:
    """
    A file of targets that is replaced again and again, before, during and after reloads: each client
    gets to where the file says then, and none is lost.
    """

    def says(word: bytes) -> Callable[[socket.socket], object]:
        return lambda client: client.sendall(word)

    file = tmp_path / "targets"
    with Answering(says(b"1")) as one, Answering(says(b"2")) as two:
        replace(file, f"x: 127.0.0.1:{one}".encode())
        options = ["--workers", "2", "--listen", LOCAL, "--targets", f"/t t {file}"]
        with Process("serve", *options, "--log-format", "none") as server:
            url = server.says().removeprefix("listening on ")

            def ask() -> bytes:
                with connected(url) as client:
                    client.sendall(upgrade_head(b"t", path=b"/t/x"))
                    head, _, word = read_all(client).partition(b"\r\n\r\n")
                    assert status(head) == 101, head
                    return word

            asking = Asking(ask)
            assert set(asking.goes_on()) == {b"1"}
            for port, word in ((two, b"2"), (one, b"1")):
                server.send_signal(signal.SIGHUP)
                replace(file, f"x: 127.0.0.1:{port}".encode())
                assert set(asking.goes_on()) == {word}
                assert server.says() == RELOADED
                assert set(asking.goes_on()) == {word}
            assert set(asking.ends()) == {b"1", b"2"}
            server.terminate()
            assert server.everything() == (0, b"", b"")


@pytest.mark.parametrize("count", ["2", None])
def test_certificates_under_load(tmp_path: Path, count: str | None) -> None:
    """
    Certificates are renewed, also with a file that is only half written, while clients come all the
    time: every handshake succeeds, with the old certificate or the new one.
    """
    pem = tmp_path / "both.pem"
    pem.write_bytes(b"".join(make_certificate()))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    options = [] if count is None else ["--workers", count]
    listen = ["--listen", f"ssl:0:privateKey={pem}:interface=127.0.0.1"]
    with Process("serve", *options, *listen, "--log-format", "none") as server:
        host, port = server.says().removeprefix("listening on https://").rstrip("/").split(":")

        def ask() -> bytes:
            with (
                socket.create_connection((host, int(port)), PATIENCE) as client,
                context.wrap_socket(client) as tls,
            ):
                tls.sendall(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
                assert status(read_all(tls)) == 200
                return tls.getpeercert(binary_form=True) or b""

        asking = Asking(ask)
        (before,) = set(asking.goes_on())
        certificate, key = make_certificate()
        pem.write_bytes(certificate)
        server.send_signal(signal.SIGHUP)
        assert server.says().startswith("not reloaded, nothing changed: ")
        assert set(asking.goes_on()) == {before}
        pem.write_bytes(certificate + key)
        server.send_signal(signal.SIGHUP)
        assert server.says() == RELOADED
        after = ssl.PEM_cert_to_DER_cert(certificate.decode())
        assert set(asking.goes_on()) == {after}
        assert set(asking.ends()) == {before, after}
        server.terminate()
        assert server.everything() == (0, b"", b"")
