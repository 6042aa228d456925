"""
What HTTP/2 costs: ``UpgradeSite`` beside Twisted's own HTTP/2, hypercorn and Node; and what a switched
stream costs beside a switched connection.

Each server is one process on one core, and speaks TLS. GETs and downloads come from h2load; what
happens on streams comes from this process, which sends frames that are made beforehand. Both run on
another core. The figures are the servers' CPU time, so it does not matter how fast the load is.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import ssl
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hpack import Encoder
from http2_servers import KINDS, OURS, Server, make_certificate, why_missing
from switching import HOST, ORDINARY, check, prepare, shown

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

GET_COST, GET_OTHERS, DOWNLOAD = "GET, µs", "GET, another path each time, µs", "1 MB, µs"
SWITCHED_CONNECTION = "echo of 128 bytes on a connection, HTTP/1.1, µs"
STREAM = "echo of 128 bytes on a stream, µs"
STREAMS = "the same on each of 100 streams, µs"
GET_ALONE, GET_BESIDE = "GET on a connection alone, µs", "the same beside 1,000 idle streams, µs"
MEMORY = "idle stream, with its target, KiB"


class Goal(NamedTuple):
    """A limit for one of our figures, in relation to another figure, or in itself."""

    figure: str
    than: str
    of: str
    sign: str
    limit: float


GOALS = (
    Goal(GET_COST, GET_COST, "twisted", "<=", 0.6),
    Goal(GET_COST, GET_COST, "hypercorn", "<", 1.0),
    Goal(GET_COST, GET_COST, "node", "", 0),
    Goal(GET_OTHERS, GET_OTHERS, "twisted", "", 0),
    Goal(GET_OTHERS, GET_OTHERS, "hypercorn", "", 0),
    Goal(DOWNLOAD, DOWNLOAD, "twisted", "<=", 0.8),
    Goal(DOWNLOAD, DOWNLOAD, "hypercorn", "", 0),
    Goal(DOWNLOAD, DOWNLOAD, "node", "", 0),
    Goal(STREAM, SWITCHED_CONNECTION, OURS, "<=", 1.3),
    Goal(STREAMS, SWITCHED_CONNECTION, OURS, "<", 1.0),
    Goal(GET_BESIDE, GET_ALONE, OURS, "<=", 1.05),
    Goal(MEMORY, "", OURS, "<=", 8.0),
)

Values = dict[str, dict[str, list[float]]]


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


def secured(server: Server, protocol: str) -> ssl.SSLSocket:
    """A connection with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    plain = socket.create_connection((HOST, server.port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain)


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

    rounds: int
    gets: int = 4000
    downloads: int = 100
    echoes: int = 8000


def measure(servers: Sequence[Server], size: Size, values: Values) -> None:
    """One round: each server in turn, thing by thing."""
    for server in servers:
        h2load(server, "/", WARM_UP, 4, GETS_AT_ONCE)
        h2load(server, "/big", 8, 2, 4)
    for server in servers:
        cost = h2load(server, "/", size.gets, 4, GETS_AT_ONCE)
        values[GET_COST][server.kind].append(cost * 1e6)
    for server in servers:
        cost = h2load(server, "/?%d", size.gets, 4, GETS_AT_ONCE)
        values[GET_OTHERS][server.kind].append(cost * 1e6)
    for server in servers:
        cost = h2load(server, "/big", size.downloads, 2, 4)
        values[DOWNLOAD][server.kind].append(cost * 1e6)


def measure_streams(server: Server, size: Size, values: Values) -> None:
    """One round of what only ours does."""

    def add(figure: str, value: float) -> None:
        values[figure][OURS].append(value)

    add(MEMORY, memory_of_streams(server) / 1024)
    add(SWITCHED_CONNECTION, echo_on_connections(server, size.echoes // CONNECTIONS) * 1e6)
    add(STREAM, echo_on_streams(server, CONNECTIONS, 1, size.echoes // CONNECTIONS) * 1e6)
    add(STREAMS, echo_on_streams(server, 1, ON_ONE, size.echoes // ON_ONE) * 1e6)
    alone, beside = get_beside_idle(server, size.gets)
    add(GET_ALONE, alone * 1e6)
    add(GET_BESIDE, beside * 1e6)


@contextmanager
def running(kinds: Sequence[str], certificate: Path, core: int) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Server.running(kind, certificate, core)) for kind in kinds]


def measure_all(kinds: Sequence[str], size: Size, core: int) -> Values:
    """All rounds, each with new servers; whose turn is first changes with each."""
    values: Values = defaultdict(lambda: defaultdict(list))
    with TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for number in range(size.rounds):
            first = number % len(kinds)
            with running([*kinds[first:], *kinds[:first]], certificate, core) as servers:
                measure(servers, size, values)
            with running([OURS], certificate, core) as (server,):
                measure_streams(server, size, values)
    return values


def report(values: Values, kinds: Sequence[str]) -> None:
    """The medians, and the medians of the rounds' ratios."""
    print(f"{'':48}" + "".join(f"{kind:>10}" for kind in kinds))
    for figure, by_kind in values.items():
        medians = {kind: shown(median(measured)) for kind, measured in by_kind.items()}
        print(f"{figure:48}" + "".join(f"{medians.get(kind, ''):>10}" for kind in kinds))
    print()
    for goal in GOALS:
        ours, theirs = values[goal.figure][OURS], values[goal.than][goal.of]
        if not ours or (goal.than and not theirs):
            continue
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True)) if theirs else median(ours)
        met = {"<": ratio < goal.limit, "<=": ratio <= goal.limit}.get(goal.sign)
        verdict = "" if met is None else f"{goal.sign:2} {goal.limit:.2f}  {'ok' if met else 'MISSED'}"
        than = f"to {goal.than if goal.of == OURS else goal.of}" if goal.than else ""
        print(f"{goal.figure:38}{than:50}{ratio:6.3f}  {verdict}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description="What HTTP/2 costs, beside other servers.")
    parser.add_argument("--rounds", type=int, help="how many (default: 9; with --quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--only", help="some of the servers, separated by commas")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        parser.error("h2load is needed: apt install nghttp2-client")
    wanted = options.only.split(",") if options.only else KINDS
    missing = {kind: why for kind in wanted if (why := why_missing(kind))}
    for kind, why in missing.items():
        print(f"without {kind}: {why}")
    size = Size(options.rounds or 9)
    if options.quick:
        size = Size(options.rounds or 2, gets=1000, downloads=30, echoes=2000)
    kinds = [kind for kind in wanted if kind not in missing]
    report(measure_all(kinds, size, prepare()), kinds)


if __name__ == "__main__":
    main()
