"""
The back end of ``proxy.py``, and the loop that it shares with the clients (``proxy_load.py``). It does
nothing but read a head, and answer.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from processes import HOST, STUCK, check

__all__ = ["BODY", "ENDLESS", "PAGE", "PIECE", "BackEnd", "Loop"]

PIECE = memoryview(bytes(256 * 1024))
ENDLESS = 10**12
ANSWER_101 = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
BODY = bytes(10_000)
PAGE = b"<p>Hello, world! This is the page.</p>\n" * 10
ANSWER_FIELDS = (
    b"Server: back\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/html\r\n"
    b'Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nETag: "0123456789"\r\n'
)
ANSWER = b"HTTP/1.1 200 OK\r\n" + ANSWER_FIELDS + b"Content-Length: %d\r\n" % len(PAGE) + b"\r\n" + PAGE
ENDLESS_ANSWER = b"HTTP/1.1 200 OK\r\n" + ANSWER_FIELDS + b"Content-Length: %d\r\n" % ENDLESS + b"\r\n"


class Loop:
    """Calls whoever waits for a socket."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callees: dict[int, tuple[socket.socket, Callable[[], object]]] = {}

    def add(self, connection: socket.socket, callee: Callable[[], object], write: bool = False) -> None:
        """
        :param write: whether to wait until it takes something; else, until it has something.
        """
        self._callees[connection.fileno()] = connection, callee
        self._poll.register(connection, select.EPOLLOUT if write else select.EPOLLIN)

    def write_instead(self, connection: socket.socket, callee: Callable[[], object]) -> None:
        self._callees[connection.fileno()] = connection, callee
        self._poll.modify(connection, select.EPOLLOUT)

    def read_instead(self, connection: socket.socket, callee: Callable[[], object]) -> None:
        self._callees[connection.fileno()] = connection, callee

    def remove(self, connection: socket.socket) -> None:
        if self._callees.pop(connection.fileno(), None) is not None:
            self._poll.unregister(connection)
        connection.close()

    def turn(self) -> None:
        events = self._poll.poll(STUCK)
        check(bool(events))
        for number, _ in events:
            if number in self._callees:
                _, callee = self._callees[number]
                callee()

    def close(self) -> None:
        """Close all sockets that somebody waits for."""
        for connection, _ in self._callees.values():
            connection.close()
        self._callees.clear()
        self._poll.close()


class BackEnd:
    """
    The server behind all proxies.

    :ivar received: how many bytes of endless streams have come.
    """

    def __init__(self, loop: Loop) -> None:
        self.received = 0
        self._loop = loop
        self._listening = socket.create_server((HOST, 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        loop.add(self._listening, self._accept)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add(connection, Served(self, self._loop, connection).readable)


class Served:
    """A connection of the back end's."""

    def __init__(self, back_end: BackEnd, loop: Loop, connection: socket.socket) -> None:
        self._back_end = back_end
        self._loop = loop
        self._connection = connection
        self._head = b""
        # How much of a content is still to come.
        self._left = 0
        self._is_echo = False
        self._buffer = bytearray(len(PIECE))

    def readable(self) -> None:
        try:
            size = self._connection.recv_into(self._buffer)
            if size:
                self._received(size)
                return
        except OSError:
            # Its client has been dropped.
            pass
        self._loop.remove(self._connection)

    def _received(self, size: int) -> None:
        if self._left:
            self._content(size)
        elif self._is_echo or (not self._head and not self._buffer[0]):
            # Switched, or no HTTP at all.
            self._connection.send(self._buffer[:size])
        else:
            self._head += self._buffer[:size]
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if end:
                self._head = b""
                self._answer(head, len(rest))

    def _content(self, size: int) -> None:
        self._left -= size
        self._back_end.received += size
        if not self._left:
            self._connection.send(ANSWER)

    def _answer(self, head: bytes, more: int) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/page":
            self._connection.send(ANSWER)
        elif path == b"/post":
            self._left = len(BODY)
            self._content(more)
        elif path == b"/upload":
            self._left = ENDLESS
            self._content(more)
        elif path == b"/download":
            self._pour(ENDLESS_ANSWER)
        elif path == b"/down":
            self._pour(ANSWER_101)
        elif path == b"/up":
            self._left = ENDLESS
            self._connection.send(ANSWER_101)
        else:
            self._is_echo = True
            self._connection.send(ANSWER_101)

    def _pour(self, first: bytes) -> None:
        self._connection.send(first)
        self._loop.write_instead(self._connection, self._writable)

    def _writable(self) -> None:
        try:
            self._connection.send(PIECE)
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove(self._connection)
