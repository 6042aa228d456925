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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from figures import Comparison, Goal, options_of, publish
from load import idle
from processes import HOST, Server, check, on_core, prepare, raise_limit
from servers import Echo
from switching import ORDINARY, SHORT, dialogue
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.observe import Status, StatusResource

KINDS = {"raw": "a Twisted protocol, without HTTP", "switch": "UpgradeSite, as large sites have it"}
STEPS = (1000, 5000, 10000, 20000)
CLOSING = 5000
# Descriptors for everything else, on either side.
OTHERS = 100
STALL, LONGEST = f"an echo while {CLOSING:,} close", "longest, ms"
GOALS = (Goal(STALL, LONGEST, "switch", "", "<=", 100),)


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
    port = reactor.listenTCP(0, factory, backlog=128, interface=HOST)
    StandardIO(Control(reactor, port.getHost().port, factory))
    reactor.run()


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
    """How long the status page takes, in seconds."""
    began = time.perf_counter()
    with socket.create_connection((HOST, server.port)) as client:
        client.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = client.recv(65536)
        check(b" 200 " in head[:20])
        while client.recv(65536):
            pass
    return time.perf_counter() - began


def grow(comparison: Comparison, server: Asked, steps: Sequence[int]) -> None:
    """Add connections in steps, look at each, and then end many at once, and all."""
    kind, said = server.kind, dialogue(server.kind, SHORT)
    with ExitStack() as stack:
        held = 0
        for step in steps:
            table = f"to {step:,} connections"
            server.ask(b"collect")
            before, cpu = server.memory, server.cpu
            closing = ExitStack()
            closing.enter_context(idle(server, said, step - held))
            comparison.add(table, "CPU each, µs", kind, (server.cpu - cpu) / (step - held) * 1e6)
            server.ask(b"collect")
            comparison.add(table, "KiB each", kind, (server.memory - before) / (step - held) / 1024)
            if kind == "switch":
                comparison.add(table, "status page, ms", kind, ask_for_status(server) * 1e3)
            stack.push(closing)
            if step - held == CLOSING:
                many = closing
            held = step
        with waiting(server) as took:
            many.close()
            if kind == "switch":
                ask_for_status(server)
        comparison.add(STALL, LONGEST, kind, max(took) * 1e3)
        if kind == "switch":
            left = held - CLOSING
            comparison.add(
                f"drain of {left:,}", "CPU each, µs", kind, server.ask(b"drain") / left / 1e3
            )


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
    steps = [min(step, most) for step in (STEPS[:3] if options.is_quick else STEPS)]
    if most < STEPS[-1]:
        print(f"no more than {most:,} connections: the limit for open files (ulimit -Hn)")
    comparison = Comparison("Growth", KINDS, options.rounds)
    for _ in range(options.rounds):
        for kind in KINDS:
            with asked(kind, core) as server:
                grow(comparison, server, steps)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
