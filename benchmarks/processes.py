"""
The processes of the benchmarks: the servers on one core, the load on another, and what a server takes
of CPU and memory, as the operating system accounts for it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from peers import Peer
from peers import running as running_peer

__all__ = [
    "HOST",
    "STUCK",
    "Server",
    "Wrong",
    "check",
    "end_in_order",
    "listening",
    "on_core",
    "prepare",
    "raise_limit",
    "running",
    "waited",
]

HOST = "127.0.0.1"
STUCK = 20  # seconds without any answer


class Wrong(RuntimeError):
    """A server, or a proxy, does not do what it should."""


def check(answered: bool) -> None:
    """:raises Wrong: if a server has not answered as it should."""
    if not answered:
        raise Wrong("it does not answer as it should")


def waited(poll: select.epoll) -> list[tuple[int, int]]:
    """The events that have come."""
    check(bool(events := poll.poll(STUCK)))
    return events


def raise_limit() -> int:
    """Take as many descriptors as this process may have, and say how many these are."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def end_in_order() -> None:
    """At SIGINT and SIGTERM, end without a traceback, and what this process has started with it."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def end(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, end)


def prepare() -> int:
    """
    Make this process the load.

    :return: the core that is the servers'.
    """
    end_in_order()
    raise_limit()
    server_core, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others[:1] or {server_core})
    return server_core


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in the block stays on this core."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Server:
    """
    A server that runs.

    :ivar kind: what it is called in tables.
    :ivar port: where it listens.
    """

    def __init__(self, kind: str, port: int, pid: int) -> None:
        self.kind = kind
        self.port = port
        self.pid = pid

    @property
    def cpu(self) -> float:
        """How many seconds of CPU time it has taken so far, user's and system's, in all threads."""
        # The clock of another process: clock_getcpuclockid(3).
        return time.clock_gettime(~self.pid << 3 | 2)

    def come_to_rest(self) -> None:
        """Wait until it has nothing to do any more: until it has closed what clients have left, say."""
        before = -1.0
        while self.cpu - before > 0.001:
            before = self.cpu
            time.sleep(0.02)

    @property
    def memory(self) -> int:
        """Its resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


@contextmanager
def running(peer: Peer, core: int) -> Iterator[Server]:
    """
    One of those that say when they are ready, while it runs.

    :raises RuntimeError: if it does not start.
    """
    with ExitStack() as stack:
        with on_core(core):
            port, pid = stack.enter_context(running_peer(peer))
        yield Server(peer.name, port, pid)


@contextmanager
def listening(
    kind: str,
    command: Callable[[int], Sequence[str]],
    core: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """
    A program while it runs, from when it accepts connections on.

    :param command: is given the port, and gives what starts it.
    :raises Wrong: if it does not start.
    """
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
    started = command(port)
    with on_core(core):
        process = subprocess.Popen(
            started,
            env=environment,
            stdin=subprocess.DEVNULL,
            # Resets are nothing to talk about here.
            stderr=subprocess.DEVNULL,
        )
    with process:
        try:
            _wait_for(port, process)
            yield Server(kind, port, process.pid)
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.05)
    raise Wrong(f"{process.args!r} does not listen")
