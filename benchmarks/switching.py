"""
What a switch costs: ``UpgradeSite`` beside the two things that it is measured by.

- ``raw``: a Twisted echo protocol on a port, without HTTP;
- ``trick``: a plain ``twisted.web.server.Site`` with a resource that steals the transport;
- ``switch``: an ``UpgradeSite`` with an ``UpgradeResource``.

Each is a server in a process of its own, all on one core; the load comes from this process, on
another core. The three take turns in every round, and a ratio is the median of the rounds' ratios:
the ratios are the result, the absolute figures are this machine's, now. Run it with ``--help``.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from upgrade_switch import UpgradeResource, UpgradeSite

KINDS = ("raw", "trick", "switch")
HOST = "127.0.0.1"

# As few fields as an upgrade has: every further one costs both sites the same, and flatters a ratio.
REQUEST = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
END_OF_HEAD = b"\r\n\r\n"

PARALLEL = 32
ECHOING = 8
SHORT = bytes(16)
SMALL = bytes(64)
LARGE = bytes(64 * 1024)
STUCK = 20  # seconds without any answer


# The servers.


class Echo(Protocol):
    """Sends back what it gets."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class StolenTransport(Resource):
    """
    The recipe in use, as in autobahn's ``WebSocketResource``, with nothing that an echo can do
    without: it does not look at what the client offers, and loses what follows the request.
    """

    isLeaf = True

    def __init__(self, factory: Factory) -> None:
        super().__init__()
        self._factory = factory

    def render(self, request: Any) -> int:
        target: Any = self._factory.buildProtocol(request.getClientAddress())
        request.transport.write(ANSWER)
        transport, request.channel.transport = request.channel.transport, None
        transport.protocol = target
        target.makeConnection(transport)
        transport.resumeProducing()
        return NOT_DONE_YET


def factory_of(kind: str) -> Factory:
    """What a server listens with; the sites write no access log."""
    echo = Factory.forProtocol(Echo)
    if kind == "raw":
        return echo
    root = Resource()
    site: Site
    if kind == "trick":
        root.putChild(b"echo", StolenTransport(echo))
        site = Site(root)
    else:
        root.putChild(b"echo", UpgradeResource({"echo": echo}))
        site = UpgradeSite(root)
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


class Control(LineOnlyReceiver):
    """Answers the load's questions about this process, on standard input and output."""

    delimiter = b"\n"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        if line == b"cpu":
            self.sendLine(str(time.process_time_ns()).encode())
        else:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.sendLine(str(pages * resource.getpagesize()).encode())

    def connectionLost(self, reason: Any = None) -> None:
        self._reactor.stop()


def serve(kind: str) -> None:
    """Be one of the servers, until standard input ends."""
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    port = reactor.listenTCP(0, factory_of(kind), backlog=128, interface=HOST)  # type: ignore[attr-defined]
    print(port.getHost().port, flush=True)
    StandardIO(Control(reactor))
    reactor.run()  # type: ignore[attr-defined]


@dataclass
class Server:
    """A server's process, as the load sees it."""

    kind: str
    process: subprocess.Popen[bytes]
    port: int

    def ask(self, question: str) -> int:
        """``cpu``: nanoseconds so far; ``memory``: resident bytes, after a garbage collection."""
        assert self.process.stdin is not None
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    @classmethod
    @contextmanager
    def running(cls, kind: str, core: int) -> Iterator[Server]:
        command = [sys.executable, __file__, "--serve", kind]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                os.sched_setaffinity(process.pid, {core})
                server = cls(kind, process, 0)
                server.port = server._answer()
                yield server
                assert process.stdin is not None
                process.stdin.close()
                process.wait(STUCK)
            finally:
                process.kill()


# The load.


