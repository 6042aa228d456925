"""
Requests at a steady rate, to a server whose workers change meanwhile.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.kit.commands import PATIENCE
from tests.kit.harness import status

#: Requests of which the answer is awaited: where a machine is too slow for the rate, no more are sent.
MOST = 64

#: Connections that are kept for the next request.
KEPT = 16

MESSAGE = b"hello"


@dataclass(eq=False)
class Asking:
    """
    A connection, with the request that is under way.

    :ivar pid: who has answered the last request, if there was one.
    """

    socket: socket.socket
    keep: bool
    sent: float = 0
    got: bytes = b""
    pid: int | None = None


@dataclass(eq=False)
class Echoing:
    """A switched connection, and how much of a message is on its way."""

    socket: socket.socket
    missing: int = 0


class PacedLoad:
    """
    Asks for ``/who`` so many times a second, every other time with a connection of its own, else on
    ones that are kept while the server keeps them; and has switched connections echo, in turn.

    :ivar asked: how many answers there were, by the process that gave them.
    :ivar echoed: how many messages came back.
    :ivar lost: when requests were sent that were not answered, each with the process that had answered
        the one before on that connection.
    :ivar cut: how many of the switched connections have ended.
    """

    def __init__(self, url: str, switched: Sequence[socket.socket], rate: int = 1000) -> None:
        host, port = url[7:-1].split(":")
        self._address = host, int(port)
        self._rate = rate
        self._is_ending = False
        self._idle: deque[Asking] = deque()
        self._under_way: set[Asking | Echoing] = set()
        self._echoing = deque(map(Echoing, switched))
        self.asked = Counter[int]()
        self.echoed = 0
        self.cut = 0
        self.lost: list[tuple[float, int | None]] = []
        self._failed: list[Exception] = []
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def goes_on(self, count: int = 1000) -> None:
        """Wait until so many more requests were answered, and all switched connections were asked."""
        with self._progress:
            wanted, echoed = self.asked.total() + count, self.echoed + len(self._echoing)
            assert self._progress.wait_for(
                lambda: (
                    self._failed or (self.asked.total() >= wanted and self.echoed + self.cut >= echoed)
                ),
                2 * PATIENCE,
            )
        assert not self._failed

    def ends(self) -> None:
        """Ask no more, and wait for what has been asked."""
        self._is_ending = True
        self._thread.join()
        assert not self._failed, self._failed

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as self._selector:
                for each in self._echoing:
                    self._selector.register(each.socket, selectors.EVENT_READ, each)
                self._go_on()
            for idle in self._idle:
                idle.socket.close()
        except Exception as error:
            self._failed.append(error)
        finally:
            with self._progress:
                self._progress.notify_all()

    def _go_on(self) -> None:
        number, due = 0, time.monotonic()
        while not self._is_ending or self._under_way:
            now, is_ending = time.monotonic(), self._is_ending
            # Requests that a slow machine could not send in time are not made up for.
            due = max(due, now - 0.1)
            while due <= now and len(self._under_way) < MOST and not is_ending:
                due += 1 / self._rate
                number += 1
                self._ask(keep=bool(number % 2))
                if self._echoing and not number % 4:
                    self._echo()
            events = self._selector.select(PATIENCE if is_ending else 1 / self._rate)
            assert events or not is_ending, "no answer"
            for key, _ in events:
                self._hear(key.data)
            with self._progress:
                self._progress.notify_all()

    def _ask(self, keep: bool) -> None:
        if keep and self._idle:
            client = self._idle.popleft()
        else:
            client = Asking(socket.create_connection(self._address, PATIENCE), keep)
            self._selector.register(client.socket, selectors.EVENT_READ, client)
        client.sent, client.got = time.monotonic(), b""
        self._under_way.add(client)
        field = b"" if keep else b"Connection: close\r\n"
        try:
            client.socket.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
        except OSError:
            self._lose(client)

    def _echo(self) -> None:
        self._echoing.rotate()
        client = self._echoing[0]
        if not client.missing:
            client.missing = len(MESSAGE)
            self._under_way.add(client)
            # If it has ended, that is heard as an end is.
            with suppress(OSError):
                client.socket.sendall(MESSAGE)

    def _hear(self, client: Any) -> None:
        try:
            got = client.socket.recv(65536)
        except OSError:
            got = b""
        if isinstance(client, Echoing):
            self._hear_echo(client, got)
        elif got:
            client.got += got
            self._hear_answer(client)
        else:
            self._lose(client)

    def _hear_echo(self, client: Echoing, got: bytes) -> None:
        if not got:
            self.cut += 1
            self._echoing.remove(client)
            self._forget(client)
            return
        assert MESSAGE[-client.missing :].startswith(got)
        client.missing -= len(got)
        if not client.missing:
            self._under_way.remove(client)
            self.echoed += 1

    def _hear_answer(self, client: Asking) -> None:
        head, end, body = client.got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head) if end else None
        if not end or length is None or len(body) < int(length[1]):
            return
        assert status(head) == 200
        client.pid = int(body)
        self.asked[client.pid] += 1
        if client.keep and b"onnection: close" not in head and len(self._idle) < KEPT:
            self._under_way.remove(client)
            self._idle.append(client)
        else:
            self._forget(client)

    def _lose(self, client: Asking) -> None:
        self.lost.append((client.sent, client.pid))
        if client in self._idle:
            self._idle.remove(client)
        self._forget(client)

    def _forget(self, client: Any) -> None:
        self._under_way.discard(client)
        self._selector.unregister(client.socket)
        client.socket.close()
