"""
What HTTP/2 costs: ``UpgradeSite`` beside Twisted's own HTTP/2, hypercorn and Node; and what a switched
stream costs beside a switched connection.

Each server is one process on one core, and speaks TLS. GETs and downloads come from h2load; what
happens on streams comes from this process, which sends frames that are made beforehand. Both run on
another core. The figures are the servers' CPU time, so it does not matter how fast the load is.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from figures import Comparison, Goal, chosen, options_of, publish, turns
from hpack import Encoder
from http2_servers import KINDS, OURS, running
from processes import HOST, Server, check, prepare
from secured import make_certificate, secured
from switching import ORDINARY

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

CPU, KIB = "CPU, µs", "KiB"
GET_COST, GET_OTHERS, DOWNLOAD = "GET", "GET, another path each time", "1 MB"
SWITCHED_CONNECTION = "echo of 128 bytes on a connection, HTTP/1.1"
STREAM = "echo of 128 bytes on a stream"
STREAMS = "the same on each of 100 streams"
GET_ALONE, GET_BESIDE = "GET on a connection alone", "the same beside 1,000 idle streams"
MEMORY = "idle stream, with its target"

GOALS = (
    Goal(GET_COST, CPU, OURS, "twisted", "<=", 0.6),
    Goal(GET_COST, CPU, OURS, "hypercorn", "<", 1.0),
    Goal(GET_COST, CPU, OURS, "node"),
    Goal(GET_OTHERS, CPU, OURS, "twisted"),
    Goal(GET_OTHERS, CPU, OURS, "hypercorn"),
    Goal(DOWNLOAD, CPU, OURS, "twisted", "<=", 0.8),
    Goal(DOWNLOAD, CPU, OURS, "hypercorn"),
    Goal(DOWNLOAD, CPU, OURS, "node"),
    Goal(STREAM, CPU, OURS, OURS, "<=", 1.3, SWITCHED_CONNECTION),
    Goal(STREAMS, CPU, OURS, OURS, "<", 1.0, SWITCHED_CONNECTION),
    Goal(GET_BESIDE, CPU, OURS, OURS, "<=", 1.05, GET_ALONE),
    Goal(MEMORY, KIB, OURS, "", "<=", 8.0),
)


# The load: GETs and downloads.


def h2load(server: Server, path: str, requests: int, connections: int, streams: int) -> float:
    """
    Seconds of the server's CPU for each request.

    :param path: where there is a ``%d`` in it, each request has another number there.
    """
    origin = f"https://{HOST}:{server.port}"
    paths = [path % number for number in range(requests)] if "%d" in path else [path]
    fields = [f"--header={name}: {value}" for name, value in FIELDS.items()]
    before = server.cpu
    done = subprocess.run(
        [
            "h2load",
            f"--requests={requests}",
            f"--clients={connections}",
            f"--max-concurrent-streams={streams}",
            *fields,
            "--input-file=-",
        ],
        input="".join(f"{origin}{path}\n" for path in paths),
        capture_output=True,
        text=True,
        check=True,
    )
    check("Application protocol: h2\n" in done.stdout)
    check(f"{requests} succeeded, 0 failed" in done.stdout)
    return (server.cpu - before) / requests


# The load: streams.


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


def echo_on_connections(server: Server, times: int) -> float:
    """Seconds of the server's CPU for each echo, on switched connections."""
    connections = [switched_connection(server) for _ in range(CONNECTIONS)]
    before = server.cpu
    for _ in range(times):
        for connection in connections:
            connection.sendall(ECHOED)
        for connection in connections:
            check(connection.recv(4096) == ECHOED)
    took = server.cpu - before
    for connection in connections:
        connection.close()
    return took / (times * CONNECTIONS)


