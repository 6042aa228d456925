"""
What a switch costs: ``UpgradeSite`` beside the two things that it is measured by.

- ``raw``: a Twisted echo protocol on a port, without HTTP;
- ``trick``: a plain ``twisted.web.server.Site`` with a resource that steals the transport;
- ``switch``: an ``UpgradeSite`` with an ``UpgradeResource``, on a port of the reactor's;
- ``service``: the same with an ``UpgradeService``, whose switched connections send at once.

Each is a server in a process of its own, all on one core; the load comes from this process, on
another core. Every round starts three new servers, which take turns, and a ratio is the median of
the rounds' ratios: the ratios are the result, the absolute figures are this machine's, now.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite

KINDS = ("raw", "trick", "switch", "service")
HOST = "127.0.0.1"

# A browser's request, and one with as few fields as an upgrade has: the fewer there are to read, the
# more of a ratio is the switch itself.
BARE = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ORDINARY = BARE[:-2] + (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Origin: http://localhost\r\nCookie: session=0123456789abcdef\r\nPragma: no-cache\r\n\r\n"
)
REQUEST = BARE if "--bare" in sys.argv else ORDINARY
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"

PARALLEL = 32
ECHOING = 8
WARM_UP = 400
SHORT, SMALL, LARGE = bytes(16), bytes(128), bytes(64 * 1024)
STUCK = 20  # seconds without any answer


# The servers.


class Echo(Protocol):
    """Sends back what it gets."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)


class StolenTransport(Resource):
    """
    The recipe in use, as in autobahn's ``WebSocketResource``, with nothing that an echo can do
    without: it does not look at what the client offers, and loses what follows the request.
    """

    isLeaf = True

    def __init__(self, factory: Factory[Any]) -> None:
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


def factory_of(kind: str) -> Factory[Any]:
    """What a server listens with; the sites write no access log."""
    echo: Factory[Any] = Factory.forProtocol(Echo)
    if kind == "raw":
        return echo
    root = Resource()
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

    def __init__(self, reactor: Any, port: int) -> None:
        self._reactor = reactor
        self._port = port

    def lineReceived(self, line: bytes) -> None:
        answers = {b"port": lambda: self._port, b"cpu": time.process_time_ns, b"memory": resident}
        self.sendLine(b"%d" % answers[line]())

    def connectionLost(self, reason: object = None) -> None:
        self._reactor.stop()


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Endpoint:
    """A server endpoint that remembers its port."""

    port: Any

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def listen(self, factory: Any) -> Deferred[Any]:
        self.port = self._reactor.listenTCP(0, factory, backlog=128, interface=HOST)
        return succeed(self.port)


def serve(factory: Factory[Any], as_service: bool) -> None:
    """Be one of the servers, until standard input ends."""
    reactor: Any = import_module("twisted.internet.reactor")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    endpoint: Any = Endpoint(reactor)
    if as_service:
        UpgradeService(endpoint, cast("UpgradeSite", factory)).startService()
    else:
        endpoint.listen(factory)
    StandardIO(Control(reactor, endpoint.port.getHost().port))
    reactor.run()


