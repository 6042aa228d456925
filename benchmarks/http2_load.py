"""
The load of ``http2.py``: GETs and downloads from h2load; and what happens on streams from this process,
which sends frames that are made beforehand.
"""

from __future__ import annotations

import re
import resource
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from hpack import Encoder
from load import Done, Turn
from processes import HOST, Server, Wrong, check
from secured import secured
from switching import ORDINARY

__all__ = [
    "CONNECTIONS",
    "GETS_AT_ONCE",
    "IDLE_ON_EACH",
    "ON_ONE",
    "WARM_UP",
    "echoing_on_connections",
    "echoing_on_streams",
    "getting",
    "h2load",
    "memory_of_streams",
]

# A browser's fields.
FIELDS = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-language": "en-US,en;q=0.5",
    "accept-encoding": "gzip, deflate, br, zstd",
    "cookie": "session=0123456789abcdef",
    "priority": "u=0, i",
}
GET = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/", **FIELDS}
CONNECT = {":protocol": "echo", **GET, ":method": "CONNECT", ":path": "/echo"}

ECHOED = bytes(128)
CONNECTIONS = 8
ON_ONE = 100
IDLE_CONNECTIONS, IDLE_ON_EACH = 4, 250
MANY_CONNECTIONS, MANY_ON_EACH = 10, 250
WARM_UP = 800
GETS_AT_ONCE = 8

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
LARGEST = 2**31 - 1


# GETs and downloads.


def h2load(server: Server, path: str, requests: int, connections: int, streams: int) -> Done:
    """
    So many requests.

    :param path: where there is a ``%d`` in it, each request has another number there.
    """
    origin = f"https://{HOST}:{server.port}"
    paths = [path % number for number in range(requests)] if "%d" in path else [path]
    fields = [f"--header={name}: {value}" for name, value in FIELDS.items()]
    with NamedTemporaryFile() as log:
        before, own = server.cpu, resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [
                "h2load",
                f"--requests={requests}",
                f"--clients={connections}",
                f"--max-concurrent-streams={streams}",
                f"--log-file={log.name}",
                *fields,
                "--input-file=-",
            ],
            input="".join(f"{origin}{path}\n" for path in paths),
            capture_output=True,
            text=True,
            check=True,
        )
        cpu, after = server.cpu - before, resource.getrusage(resource.RUSAGE_CHILDREN)
        # When it began, its status, how long it took: in microseconds.
        took = [int(line.split()[2]) / 1e6 for line in Path(log.name).read_text().splitlines()]
    check("Application protocol: h2\n" in done.stdout)
    check(f"{requests} succeeded, 0 failed" in done.stdout)
    check(len(took) == requests)
    return Done(requests, finished_in(done.stdout), cpu, used(after) - used(own), took)


def finished_in(said: str) -> float:
    """The seconds that h2load has taken, as it says them."""
    found = re.search(r"finished in ([\d.]+)(us|ms|s)", said)
    if found is None:
        raise Wrong("h2load does not say how long it took")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[found[2]]