def echo_on_streams(server: Server, connections: int, streams: int, times: int) -> float:
    """The same, on so many streams of each of so many connections."""
    clients = [Client(server) for _ in range(connections)]
    messages = [
        b"".join(frame(DATA, 0, stream, ECHOED) for stream in client.switch(streams))
        for client in clients
    ]
    before = server.cpu
    for _ in range(times):
        for client, message in zip(clients, messages, strict=True):
            client.send(message)
        for client in clients:
            client.wait_for_echoes(streams)
    took = server.cpu - before
    for client in clients:
        client.socket.close()
    return took / (times * connections * streams)


def get_beside_idle(server: Server, count: int) -> tuple[float, float]:
    """What a GET costs on a connection alone, and on one of four with 250 idle streams each."""
    took = []
    for idle in (0, IDLE_ON_EACH):
        clients = [Client(server) for _ in range(IDLE_CONNECTIONS)]
        for client in clients:
            client.switch(idle)
        clients[0].get(WARM_UP)
        before = server.cpu
        clients[0].get(count)
        took.append((server.cpu - before) / count)
        for client in clients:
            client.socket.close()
    return took[0], took[1]


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


# The figures.


class Size(NamedTuple):
    """How much is done: of each thing, by each server, in each round."""

    gets: int = 4000
    downloads: int = 100
    echoes: int = 8000


def measure(comparison: Comparison, servers: Sequence[Server], size: Size) -> None:
    """One round: each server in turn, thing by thing."""

    def warm_up(server: Server) -> None:
        h2load(server, "/", WARM_UP, 4, GETS_AT_ONCE)
        h2load(server, "/big", 8, 2, 4)

    def ask(table: str, path: str, requests: int, connections: int, streams: int) -> None:
        def measured(server: Server) -> None:
            cost = h2load(server, path, requests, connections, streams)
            comparison.add(table, CPU, server.kind, cost * 1e6)

        comparison.each(servers, measured)

    comparison.each(servers, warm_up)
    ask(GET_COST, "/", size.gets, 4, GETS_AT_ONCE)
    ask(GET_OTHERS, "/?%d", size.gets, 4, GETS_AT_ONCE)
    ask(DOWNLOAD, "/big", size.downloads, 2, 4)


def measure_streams(comparison: Comparison, server: Server, size: Size) -> None:
    """One round of what only ours does."""

    def add(table: str, seconds: float) -> None:
        comparison.add(table, CPU, OURS, seconds * 1e6)

    memory = memory_of_streams(server)
    add(SWITCHED_CONNECTION, echo_on_connections(server, size.echoes // CONNECTIONS))
    add(STREAM, echo_on_streams(server, CONNECTIONS, 1, size.echoes // CONNECTIONS))
    add(STREAMS, echo_on_streams(server, 1, ON_ONE, size.echoes // ON_ONE))
    alone, beside = get_beside_idle(server, size.gets)
    add(GET_ALONE, alone)
    add(GET_BESIDE, beside)
    comparison.add(MEMORY, KIB, OURS, memory / 1024)


@contextmanager
def all_running(kinds: Sequence[str], certificate: Path, core: int) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running(kind, certificate, core)) for kind in kinds]


def measure_all(comparison: Comparison, size: Size, core: int) -> None:
    """All rounds, each with new servers."""
    kinds = [*comparison.servers]
    with TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for number in range(comparison.rounds):
            print(f"HTTP/2: round {number + 1} of {comparison.rounds}", file=sys.stderr)
            left = [kind for kind in turns(kinds, number) if kind not in comparison.missing]
            with all_running(left, certificate, core) as servers:
                measure(comparison, servers, size)
            if OURS in left:
                with running(OURS, certificate, core) as server:
                    measure_streams(comparison, server, size)


def main() -> None:
    options = options_of("What HTTP/2 costs, beside other servers.", 9, 2)
    comparison, _ = chosen("HTTP/2", [*KINDS.values()], options)
    size = Size(gets=1000, downloads=30, echoes=2000) if options.is_quick else Size()
    if shutil.which("h2load") is None:
        for kind in comparison.servers:
            comparison.leave_out(kind, "there is no h2load (apt install nghttp2-client)")
    else:
        measure_all(comparison, size, prepare())
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
