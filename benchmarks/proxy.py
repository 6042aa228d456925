"""
What a reverse proxy costs: ``UpgradeProxy`` beside others, in front of one back end.

The proxies (``proxies.py``) are processes on one core, of which one is at work at any time. This
process is both ends of the load, on another core: the clients, and a back end that does nothing but
read a head, and answer. So what is compared is the CPU time of the proxy alone.
"""

from __future__ import annotations

import gc
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from figures import CPU, Comparison, Goal, options_of, publish, turns
from processes import HOST, STUCK, Server, check, prepare
from proxies import OURS, PROGRAMS, running, title_of, why_missing
from report import BUSY, LOAD, RATE

PARALLEL = 32
ECHOING = 8
STREAMS = 4
WARM_UP = 3000
SECONDS_TO_WARM_UP = 3
PIECE = memoryview(bytes(256 * 1024))
ENDLESS = 10**12

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
ANSWER_101 = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
LENGTH = b"Content-Length: %d\r\n"
BODY = bytes(10_000)

PAGE = b"<p>Hello, world! This is the page.</p>\n" * 10
ANSWER_FIELDS = (
    b"Server: back\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/html\r\n"
    b'Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nETag: "0123456789"\r\n'
)
ANSWER = b"HTTP/1.1 200 OK\r\n" + ANSWER_FIELDS + LENGTH % len(PAGE) + b"\r\n" + PAGE
ENDLESS_ANSWER = b"HTTP/1.1 200 OK\r\n" + ANSWER_FIELDS + LENGTH % ENDLESS + b"\r\n"
SHORT, MESSAGE = bytes(16), bytes(128)


class Loop:
    """Calls whoever waits for a socket."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callees: dict[int, Callable[[], object]] = {}

    def add(self, connection: socket.socket, callee: Callable[[], object], write: bool = False) -> None:
        """
        :param write: whether to wait until it takes something; else, until it has something.
        """
        self._callees[connection.fileno()] = callee
        self._poll.register(connection, select.EPOLLOUT if write else select.EPOLLIN)

    def write_instead(self, connection: socket.socket, callee: Callable[[], object]) -> None:
        self._callees[connection.fileno()] = callee
        self._poll.modify(connection, select.EPOLLOUT)

    def read_instead(self, connection: socket.socket, callee: Callable[[], object]) -> None:
        self._callees[connection.fileno()] = callee

    def remove(self, connection: socket.socket) -> None:
        if self._callees.pop(connection.fileno(), None) is not None:
            self._poll.unregister(connection)
        connection.close()

    def turn(self) -> None:
        events = self._poll.poll(STUCK)
        check(bool(events))
        for number, _ in events:
            callee = self._callees.get(number)
            if callee is not None:
                callee()


def drop(connection: socket.socket) -> None:
    """Have a connection reset when it is closed, so that nothing of it is left."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


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


class Spent(NamedTuple):
    """What a proxy took."""

    each: float
    """Seconds of CPU for each thing done, or byte passed."""
    rate: float
    """How many there were a second."""
    busy: float
    """The proxy's share of its core, in percent."""
    load_busy: float
    """The same of this process."""


