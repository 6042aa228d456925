"""
What many connections cost: up to 20,000 that are switched and idle, on an ``UpgradeSite`` with a limit
for each address, a limit for what is unsent, an observer and a status page; and on ``raw``, an echo
without HTTP.

A connection must not cost more, and the others must not wait longer, the more there are.
"""

from __future__ import annotations

import argparse
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from figures import Comparison, Goal, options_of, publish
from load import idle
from processes import HOST, Server, check, on_core, prepare, raise_limit
from servers import Echo
from switching import ORDINARY, SHORT, dialogue
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite
from upgrade_switch.observe import Status, StatusResource

KINDS = {"raw": "a Twisted protocol, without HTTP", "switch": "UpgradeSite, as large sites have it"}
STEPS = (1000, 5000, 10000, 20000)
PARTS = 10
"""Of each step: in each part, the servers have their turns."""
CLOSING, SECONDS_TO_CLOSE = 5000, 0.5
# Descriptors for everything else, on either side.
OTHERS = 100
STALL, LONGEST = f"an echo while {CLOSING:,} close", "longest, ms"
EACH = "CPU each, µs"


def goals_of(steps: Sequence[int]) -> Sequence[Goal]:
    """What each step's connections cost is shown beside raw's: that is to be the same in all steps."""
    return (
        Goal(STALL, LONGEST, "switch", "", "<=", 100),
        *(Goal(f"to {step:,} connections", EACH, "switch", "raw") for step in steps),
    )


class Control(LineOnlyReceiver):
    """Answers the load's questions about this process, on standard input and output."""

    delimiter = b"\n"

    def __init__(self, reactor: Any, port: int, factory: Factory[Any]) -> None:
        self._reactor = reactor
        self._port = port
        self._factory = factory

    def lineReceived(self, line: bytes) -> None:
        if line == b"port":
            self._answer(self._port)
        elif line == b"collect":
            self._answer(gc.collect())
        elif isinstance(self._factory, UpgradeSite):
            began = time.process_time_ns()
            drained = self._factory.drain(0)
            drained.addCallback(lambda _: self._answer(time.process_time_ns() - began))

    def _answer(self, number: int) -> None:
        self.sendLine(b"%d" % number)

    def connectionLost(self, reason: object = None) -> None:
        self._reactor.stop()