class Server:
    """A server's process, as the load sees it."""

    def __init__(self, kind: str, process: Any) -> None:
        self.kind = kind
        self._process = process
        self.port = self.ask(b"port")

    def ask(self, question: bytes) -> int:
        """``cpu``: nanoseconds so far; ``memory``: resident bytes, after a garbage collection."""
        self._process.stdin.write(question + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    @classmethod
    @contextmanager
    def running(cls, kind: str, core: int, script: str = __file__) -> Iterator[Server]:
        command, pipe = [sys.executable, script, "--serve", kind], subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            try:
                os.sched_setaffinity(process.pid, {core})
                yield cls(kind, process)
            finally:
                process.kill()


# The load.


def begin(server: Server) -> socket.socket:
    """Connect, and ask for the switch where there is one."""
    connection = socket.socket()
    connection.connect((HOST, server.port))
    connection.sendall(SHORT if server.kind == "raw" else REQUEST)
    return connection


def switched(server: Server) -> socket.socket:
    """A connection that has been through all of :func:`switch_many`'s steps but the last."""
    connection = begin(server)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if server.kind != "raw":
        check(connection.recv(4096).endswith(b"\r\n\r\n"))
        connection.sendall(SHORT)
    check(connection.recv(4096) == SHORT)
    return connection


def check(answered: bool) -> None:
    if not answered:
        raise RuntimeError("a server does not answer as it should")


def waited(poll: select.epoll) -> list[tuple[int, int]]:
    check(bool(events := poll.poll(STUCK)))
    return events


class Load:
    """What a server does between :meth:`__init__` and :meth:`end`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu = server.ask(b"cpu")
        self._began = time.perf_counter()

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = (self._server.ask(b"cpu") - self._cpu) / 1e9
        self.busy = self.cpu / self.seconds * 100


def switch_many(server: Server, count: int) -> tuple[Load, list[float]]:
    """
    Connect, switch, send 16 bytes there and back, close; with a fixed number at the same time.

    Each is few system calls here, so that the server is what one waits for.

    :return: the load, and how long each took, in seconds.
    """
    took: list[float] = []
    began: dict[int, tuple[float, socket.socket]] = {}
    heads: set[int] = set()
    left, clock = count, time.perf_counter
    load = Load(server)
    with select.epoll() as poll:
        while left or began:
            while left and len(began) < PARALLEL:
                left, now, connection = left - 1, clock(), begin(server)
                number = connection.fileno()
                began[number] = now, connection
                if server.kind != "raw":
                    heads.add(number)
                poll.register(number, select.EPOLLIN)
            for number, _ in waited(poll):
                started, connection = began[number]
                answer = connection.recv(4096)
                if number in heads:
                    check(answer.endswith(b"\r\n\r\n"))
                    heads.discard(number)
                    connection.send(SHORT)
                else:
                    check(answer == SHORT)
                    took.append(clock() - started)
                    connection.close()
                    del began[number]
    load.end()
    return load, took


def echo_many(
    server: Server,
    connect: Callable[[Server], socket.socket],
    payload: bytes,
    times: int,
    answer: int | None = None,
) -> Load:
    """
    Send a payload there and back so many times, on each of a few connections.

    :param answer: how many bytes come back; as many as have been sent, where nothing is said.
    """
    length = answer or len(payload)
    connections = {c.fileno(): c for c in (connect(server) for _ in range(ECHOING))}
    left = dict.fromkeys(connections, times * length)
    buffer = bytearray(length)
    load = Load(server)
    with select.epoll() as poll:
        for number, connection in connections.items():
            poll.register(number, select.EPOLLIN)
            connection.sendall(payload)
        while left:
            for number, _ in waited(poll):
                received = connections[number].recv_into(buffer)
                check(received > 0)
                left[number] -= received
                if not left[number]:
                    del left[number]
                elif left[number] % length == 0:
                    connections[number].sendall(payload)
    load.end()
    for connection in connections.values():
        connection.close()
    return load


def bytes_each(kind: str, core: int, count: int) -> float:
    """What an idle connection takes, in a server that has just been started."""
    with Server.running(kind, core) as server:
        switch_many(server, WARM_UP)
        before = server.ask(b"memory")
        connections = [switched(server) for _ in range(count)]
        after = server.ask(b"memory")
        for connection in connections:
            connection.close()
    return (after - before) / count


# The figures.


@dataclass(frozen=True)
class Target:
    """A limit for the ratio of ours to another kind; ``sign`` says on which side of it to be."""

    other: str
    sign: str = ""
    limit: float = 0

    def verdict(self, ratio: float) -> str:
        met = {"<": ratio < self.limit, "<=": ratio <= self.limit, ">=": ratio >= self.limit}
        verdict = "ok" if met.get(self.sign) else "MISSED"
        return f"{self.sign:2} {self.limit:.2f}  {verdict}" if self.sign else ""


FIGURES = {
    "CPU a switch, µs": (Target("trick", "<", 1.0), Target("raw", "<=", 1.8)),
    "p50 of a switch, ms": (Target("raw"),),
    "p99 of a switch, ms": (Target("raw", "<=", 2.0),),
    "128-byte echoes a CPU second": (Target("raw", ">=", 1.5), Target("switch")),
    "64 KiB echoes a CPU second": (Target("raw", ">=", 0.95), Target("switch")),
    "idle connection, KiB": (Target("raw", "<=", 1.35),),
    # No figures of the servers': where one was not busy all the time, something else was the limit.
    "busy with switches, %": (),
    "busy with 128-byte echoes, %": (),
    "busy with 64 KiB echoes, %": (),
}

Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Size:
    """How much is done: of each thing, by each server, in each round."""

    rounds: int
    switches: int = 1500
    small: int = 1500
    large: int = 250
    idle: int = 5000


def measure(servers: Sequence[Server], size: Size, values: Values) -> None:
    """One round: each server in turn, thing by thing."""
    for server in servers:
        switch_many(server, WARM_UP)
    for server in servers:
        load, took = switch_many(server, size.switches)
        percentiles = quantiles(took, n=100)
        values["CPU a switch, µs"][server.kind].append(load.cpu / size.switches * 1e6)
        values["p50 of a switch, ms"][server.kind].append(percentiles[49] * 1e3)
        values["p99 of a switch, ms"][server.kind].append(percentiles[98] * 1e3)
        values["busy with switches, %"][server.kind].append(load.busy)
    for name, payload, times in (("128-byte", SMALL, size.small), ("64 KiB", LARGE, size.large)):
        for server in servers:
            load = echo_many(server, switched, payload, times)
            a_second = times * ECHOING / load.cpu
            values[f"{name} echoes a CPU second"][server.kind].append(a_second)
            values[f"busy with {name} echoes, %"][server.kind].append(load.busy)


def rounds(count: int, kinds: tuple[str, ...], core: int, script: str) -> Iterator[list[Server]]:
    """The servers of each round, new ones; whose turn is first changes with each."""
    for number in range(count):
        first = number % len(kinds)
        with ExitStack() as stack:
            turns = kinds[first:] + kinds[:first]
            yield [stack.enter_context(Server.running(kind, core, script)) for kind in turns]


def measure_all(size: Size, core: int) -> Values:
    """All rounds."""
    values: Values = {name: {kind: [] for kind in KINDS} for name in FIGURES}
    for servers in rounds(size.rounds, KINDS, core, __file__):
        measure(servers, size, values)
    for kind in KINDS * 2:
        values["idle connection, KiB"][kind].append(bytes_each(kind, core, size.idle) / 1024)
    return values


def report(values: Values, figures: dict[str, tuple[Target, ...]]) -> None:
    """The table: medians, and the median ratio of the last kind, which is ours, to another."""
    kinds = list(next(iter(values.values())))
    ours = kinds[-1]
    print(f"{'':29}" + "".join(f"{kind:>9}" for kind in kinds) + f"    {ours} to    target")
    for name, targets in figures.items():
        line = f"{name:29}" + "".join(f"{shown(median(values[name][kind])):>9}" for kind in kinds)
        for target in targets:
            pairs = zip(values[name][ours], values[name][target.other], strict=True)
            ratio = median(ours / theirs for ours, theirs in pairs)
            said = f"{target.other:{len(ours) - 1}} {ratio:5.3f}  {target.verdict(ratio)}"
            print(f"{line}    {said}".rstrip())
            line = " " * len(line)
        if not targets:
            print(line)


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def prepare() -> int:
    """
    Make this process the load.

    :return: the core that is the servers'.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server_core, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others[:1] or {server_core})
    gc.disable()
    return server_core


def main() -> None:
    parser = argparse.ArgumentParser(description="What a switch costs, beside raw TCP and the trick.")
    parser.add_argument("--rounds", type=int, help="how many (default: 15; with --quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--bare", action="store_true", help="requests of three fields")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(factory_of(options.serve), options.serve == "service")
        return
    server_core = prepare()
    if options.quick:
        size = Size(options.rounds or 2, switches=500, small=250, large=50, idle=1000)
    else:
        size = Size(options.rounds or 15)
    report(measure_all(size, server_core), FIGURES)


if __name__ == "__main__":
    main()