class Load:
    """
    What a proxy has to do for some time.

    :ivar done: how often it has been done, or how many bytes have arrived.
    """

    def __init__(self, loop: Loop, back_end: BackEnd, proxy: Server) -> None:
        self._loop = loop
        self._back_end = back_end
        self._proxy = proxy
        self._connections: set[socket.socket] = set()
        self._is_over = False
        self.done = 0

    def connect(self) -> socket.socket:
        connection = socket.create_connection((HOST, self._proxy.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(connection)
        return connection

    def measure(self, begin: Callable[[], None], seconds: float, warm_up: int = 0) -> Spent:
        """
        :param begin: begins it, after which the callees go on by themselves.
        :param warm_up: how many are to be done before it counts.
        """
        try:
            begin()
            self._run(seconds / 3)
            # Compilers at run time need to have seen some.
            self._run(SECONDS_TO_WARM_UP, until=warm_up)
            done, cpu, now, own = self.done, self._proxy.cpu, time.perf_counter(), time.process_time()
            self._run(seconds)
            done, cpu = self.done - done, self._proxy.cpu - cpu
            took, own = time.perf_counter() - now, time.process_time() - own
        finally:
            for connection in self._connections:
                drop(connection)
                self._loop.remove(connection)
            self._connections.clear()
        return Spent(cpu / done, done / took, cpu / took * 100, own / took * 100)

    def _run(self, seconds: float, until: int | None = None) -> None:
        """
        :param until: how many have to be done for it to be enough in any case.
        """
        end, before = time.perf_counter() + seconds, self.done
        while time.perf_counter() < end or (until is None and self.done == before):
            if until is not None and self.done >= until:
                break
            self._loop.turn()

    # One request after another.

    def ask(self, request: bytes) -> None:
        for _ in range(PARALLEL):
            self._ask_on(self.connect(), request)

    def _ask_on(self, connection: socket.socket, request: bytes) -> None:
        tail, answer = PAGE[-len(SHORT) :], b""

        def readable() -> None:
            nonlocal answer
            answer += connection.recv(16384)
            check(bool(answer))
            # twisted.web.proxy's answers are chunked.
            if answer.endswith((tail, b"\r\n0\r\n\r\n")):
                check(answer.startswith(b"HTTP/1.1 200"))
                answer = b""
                self.done += 1
                connection.sendall(request)

        self._loop.add(connection, readable)
        connection.sendall(request)

    # One upgrade after another, and echoes behind them.

    def upgrade(self) -> None:
        for _ in range(PARALLEL):
            self._upgrade(self._next_upgrade)

    def echo(self) -> None:
        for _ in range(ECHOING):
            self._upgrade(self._echo_on)

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

    def _next_upgrade(self, connection: socket.socket) -> None:
        self.done += 1
        self._connections.discard(connection)
        self._loop.remove(connection)
        self._upgrade(self._next_upgrade)

    def _echo_on(self, connection: socket.socket) -> None:
        def readable() -> None:
            check(connection.recv(4096) == MESSAGE)
            self.done += 1
            connection.sendall(MESSAGE)

        self._loop.read_instead(connection, readable)
        connection.sendall(MESSAGE)

    # Bytes without an end.

    def stream(self, path: bytes, fields: bytes, to_client: bool) -> None:
        for _ in range(STREAMS):
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
            if to_client:
                self._loop.add(connection, self._reader(connection))
            else:
                self._loop.add(connection, self._writer(connection), write=True)

    def _loop_until_readable(self, connection: socket.socket) -> None:
        """Wait for an answer, which the back end in this process gives."""
        has_come: list[bool] = []
        waiting = socket.socket(fileno=socket.dup(connection.fileno()))
        self._loop.add(waiting, lambda: has_come.append(True))
        while not has_come:
            self._loop.turn()
        self._loop.remove(waiting)

    def _reader(self, connection: socket.socket) -> Callable[[], None]:
        buffer = bytearray(len(PIECE))

        def readable() -> None:
            size = connection.recv_into(buffer)
            check(size > 0)
            self.done += size

        return readable

    def _writer(self, connection: socket.socket) -> Callable[[], None]:
        def writable() -> None:
            with suppress(BlockingIOError):
                connection.send(PIECE)
            self.done = self._back_end.received

        return writable


WORK: dict[str, Callable[[Load], None]] = {
    "GET": lambda load: load.ask(b"GET /page HTTP/1.1\r\n" + FIELDS + KEPT),
    "POST 10 kB": lambda load: load.ask(
        b"POST /post HTTP/1.1\r\n" + FIELDS + LENGTH % len(BODY) + KEPT + BODY
    ),
    "upgrade": lambda load: load.upgrade(),
    "echo of 128 bytes": lambda load: load.echo(),
    "spliced down": lambda load: load.stream(b"/down", UPGRADE, to_client=True),
    "spliced up": lambda load: load.stream(b"/up", UPGRADE, to_client=False),
    "download": lambda load: load.stream(b"/download", KEPT, to_client=True),
    "upload": lambda load: load.stream(b"/upload", LENGTH % ENDLESS + KEPT, to_client=False),
}
SWITCHED = ("upgrade", "echo of 128 bytes", "spliced down", "spliced up")
MESSAGES = ("GET", "POST 10 kB", "upgrade", "echo of 128 bytes")
PER_GB, MB_A_SECOND = "CPU a GB, s", "MB a second"

GOALS = (
    Goal("GET", CPU, OURS, "node", "<=", 1.0),
    Goal("POST 10 kB", CPU, OURS, "node", "<=", 1.0),
    Goal("upgrade", CPU, "tunnel", "haproxy"),
    Goal("echo of 128 bytes", CPU, "tunnel", "haproxy", "<=", 1.2),
    *(Goal(table, PER_GB, "tunnel", "haproxy", "<=", 1.0) for table in ("spliced down", "spliced up")),
    *(Goal(table, PER_GB, OURS, "tunnel", "<=", 1.0) for table in ("spliced down", "spliced up")),
)


def does(name: str, work: str) -> bool:
    """Whether a program does it at all."""
    if name in ("tunnel", "raw"):
        return work in SWITCHED
    # Twisted's own passes no upgrade, and has no back-pressure: it would fill the memory.
    return name != "twisted" or work in ("GET", "POST 10 kB")


def add(comparison: Comparison, work: str, kind: str, spent: Spent) -> None:
    """Remember what a proxy took in this round."""
    if work in MESSAGES:
        comparison.add(work, CPU, kind, spent.each * 1e6)
        comparison.add(work, RATE, kind, spent.rate)
    else:
        comparison.add(work, PER_GB, kind, spent.each * 1e9)
        comparison.add(work, MB_A_SECOND, kind, spent.rate / 1e6)
    comparison.add(work, BUSY, kind, spent.busy)
    comparison.add(work, LOAD, kind, spent.load_busy)


def measure_all(comparison: Comparison, works: Sequence[str], seconds: float) -> None:
    """All rounds, in which the proxies take turns, and stay the same."""
    core = prepare()
    gc.disable()
    loop = Loop()
    back_end = BackEnd(loop)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        proxies = {
            name: stack.enter_context(running(name, Path(folder), back_end.port, core))
            for name in comparison.servers
        }
        for number in range(comparison.rounds):
            print(f"Proxies: round {number + 1} of {comparison.rounds}", file=sys.stderr)
            in_turn = [proxies[name] for name in turns([*proxies], number)]
            for work in works:

                def measured(proxy: Server, work: str = work, is_first: bool = not number) -> None:
                    load = Load(loop, back_end, proxy)
                    warm_up = WARM_UP if is_first and work in MESSAGES else 0
                    spent = load.measure(partial(WORK[work], load), seconds, warm_up)
                    add(comparison, work, proxy.kind, spent)

                comparison.each([proxy for proxy in in_turn if does(proxy.kind, work)], measured)


def main() -> None:
    options = options_of(
        "What a reverse proxy costs, and a tunnel, beside other ones.",
        5,
        1,
        lambda parser: parser.add_argument("--work", help=f"some of {','.join(WORK)}"),
    )
    names = options.only or [*PROGRAMS]
    comparison = Comparison("Proxies and tunnels", {}, options.rounds)
    for name in names:
        why = why_missing(name)
        if why is None:
            comparison.servers[name] = title_of(name)
        else:
            comparison.leave_out(name, why)
    works = options.extra.work.split(",") if options.extra.work else list(WORK)
    measure_all(comparison, works, 0.2 if options.is_quick else 0.4)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