class Asked(Server):
    """A server that answers questions."""

    def __init__(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        super().__init__(kind, self.ask(b"port"), process.pid)

    def ask(self, question: bytes) -> int:
        """``collect``: collects garbage; ``drain``: drains the site, in so many nanoseconds of CPU."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def asked(kind: str, core: int) -> Iterator[Asked]:
    """A server, while it runs."""
    command, pipe = [sys.executable, __file__, "--serve", kind], subprocess.PIPE
    with on_core(core):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
    with process:
        try:
            yield Asked(kind, process)
        finally:
            process.kill()


def serve(kind: str) -> None:
    """Be one of the servers, until standard input ends."""
    raise_limit()
    reactor: Any = import_module("twisted.internet.reactor")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    factory: Factory[Any] = Factory.forProtocol(Echo) if kind == "raw" else site_of(reactor)
    reactor.callWhenRunning(listen, reactor, factory)
    reactor.run()


def listen(reactor: Any, factory: Factory[Any]) -> None:
    """On a port that is free now."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    endpoint = TCP4ServerEndpoint(reactor, port, backlog=128, interface=HOST)
    if isinstance(factory, UpgradeSite):
        UpgradeService(endpoint, factory).startService()
    else:
        endpoint.listen(factory)
    StandardIO(Control(reactor, port, factory))


def site_of(reactor: Any) -> UpgradeSite:
    """A site as large ones have it."""
    status = Status(reactor)
    root = Resource()
    root.putChild(b"echo", UpgradeResource({"echo": Factory.forProtocol(Echo)}))
    root.putChild(b"status", StatusResource(status))
    limits: dict[str, Any] = {"max_switched": 100_000, "max_per_address": 100_000}
    site = UpgradeSite(root, reactor=reactor, observers=[status], max_unsent=1 << 20, **limits)
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


@contextmanager
def waiting(server: Server) -> Iterator[list[float]]:
    """
    Echo, meanwhile, on one of the connections.

    :return: how long the answers took, in seconds.
    """
    took: list[float] = []
    over = threading.Event()
    connection = socket.create_connection((HOST, server.port))
    if server.kind != "raw":
        connection.sendall(ORDINARY)
        check(connection.recv(4096).endswith(b"\r\n\r\n"))

    def echo() -> None:
        while not over.is_set():
            began = time.perf_counter()
            connection.sendall(SHORT)
            check(connection.recv(4096) == SHORT)
            took.append(time.perf_counter() - began)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()
        connection.close()


def ask_for_status(server: Server) -> float:
    """How long it takes to be told of all connections, in seconds."""
    began = time.perf_counter()
    with socket.create_connection((HOST, server.port)) as client:
        client.sendall(b"GET /status/json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = client.recv(65536)
        check(b" 200 " in head[:20])
        while client.recv(65536):
            pass
    return time.perf_counter() - began


class Growing:
    """A server that has more and more connections."""

    def __init__(self, comparison: Comparison, server: Asked, stack: ExitStack) -> None:
        """
        :param stack: has the connections end.
        """
        self._add = comparison.add
        self._server = server
        self._stack = stack
        self._said = dialogue(server.kind, SHORT)
        self._held = 0
        self._ends: list[Callable[[], None]] = []
        # As large as it was before this step.
        self._before = self._cpu = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._server.ask(b"collect")
        self._before, self._cpu = self._server.memory, 0.0
        self._ends = []

    def grow(self, more: int) -> None:
        """A part of a step."""
        cpu = self._server.cpu
        self._ends.append(self._stack.enter_context(idle(self._server, self._said, more)))
        self._cpu += self._server.cpu - cpu

    def end(self, step: int) -> list[Callable[[], None]]:
        """
        Look at what a step has added.

        :param step: how many connections there are now.
        :return: these end what the step has begun.
        """
        table, kind, added = f"to {step:,} connections", self._server.kind, step - self._held
        self._held = step
        self._add(table, EACH, kind, self._cpu / added * 1e6)
        self._server.ask(b"collect")
        self._add(table, "KiB each", kind, (self._server.memory - self._before) / added / 1024)
        if kind == "switch":
            self._add(table, "status, ms", kind, ask_for_status(self._server) * 1e3)
        return self._ends

    def close(self, ends: Sequence[Callable[[], None]]) -> None:
        """End many at once, while somebody else is there; and then, those that are left."""
        kind, cpu = self._server.kind, self._server.cpu
        ended = f"the end of {CLOSING:,}"
        with waiting(self._server) as took:
            for end in ends:
                end()
            if kind == "switch":
                ask_for_status(self._server)
            time.sleep(SECONDS_TO_CLOSE)
        # The echoes are in it, too; there are few.
        self._add(ended, EACH, kind, (self._server.cpu - cpu) / CLOSING * 1e6)
        self._add(STALL, LONGEST, kind, max(took) * 1e3)
        if kind == "switch":
            left = self._held - CLOSING
            self._add(f"drain of {left:,}", EACH, kind, self._server.ask(b"drain") / left / 1e3)


def grow(comparison: Comparison, servers: Sequence[Asked], steps: Sequence[int]) -> None:
    """Add connections in steps, to all of the servers in turns; then end many at once, and all."""
    with ExitStack() as stack:
        growing = [Growing(comparison, server, stack) for server in servers]
        held, many = 0, []
        for step in steps:
            for each in growing:
                each.begin()
            for number in range(PARTS):
                for each in growing[number % 2 :] + growing[: number % 2]:
                    each.grow((step - held) // PARTS)
            ends = [each.end(step) for each in growing]
            if step - held == CLOSING:
                many = ends
            held = step
        for each, closing in zip(growing, many, strict=True):
            each.close(closing)


def main() -> None:
    options = options_of(
        "What many idle connections cost.",
        1,
        1,
        lambda parser: parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS),
    )
    if options.extra.serve:
        serve(options.extra.serve)
        return
    core = prepare()
    most = min(STEPS[-1], raise_limit() - OTHERS)
    steps = [min(step, most) // 100 * 100 for step in (STEPS[:3] if options.is_quick else STEPS)]
    if most < STEPS[-1]:
        print(f"no more than {most:,} connections: the limit for open files (ulimit -Hn)")
    comparison = Comparison("Growth", KINDS, options.rounds)
    for _ in range(options.rounds):
        with ExitStack() as stack:
            grow(comparison, [stack.enter_context(asked(kind, core)) for kind in KINDS], steps)
    publish(comparison.section(goals_of(steps)), options)


if __name__ == "__main__":
    main()
