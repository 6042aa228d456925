"""Servers of no protocol, or of another one than was expected."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.kit.commands import PATIENCE, read_until

__all__ = ["LONG_FIELD", "Talk", "after_a_request", "closing", "endless", "says", "silent", "talking"]

Talk = Callable[[socket.socket], object]

LONG_FIELD = b"A: " + b"x" * 65000 + b"\r\n"


def silent(client: socket.socket) -> None:
    """Reads, and never answers."""
    while client.recv(65536):
        pass


def closing(client: socket.socket) -> None:
    """Closes at the first request."""
    read_until(client, b"\r\n\r\n")


def says(data: bytes) -> Talk:
    """Sends something, whatever comes."""

    def talk(client: socket.socket) -> None:
        client.sendall(data)
        silent(client)

    return talk


def after_a_request(data: bytes) -> Talk:
    """Sends something behind each head that is read."""

    def talk(client: socket.socket) -> None:
        while b"\r\n\r\n" in client.recv(65536):
            client.sendall(data)

    return talk


def endless(begin: bytes, forever: bytes) -> Talk:
    """Sends without end, until nobody reads."""

    def talk(client: socket.socket) -> None:
        client.sendall(begin)
        while True:
            client.sendall(forever)

    return talk


@contextmanager
def talking(talk: Talk) -> Iterator[int]:
    """
    A server that talks to any number of clients at once; who is cut off is not looked at.

    :return: its port.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        clients: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError, AssertionError):
                client.settimeout(PATIENCE)
                talk(client)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _address = server.accept()
                    clients.append(client)
                    threads.append(threading.Thread(target=serve, args=(client,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for client in clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
