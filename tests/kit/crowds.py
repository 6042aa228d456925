"""
Many clients at once, as plain sockets: all of this blocks.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.kit.commands import PATIENCE, read_until, reset

Sockets = list[socket.socket]


@contextmanager
def room_for(descriptors: int) -> Iterator[None]:
    """This process, and those that it starts in here, may have so many file descriptors, and some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, descriptors + 500)
    assert hard == resource.RLIM_INFINITY or wanted <= hard, f"ulimit -Hn is {hard}, not {wanted}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect_many(address: Any, count: int, data: bytes) -> Sockets:
    """Clients that have sent this."""
    clients = [socket.create_connection(address, PATIENCE) for _ in range(count)]
    for client in clients:
        client.sendall(data)
    return clients


def are_answered(clients: Sockets) -> None:
    """Each has been answered with a 101."""
    for client in clients:
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


def reset_all(clients: Iterable[socket.socket]) -> None:
    for client in clients:
        reset(client)
