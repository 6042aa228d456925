"""
The clients of ``proxy.py``. They share a process and a loop with the back end (``back_end.py``), so
that nothing but the proxy differs.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from back_end import PAGE, PIECE, BackEnd, Loop
from load import Done
from processes import HOST, STUCK, Server, check

__all__ = ["FIELDS", "KEPT", "LENGTH", "UPGRADE", "Load"]

PARALLEL = 32
ECHOING = 8
STREAMS = 4

# A browser's ten fields.
FIELDS = (
    b"Host: localhost:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 "
    b"Firefox/140.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Referer: http://localhost:8080/\r\nCookie: session=0123456789abcdef\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
)
KEPT = b"Connection: keep-alive\r\n\r\n"
# RFC 6455 §1.3's key: some look at it.
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LENGTH = b"Content-Length: %d\r\n"
SHORT, MESSAGE = bytes(16), bytes(128)


def drop(connection: socket.socket) -> None:
    """Have a connection reset when it is closed, so that nothing of it is left."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Begin = Callable[[], None]
"""Has a client do one thing, at the end of which it calls :meth:`Load._has_done`."""


class Load:
    """
    The clients of a proxy. What they do goes on in each turn, for some time; at its end, nothing is
    under way.
    """

    def __init__(self, loop: Loop, back_end: BackEnd, proxy: Server) -> None:
        self._loop = loop
        self._back_end = back_end
        self._proxy = proxy
        self._connections: set[socket.socket] = set()
        self._until = 0.0
        self._under_way = 0
        self._took: list[float] = []

    def connect(self) -> socket.socket:
        connection = socket.create_connection((HOST, self._proxy.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(connection)
        return connection

    def close(self) -> None:
        """Drop all connections."""
        for connection in self._connections:
            drop(connection)
            self._loop.remove(connection)
        self._connections.clear()

    # One thing after another.

    def requests(self, request: bytes) -> Callable[[float], Done]:
        """The request on some connections, again and again, for so many seconds."""
        return self._again_and_again([self._asking(request) for _ in range(PARALLEL)])

    def upgrades(self) -> Callable[[float], Done]:
        """Connect, switch, 16 bytes there and back, close."""
        return self._again_and_again([self._upgrading() for _ in range(PARALLEL)])

    def echoes(self) -> Callable[[float], Done]:
        """128 bytes there and back, on connections that have switched."""
        return self._again_and_again([self._echoing(each) for each in self.switched(ECHOING)])

    def _again_and_again(self, begins: list[Begin]) -> Callable[[float], Done]:
        def turn(seconds: float) -> Done:
            self._took = []
            cpu, now, own = self._proxy.cpu, time.perf_counter(), time.process_time()
            self._until = now + seconds
            self._under_way = len(begins)
            for begin in begins:
                begin()
            while self._under_way:
                self._loop.turn()
            cpu, spent = self._proxy.cpu - cpu, time.perf_counter() - now
            own = time.process_time() - own
            return Done(len(self._took), spent, cpu, own, self._took)

        return turn

    def _has_done(self, began: float, begin: Begin) -> None:
        now = time.perf_counter()
        self._took.append(now - began)
        if now < self._until:
            begin()
        else:
            self._under_way -= 1

    def _asking(self, request: bytes) -> Begin:
        connection, tail = self.connect(), PAGE[-len(SHORT) :]
        began, answer = 0.0, b""

        def begin() -> None:
            nonlocal began
            began = time.perf_counter()
            connection.sendall(request)

        def readable() -> None:
            nonlocal answer
            answer += connection.recv(16384)
            check(bool(answer))
            # twisted.web.proxy's answers are chunked.
            if answer.endswith((tail, b"\r\n0\r\n\r\n")):
                check(answer.startswith(b"HTTP/1.1 200"))
                answer = b""
                self._has_done(began, begin)

        self._loop.add(connection, readable)
        return begin

    def _upgrading(self) -> Begin:
        def begin() -> None:
            began = time.perf_counter()

            def switched(connection: socket.socket) -> None:
                self._connections.discard(connection)
                self._loop.remove(connection)
                self._has_done(began, begin)

            self._upgrade(switched)

        return begin

    def _echoing(self, connection: socket.socket) -> Begin:
        began = 0.0

        def begin() -> None:
            nonlocal began
            began = time.perf_counter()
            connection.sendall(MESSAGE)

        def readable() -> None:
            check(connection.recv(4096) == MESSAGE)
            self._has_done(began, begin)

        self._loop.read_instead(connection, readable)
        return begin

    # Switched connections.

    def switched(self, count: int) -> list[socket.socket]:
        """So many connections that have switched, on which nothing happens any more."""
        found: list[socket.socket] = []
        while len(found) < count:
            before = len(found)
            for _ in range(min(PARALLEL, count - before)):
                self._upgrade(found.append)
                before += 1
            while len(found) < before:
                self._loop.turn()
        return found

    def _upgrade(self, then: Callable[[socket.socket], None]) -> None:
        """
        :param then: is called when 16 bytes have come back.
        """
        connection = self.connect()
        has_switched = self._proxy.kind == "raw"
        connection.sendall(SHORT if has_switched else b"GET /echo HTTP/1.1\r\n" + FIELDS + UPGRADE)

        def readable() -> None:
            nonlocal has_switched
            data = connection.recv(4096)
            if not has_switched:
                check(data.startswith(b"HTTP/1.1 101") and data.endswith(b"\r\n\r\n"))
                has_switched = True
                connection.sendall(SHORT)
                return
            check(data == SHORT)
            then(connection)

        self._loop.add(connection, readable)

    # Bytes without an end.

    def stream(self, path: bytes, fields: bytes, to_client: bool) -> Callable[[float], Done]:
        """
        Bytes for so many seconds, on some connections; it goes on as long as there are turns.

        :param to_client: the direction.
        """
        counts = [self._stream(path, fields, to_client) for _ in range(STREAMS)]

        def arrived() -> int:
            return sum(count() for count in counts) if to_client else self._back_end.received

        def turn(seconds: float) -> Done:
            bytes_, cpu, now = arrived(), self._proxy.cpu, time.perf_counter()
            own = time.process_time()
            while time.perf_counter() < now + seconds or arrived() == bytes_:
                self._loop.turn()
            cpu, spent = self._proxy.cpu - cpu, time.perf_counter() - now
            return Done(arrived() - bytes_, spent, cpu, time.process_time() - own, ())

        return turn

    def _stream(self, path: bytes, fields: bytes, to_client: bool) -> Callable[[], int]:
        connection = self.connect()
        connection.settimeout(STUCK)
        request = b"%b %b HTTP/1.1\r\n" % (b"POST" if path == b"/upload" else b"GET", path)
        if self._proxy.kind == "tunnel":
            connection.sendall(request + FIELDS + UPGRADE)
            check(connection.recv(4096).startswith(b"HTTP/1.1 101"))
        connection.sendall(request + FIELDS + fields)
        if path == b"/up":
            self._loop_until_readable(connection)
            check(connection.recv(4096).startswith(b"HTTP/1.1 101"))
        connection.setblocking(False)
        buffer, received = bytearray(len(PIECE)), 0

        def readable() -> None:
            nonlocal received
            size = connection.recv_into(buffer)
            check(size > 0)
            received += size

        def writable() -> None:
            with suppress(BlockingIOError):
                connection.send(PIECE)

        self._loop.add(connection, readable if to_client else writable, write=not to_client)
        return lambda: received

    def _loop_until_readable(self, connection: socket.socket) -> None:
        """Wait for an answer, which the back end in this process gives."""
        has_come: list[bool] = []
        waiting = socket.socket(fileno=socket.dup(connection.fileno()))
        self._loop.add(waiting, lambda: has_come.append(True))
        while not has_come:
            self._loop.turn()
        self._loop.remove(waiting)
