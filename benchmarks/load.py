"""
The load of ``switching.py`` and ``websocket.py``: connections that are switched, echoes on them, and
connections that are idle. It comes from ``load.c``, which is compiled when it is first needed; or from
this file, which does the same, where there is no C compiler.

It is a process of its own, so that it knows how busy it was: where that is all of the time, it may be
what has kept a rate down.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from processes import HOST, Server, Wrong, check, waited

__all__ = [
    "PARALLEL",
    "Dialogue",
    "Done",
    "Turn",
    "echo_many",
    "idle",
    "is_compiled",
    "switch_many",
    "together",
]

PARALLEL = 32
_SOURCE = Path(__file__).with_name("load.c")


class Dialogue(NamedTuple):
    """What is said to a server."""

    head: bytes
    """The request that is answered with a 101; empty if the server needs no request."""
    message: bytes
    """What is sent then; empty: nothing."""
    echoed: int
    """How many bytes come back for it."""


class Done(NamedTuple):
    """What became of a load; all times are in seconds."""

    times: int
    seconds: float
    cpu: float
    """The server's."""
    load_cpu: float
    took: Sequence[float]
    """How long each took, in any order."""

    @property
    def each(self) -> float:
        """The server's CPU time for each."""
        return self.cpu / self.times

    @property
    def rate(self) -> float:
        return self.times / self.seconds

    @property
    def busy(self) -> float:
        """The server's share of its core, in percent."""
        return self.cpu / self.seconds * 100

    @property
    def load_busy(self) -> float:
        """The load's share of its core, in percent."""
        return self.load_cpu / self.seconds * 100

    def percentile(self, percent: int) -> float:
        """The time that so many percent of all did not exceed."""
        return sorted(self.took)[len(self.took) * percent // 100]


Turn = Callable[[], Done]
"""Does a part of what is measured."""


def together(parts: Sequence[Done]) -> Done:
    """What has been done in several turns."""
    times, seconds, cpu, load_cpu, took = zip(*parts, strict=True)
    return Done(sum(times), sum(seconds), sum(cpu), sum(load_cpu), [*chain(*took)])


@cache
def _program() -> tuple[str, ...]:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is not None:
        # It goes with this process: the object stays alive in the cache below.
        program = str(Path(_folder().name, "load"))
        command = [compiler, "-O2", "-o", program, str(_SOURCE)]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            return (program,)
    return (sys.executable, __file__)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="load-")


def is_compiled() -> bool:
    """Whether the load is the one in C."""
    return len(_program()) == 1


@contextmanager
def _ready(
    mode: str, server: Server, connections: int, count: int, dialogue: Dialogue
) -> Iterator[subprocess.Popen[bytes]]:
    lengths = len(dialogue.head), len(dialogue.message), dialogue.echoed
    arguments = map(str, (server.port, connections, count, *lengths))
    pipe = subprocess.PIPE
    command = [*_program(), mode, *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(dialogue.head + dialogue.message)
            process.stdin.flush()
            _answer(process)
            yield process
        finally:
            process.kill()


def _answer(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline().decode()
    if not line:
        said = process.stderr.read().decode().strip().splitlines()
        raise Wrong(said[-1] if said else "the load has ended")
    return line


def _measured(mode: str, server: Server, connections: int, count: int, dialogue: Dialogue) -> Done:
    with _ready(mode, server, connections, count, dialogue) as process:
        assert process.stdin is not None
        before = server.cpu
        process.stdin.write(b"\n")
        process.stdin.flush()
        seconds, load_cpu, *took = map(float, _answer(process).split())
        return Done(len(took), seconds, server.cpu - before, load_cpu, took)


def switch_many(server: Server, dialogue: Dialogue, count: int, parallel: int = PARALLEL) -> Done:
    """
    Connect, switch, send the message there and back, close; with a fixed number at the same time.

    :raises Wrong: if the server does not do what it should.
    """
    return _measured("switch", server, parallel, count, dialogue)


def echo_many(server: Server, dialogue: Dialogue, connections: int, times: int) -> Done:
    """
    Send the message there and back so many times, on each of so many switched connections.

    :raises Wrong: if the server does not do what it should.
    """
    return _measured("echo", server, connections, times, dialogue)


@contextmanager
def idle(server: Server, dialogue: Dialogue, connections: int) -> Iterator[Callable[[], None]]:
    """
    So many switched connections, on which nothing happens any more.

    :return: ends them before the block does, all at once, and does not wait until they have.
    """
    with _ready("echo", server, connections, 0, dialogue) as process:
        yield process.kill
    server.come_to_rest()


# The load in Python.


class _Connection:
    def __init__(self, port: int, dialogue: Dialogue) -> None:
        self.began = time.perf_counter()
        self.turns = 0
        self._dialogue = dialogue
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in_head = bool(dialogue.head)
        self._head = b""
        if dialogue.head:
            self._socket.sendall(dialogue.head)
        else:
            self.say()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def say(self) -> None:
        self._left = self._dialogue.echoed
        self._socket.sendall(self._dialogue.message)

    def readable(self) -> bool:
        """Read once; tells whether it has been through: the 101, and what is echoed."""
        data = self._socket.recv(1 << 18)
        check(bool(data))
        if not self._in_head:
            self._left -= len(data)
            check(self._left >= 0)
            return not self._left
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return False
        check(self._head.startswith(b"HTTP/1.1 101") and self._head.endswith(b"\r\n\r\n"))
        self._in_head = False
        if self._dialogue.message:
            self.say()
        return not self._dialogue.message


def _switch(port: int, parallel: int, count: int, dialogue: Dialogue) -> list[float]:
    took: list[float] = []
    live: dict[int, _Connection] = {}
    left = count
    with select.epoll() as poll:
        while left or live:
            while left and len(live) < parallel:
                left, connection = left - 1, _Connection(port, dialogue)
                live[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
            for number, _ in waited(poll):
                connection = live[number]
                if connection.readable():
                    took.append(time.perf_counter() - connection.began)
                    connection.close()
                    del live[number]
    return took


def _echo(connections: list[_Connection], count: int) -> list[float]:
    took: list[float] = []
    live = {connection.fileno(): connection for connection in connections}
    with select.epoll() as poll:
        for connection in connections:
            poll.register(connection, select.EPOLLIN)
            connection.turns, connection.began = count, time.perf_counter()
            connection.say()
        while live:
            for number, _ in waited(poll):
                connection = live[number]
                if connection.readable():
                    now = time.perf_counter()
                    took.append(now - connection.began)
                    connection.turns, connection.began = connection.turns - 1, now
                    if connection.turns:
                        connection.say()
                    else:
                        del live[number]
    return took


def _main(arguments: list[str], says: BinaryIO, hears: TextIO) -> None:
    mode = arguments[0]
    port, parallel, count, head, message, echoed = map(int, arguments[1:])
    dialogue = Dialogue(says.read(head), says.read(message), echoed)
    connections = [_Connection(port, dialogue) for _ in range(parallel if mode == "echo" else 0)]
    for connection in connections:
        while not connection.readable():
            pass
    print("ready", file=hears, flush=True)
    if not says.read(1):
        return
    began, cpu = time.perf_counter(), time.process_time()
    took = _switch(port, parallel, count, dialogue) if mode == "switch" else _echo(connections, count)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(seconds, cpu, *took, file=hears, flush=True)
    says.read()


if __name__ == "__main__":
    _main(sys.argv[1:], os.fdopen(0, "rb", buffering=0, closefd=False), sys.stdout)
