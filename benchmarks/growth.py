"""
What many connections cost: up to 20,000 that are switched and idle, on an ``UpgradeSite`` with a limit
for each address, a limit for what is unsent, an observer and a status page; and on ``raw``, an echo
without HTTP.

A connection must not cost more, and the others must not wait longer, the more there are.
"""

from __future__ import annotations

import argparse
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from switching import (
    HOST,
    SHORT,
    Control,
    Echo,
    Load,
    Server,
    check,
    factory_of,
    prepare,
    shown,
    switched,
)
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.observe import Status, StatusResource

KINDS = ("raw", "switch")
STEPS = (1000, 5000, 10000, 20000)
CLOSING = 5000
# Descriptors for everything else, on either side.
OTHERS = 100
# Seconds.
TARGET_STALL = 0.1


class GrowthControl(Control):
    """Answers one question more: how many milliseconds of CPU it takes to drain the site."""

    site: UpgradeSite | None = None

    def lineReceived(self, line: bytes) -> None:
        if line != b"drain":
            super().lineReceived(line)
            return
        assert self.site is not None
        began = time.process_time_ns()
        drained = self.site.drain(0)
        drained.addCallback(lambda _: self.sendLine(b"%d" % (time.process_time_ns() - began)))


def serve(kind: str) -> None:
    """Be one of the servers, until standard input ends."""
    raise_limit()
    reactor: Any = import_module("twisted.internet.reactor")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    factory: Factory[Any] = factory_of("raw") if kind == "raw" else site_of(reactor)
    port = reactor.listenTCP(0, factory, backlog=128, interface=HOST)
    control = GrowthControl(reactor, port.getHost().port)
    control.site = factory if isinstance(factory, UpgradeSite) else None
    StandardIO(control)
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


def raise_limit() -> int:
    """Take as many descriptors as this process may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextmanager
def waiting(server: Server) -> Iterator[list[float]]:
    """
    Echo, meanwhile, on one of the connections.

    :return: how long the answers took, in seconds.
    """
    took: list[float] = []
    over = threading.Event()
    connection = switched(server)

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


def grow(server: Server, most: int) -> None:
    """Add connections in steps, look at each, and then end many at once, and all."""
    connections: list[socket.socket] = []
    print(f"{server.kind}:\n{'connections':>13}{'KiB each':>10}{'CPU µs each':>13}{'status, ms':>12}")
    for step in STEPS:
        before, held = server.ask(b"memory"), len(connections)
        load = Load(server)
        connections += [switched(server) for _ in range(min(step, most) - held)]
        load.end()
        added = len(connections) - held
        each = (server.ask(b"memory") - before) / added / 1024
        line = f"{len(connections):13,}{each:10.2f}{load.cpu / added * 1e6:13.0f}"
        if server.kind == "switch":
            line += f"{ask_for_status(server) * 1e3:12.1f}"
        print(line)
    with waiting(server) as took:
        for connection in connections[:CLOSING]:
            connection.close()
        if server.kind == "switch":
            ask_for_status(server)
    verdict = "ok" if max(took) <= TARGET_STALL else "MISSED"
    print(f"longest echo while {CLOSING:,} close: {max(took) * 1e3:.0f} ms  {verdict}")
    if server.kind == "switch":
        left = len(connections) - CLOSING
        print(f"drain of {left:,}: {shown(server.ask(b'drain') / left / 1e3)} µs of CPU each")
    for connection in connections:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="What many idle connections cost.")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    core = prepare()
    most = min(STEPS[-1], raise_limit() - OTHERS)
    if most < STEPS[-1]:
        print(f"no more than {most:,} connections: the limit for open files (ulimit -Hn)")
    for kind in KINDS:
        with Server.running(kind, core, __file__) as server:
            grow(server, most)


if __name__ == "__main__":
    main()