def begin(server: Server) -> socket.socket:
    """Connect, and ask for the switch where there is one."""
    connection = socket.create_connection((HOST, server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(SHORT if server.kind == "raw" else REQUEST)
    return connection


def switched(server: Server) -> socket.socket:
    """A connection that has been through all of :func:`switch_many`'s steps but the last."""
    connection = begin(server)
    if server.kind != "raw":
        check(connection.recv(4096).endswith(END_OF_HEAD))
        connection.sendall(SHORT)
    check(connection.recv(4096) == SHORT)
    return connection


def check(answered: bool) -> None:
    if not answered:
        raise RuntimeError("a server answered something else")


def waited(poll: select.epoll) -> list[tuple[int, int]]:
    events = poll.poll(STUCK)
    if not events:
        raise TimeoutError("a server does not answer")
    return events


@dataclass
class Load:
    """What a server had to do in one turn."""

    seconds: float
    cpu: float
    latencies: list[float]

    @property
    def busy(self) -> float:
        return self.cpu / self.seconds


def switch_many(server: Server, count: int) -> Load:
    """
    Connect, switch, send 16 bytes there and back, close; with a fixed number at the same time.

    The steps of a connection are few system calls each, so that the server is what one waits for.
    """
    poll, latencies = select.epoll(), []
    open_now: dict[int, tuple[socket.socket, float]] = {}
    heads: set[int] = set()
    left, clock = count, time.perf_counter
    cpu, began = server.ask("cpu"), clock()
    while left or open_now:
        while left and len(open_now) < PARALLEL:
            started = clock()
            connection = begin(server)
            number = connection.fileno()
            open_now[number] = connection, started
            if server.kind != "raw":
                heads.add(number)
            poll.register(number, select.EPOLLIN)
            left -= 1
        for number, _ in waited(poll):
            connection, started = open_now[number]
            answer = connection.recv(4096)
            if number in heads:
                check(answer.endswith(END_OF_HEAD))
                heads.discard(number)
                connection.send(SHORT)
            else:
                check(answer == SHORT)
                latencies.append(clock() - started)
                connection.close()
                del open_now[number]
    seconds = clock() - began
    poll.close()
    return Load(seconds, (server.ask("cpu") - cpu) / 1e9, latencies)


def echo_many(server: Server, payload: bytes, count: int) -> Load:
    """Send a payload there and back, again and again, on a few connections that are switched."""
    connections = {c.fileno(): c for c in (switched(server) for _ in range(ECHOING))}
    missing = dict.fromkeys(connections, len(payload))
    buffer = bytearray(len(payload))
    poll = select.epoll()
    left = count - len(connections)
    cpu, began = server.ask("cpu"), time.perf_counter()
    for number, connection in connections.items():
        poll.register(number, select.EPOLLIN)
        connection.sendall(payload)
    while missing:
        for number, _ in waited(poll):
            connection = connections[number]
            received = connection.recv_into(buffer)
            check(received > 0)
            missing[number] -= received
            if missing[number]:
                continue
            if left:
                left -= 1
                missing[number] = len(payload)
                connection.sendall(payload)
            else:
                del missing[number]
    seconds = time.perf_counter() - began
    load = Load(seconds, (server.ask("cpu") - cpu) / 1e9, [])
    poll.close()
    for connection in connections.values():
        connection.close()
    return load


def bytes_each(kind: str, core: int, count: int) -> float:
    """What an idle connection takes, in a server that has just been started."""
    with Server.running(kind, core) as server:
        switch_many(server, 200)
        before = server.ask("memory")
        connections = [switched(server) for _ in range(count)]
        after = server.ask("memory")
        for connection in connections:
            connection.close()
    return (after - before) / count


# The figures.


@dataclass(frozen=True)
class Target:
    """A limit for the ratio of ``switch`` to another kind; ``sign`` says on which side of it to be."""

    other: str
    sign: str = ""
    limit: float = 0

    def verdict(self, ratio: float) -> str:
        if not self.sign:
            return ""
        met = {"<": ratio < self.limit, "<=": ratio <= self.limit, ">=": ratio >= self.limit}
        return f"{self.sign} {self.limit:.2f}  {'ok' if met[self.sign] else 'MISSED'}"


FIGURES = {
    "CPU a switch, µs": (Target("trick", "<", 1.0), Target("raw")),
    "p50 of a switch, ms": (Target("raw"),),
    "p99 of a switch, ms": (Target("raw", "<=", 2.0),),
    "64-byte echoes a second": (Target("raw", ">=", 0.95),),
    "64 KiB echoed, MB/s": (Target("raw", ">=", 0.95),),
    "idle connection, KiB": (Target("raw", "<=", 1.35),),
}
# What is no figure, but says whether the figures are the server's.
BUSY = {"switch": "switches", "small": "64-byte echoes", "large": "64 KiB echoes"}

Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Size:
    """How much is done: of each thing, by each server, in each round."""

    rounds: int
    switches: int = 2000
    small: int = 12000
    large: int = 2000
    idle: int = 5000
    idle_rounds: int = 2


def measure(servers: Sequence[Server], size: Size, values: Values) -> None:
    """One round: each server in turn, thing by thing."""
    for server in servers:
        load = switch_many(server, size.switches)
        cuts = quantiles(load.latencies, n=100)
        values["CPU a switch, µs"][server.kind].append(load.cpu / size.switches * 1e6)
        values["p50 of a switch, ms"][server.kind].append(cuts[49] * 1e3)
        values["p99 of a switch, ms"][server.kind].append(cuts[98] * 1e3)
        values["switch"][server.kind].append(load.busy)
    for server in servers:
        load = echo_many(server, SMALL, size.small)
        values["64-byte echoes a second"][server.kind].append(size.small / load.seconds)
        values["small"][server.kind].append(load.busy)
    for server in servers:
        load = echo_many(server, LARGE, size.large)
        megabytes = size.large * len(LARGE) / 1e6
        values["64 KiB echoed, MB/s"][server.kind].append(megabytes / load.seconds)
        values["large"][server.kind].append(load.busy)


def measure_all(size: Size, core: int) -> Values:
    """All rounds; whose turn is first changes with each."""
    values: Values = {name: {kind: [] for kind in KINDS} for name in (*FIGURES, *BUSY)}
    with ExitStack() as stack:
        servers = [stack.enter_context(Server.running(kind, core)) for kind in KINDS]
        for server in servers:
            switch_many(server, 500)
        for number in range(size.rounds):
            first = number % len(servers)
            measure(servers[first:] + servers[:first], size, values)
    for _ in range(size.idle_rounds):
        for kind in KINDS:
            kibibytes = bytes_each(kind, core, size.idle) / 1024
            values["idle connection, KiB"][kind].append(kibibytes)
    return values


def report(values: Values) -> None:
    """The table."""
    print(f"{'':26}{'':>10}{'':>10}{'':>10}  switch/…".rstrip())
    print(f"{'median':26}" + "".join(f"{kind:>10}" for kind in KINDS) + "  ratio        target")
    for name, targets in FIGURES.items():
        of_kind = values[name]
        line = f"{name:26}" + "".join(f"{median(of_kind[kind]):>10,.4g}" for kind in KINDS)
        for target in targets:
            pairs = zip(of_kind["switch"], of_kind[target.other], strict=True)
            ratio = median(ours / theirs for ours, theirs in pairs)
            print(f"{line}  {ratio:.3f} {target.other:7}{target.verdict(ratio)}".rstrip())
            line = " " * len(line)
    for name, what in BUSY.items():
        shares = "".join(f"{median(values[name][kind]):>10.0%}" for kind in KINDS)
        print(f"{'server busy, ' + what:26.26}{shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="how many rounds (default: 15)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load: a look, no result")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.serve:
        serve(options.serve)
        return
    server_core, *others = sorted(os.sched_getaffinity(0))
    if not others:
        print("only one core: the load takes its time from the servers")
    os.sched_setaffinity(0, {others[0] if others else server_core})
    gc.disable()
    size = (
        Size(min(options.rounds, 3), 500, 2000, 400, 1000, 1) if options.quick else Size(options.rounds)
    )
    report(measure_all(size, server_core))


if __name__ == "__main__":
    main()
