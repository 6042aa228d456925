"""``upgrade-switch forward``, running, clients of it, and servers behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.kit.commands import PATIENCE, Process


@contextmanager
def forwarding(*arguments: str, lines: int = 0) -> Iterator[Any]:
    """
    ``upgrade-switch forward``, listening; ended by SIGTERM.

    :param lines: how many lines it is to have logged, at its end.
    :return: the process; its ``address`` is where it listens.
    """
    with Process("forward", *arguments, stdin=None, stdout=None) as process:
        line = process.says()
        assert line.startswith("listening on "), line
        host, _, port = line.removeprefix("listening on ").rpartition(":")
        found: Any = process
        found.address = (host, int(port))
        yield process
        process.terminate()
        code, _out, said = process.ends()
        assert code == 0, said
        assert b"Traceback" not in said
        assert said.count(b"\n") == lines, said


def connected(process: Any) -> socket.socket:
    """A client of it."""
    client = socket.create_connection(process.address, PATIENCE)
    client.settimeout(PATIENCE)
    return client


def logged(process: Any) -> bytes:
    """The next line of its log."""
    with process.killed_if_late():
        line: bytes = process.stderr.readline()
    return line


class Answering:
    """
    A server that talks to any number of clients at the same time; entering it gives its port, which is
    0 on a UNIX socket.
    """

    def __init__(self, talk: Callable[[socket.socket], object], path: str | None = None) -> None:
        self._talk = talk
        self._path = path

    def __enter__(self) -> int:
        port = 0
        if self._path is None:
            self._server = socket.create_server(("127.0.0.1", 0))
            port = self._server.getsockname()[1]
        else:
            self._server = socket.create_server(self._path, family=socket.AF_UNIX)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return port

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            client.settimeout(PATIENCE)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(ConnectionResetError):
            self._talk(client)

    def __exit__(self, *args: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