def used(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


# Streams.


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


class Client:
    """An HTTP/2 connection whose windows are as wide as can be."""

    def __init__(self, server: Server) -> None:
        self.socket = secured(server, "h2")
        self._buffer = b""
        self._next_stream = 1
        widest = (4).to_bytes(2, "big") + LARGEST.to_bytes(4, "big")
        self.send(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, widest)
            + frame(WINDOW_UPDATE, 0, 0, (LARGEST - 2**16 + 1).to_bytes(4, "big"))
        )
        # When all fields are in its table, a list of them is always the same bytes.
        encoder, fields = Encoder(), [list(GET.items()), list(CONNECT.items())]
        first = [encoder.encode(one) for one in fields]
        self._get, self._connect = (encoder.encode(one) for one in fields)
        self.send(self._head(first[0], END_STREAM) + self._head(first[1]))
        heads = ends = 0
        while heads < 2 or not ends:
            for kind, flags, _, _ in self.receive():
                heads += kind == HEADERS
                ends += flags & END_STREAM

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _head(self, block: bytes, flags: int = 0) -> bytes:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        return frame(HEADERS, flags | END_HEADERS, stream, block)

    def receive(self) -> Iterator[tuple[int, int, int, int]]:
        """Kind, flags, stream and length of each frame that has come, but for the windows'."""
        received = self.socket.recv(2**16)
        check(bool(received))
        data, position = self._buffer + received, 0
        while len(data) - position >= 9:
            length = int.from_bytes(data[position : position + 3], "big")
            if len(data) < position + 9 + length:
                break
            kind, flags = data[position + 3], data[position + 4]
            check(kind not in (RST_STREAM, GOAWAY))
            if kind == SETTINGS:
                if not flags & ACK:
                    self.send(frame(SETTINGS, ACK, 0))
            elif kind in (DATA, HEADERS):
                yield kind, flags, int.from_bytes(data[position + 5 : position + 9], "big"), length
            position += 9 + length
        self._buffer = data[position:]

    def get(self, count: int) -> None:
        """Ask for a page so many times."""
        head = self._head
        for _ in range(count // GETS_AT_ONCE):
            self.send(b"".join(head(self._get, END_STREAM) for _ in range(GETS_AT_ONCE)))
            answered = 0
            while answered < GETS_AT_ONCE:
                answered += sum(flags & END_STREAM for _, flags, _, _ in self.receive())

    def switch(self, count: int) -> list[int]:
        """Open streams that switch; gives their numbers."""
        first = self._next_stream
        self.send(b"".join(self._head(self._connect) for _ in range(count)))
        answered = 0
        while answered < count:
            for kind, flags, _, _ in self.receive():
                check(kind == HEADERS and not flags & END_STREAM)
                answered += 1
        return list(range(first, self._next_stream, 2))

    def wait_for_echoes(self, count: int) -> None:
        """Wait until the bytes have come back on so many streams."""
        while count:
            for kind, _, _, length in self.receive():
                check(kind == DATA and length == len(ECHOED))
                count -= 1


def switched_connection(server: Server) -> ssl.SSLSocket:
    """A connection with TLS that HTTP/1.1 has switched."""
    connection = secured(server, "http/1.1")
    connection.sendall(ORDINARY)
    check(connection.recv(4096).startswith(b"HTTP/1.1 101 "))
    return connection


def measured(server: Server, work: Callable[[], Iterator[float]]) -> Done:
    """
    :param work: does everything that counts, and yields how long each took.
    """
    cpu, now, own = server.cpu, time.perf_counter(), time.process_time()
    took = list(work())
    own, seconds, cpu = time.process_time() - own, time.perf_counter() - now, server.cpu - cpu
    return Done(len(took), seconds, cpu, own, took)


@contextmanager
def echoing_on_connections(server: Server, times: int) -> Iterator[Turn]:
    """Echoes on some connections that have switched, so many on each in a turn."""
    connections = [switched_connection(server) for _ in range(CONNECTIONS)]

    def echo() -> Iterator[float]:
        for _ in range(times):
            began = []
            for connection in connections:
                began.append(time.perf_counter())
                connection.sendall(ECHOED)
            for connection, then in zip(connections, began, strict=True):
                check(connection.recv(4096) == ECHOED)
                yield time.perf_counter() - then

    yield lambda: measured(server, echo)
    for connection in connections:
        connection.close()


@contextmanager
def echoing_on_streams(server: Server, connections: int, streams: int, times: int) -> Iterator[Turn]:
    """The same, on so many streams of each of so many connections."""
    clients = [Client(server) for _ in range(connections)]
    messages = [
        b"".join(frame(DATA, 0, stream, ECHOED) for stream in client.switch(streams))
        for client in clients
    ]

    def echo() -> Iterator[float]:
        for _ in range(times):
            began = []
            for client, message in zip(clients, messages, strict=True):
                began.append(time.perf_counter())
                client.send(message)
            for client, then in zip(clients, began, strict=True):
                client.wait_for_echoes(streams)
                # Until all of a connection's are back.
                took = time.perf_counter() - then
                yield from [took] * streams

    yield lambda: measured(server, echo)
    for client in clients:
        client.socket.close()


@contextmanager
def getting(server: Server, idle: int, count: int) -> Iterator[Turn]:
    """GETs on one of some connections, of which each has so many streams that are idle."""
    clients = [Client(server) for _ in range(IDLE_CONNECTIONS)]
    for client in clients:
        client.switch(idle)
    first = clients[0]

    def get() -> Iterator[float]:
        for _ in range(count // GETS_AT_ONCE):
            began = time.perf_counter()
            first.get(GETS_AT_ONCE)
            yield from [time.perf_counter() - began] * GETS_AT_ONCE

    first.get(WARM_UP)
    yield lambda: measured(server, get)
    for client in clients:
        client.socket.close()


def memory_of_streams(server: Server) -> float:
    """Bytes that each of some thousand idle streams takes."""
    clients = []
    # Those of the first time fill the room that has been left since the server was started.
    for _ in range(2):
        added = [Client(server) for _ in range(MANY_CONNECTIONS)]
        before = server.memory
        for client in added:
            client.switch(MANY_ON_EACH)
        took = server.memory - before
        clients += added
    for client in clients:
        client.socket.close()
    return took / (MANY_CONNECTIONS * MANY_ON_EACH)
