"""
What more workers bring: requests a second of ``upgrade-switch serve --workers N``, and what a reload
costs those that come meanwhile.

The load runs on the same cores as the workers. So its share, and that of whatever else runs on the
machine, is taken out: a rate is the number of answers by the time that the workers had a core, or could
have had one that was idle.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from figures import CPU, P50, P99, Comparison, Goal, options_of, publish
from processes import HOST, check, end_in_order, waited

COMMAND = str(Path(sys.executable).with_name("upgrade-switch"))
OPTIONS = ("--listen", f"tcp:0:interface={HOST}", "--log-format", "none", "--ready", "/ready")
REQUEST = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLIENTS = 32
REQUESTS_A_SECOND = 1000
"""While it reloads: a server that has not a moment's rest has none for new workers, either."""
TICK = os.sysconf("SC_CLK_TCK")


class Workers:
    """The command, while it runs: its workers each have a core of their own."""

    def __init__(self, count: int, process: subprocess.Popen[str], cores: Sequence[int]) -> None:
        self.count = count
        self.process = process
        self.cores = cores[:count]
        self.address = HOST, int(self.says().rsplit(":", 1)[1].strip("/\n"))
        self.pids = self._children()
        for pid, core in zip(self.pids, self.cores, strict=True):
            os.sched_setaffinity(pid, {core})

    def says(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def _children(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def cpu(self) -> float:
        """Seconds of CPU that the workers have had."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.pids]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICK

    def idle(self) -> float:
        """Seconds that their cores have had nothing to do."""
        lines = Path("/proc/stat").read_text().splitlines()
        fields = {line.split()[0]: line.split() for line in lines}
        return (
            sum(int(fields[f"cpu{core}"][4]) + int(fields[f"cpu{core}"][5]) for core in self.cores)
            / TICK
        )


@contextmanager
def running(count: int, cores: Sequence[int]) -> Iterator[Workers]:
    command = [COMMAND, "serve", "--workers", str(count), *OPTIONS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Workers(count, process, cores)
        finally:
            process.terminate()


def ask(address: tuple[str, int], seconds: float, rate: float = 0) -> list[float]:
    """
    Ask for a page all the time, on connections that are kept as long as they may be.

    :param rate: how often in a second; 0: as often as there are answers.
    :return: how long each answer took, in seconds.
    """
    took: list[float] = []
    began: dict[int, float] = {}
    clients: dict[int, socket.socket] = {}
    idle: list[socket.socket] = []
    due = time.perf_counter()
    end = time.perf_counter() + seconds

    with select.epoll() as poll:

        def connect() -> None:
            client = socket.create_connection(address)
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
            rest(client)

        def rest(client: socket.socket) -> None:
            if rate:
                idle.append(client)
            else:
                send(client)

        def send(client: socket.socket) -> None:
            began[client.fileno()] = time.perf_counter()
            client.send(REQUEST)

        for _ in range(CLIENTS):
            connect()
        while time.perf_counter() < end:
            while idle and due <= time.perf_counter():
                due += 1 / rate
                send(idle.pop(0))
            for number, _ in poll.poll(1 / rate) if rate else waited(poll):
                client = clients[number]
                answer = client.recv(4096)
                check(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ready\n"))
                took.append(time.perf_counter() - began[number])
                if b"onnection: close" in answer:
                    poll.unregister(client)
                    del clients[number]
                    client.close()
                    connect()
                else:
                    rest(client)
    for client in clients.values():
        client.close()
    return took


def compare(comparison: Comparison, kind: str, workers: Workers, seconds: float) -> None:
    """
    Measure what workers answer: with their rate if they had their cores for themselves. The load has to
    share these, and so the times of the answers are those beside the load.
    """
    ask(workers.address, seconds / 4)
    cpu, idle = workers.cpu(), workers.idle()
    took = sorted(ask(workers.address, seconds))
    cpu, idle = workers.cpu() - cpu, workers.idle() - idle
    comparison.add(GET, CPU, kind, cpu / len(took) * 1e6)
    comparison.add(GET, RATE, kind, len(took) * workers.count / (cpu + idle))
    comparison.add(GET, P50, kind, took[len(took) // 2] * 1e3)
    comparison.add(GET, P99, kind, took[len(took) * 99 // 100] * 1e3)


def slowest(workers: Workers, seconds: float, reloads: bool) -> tuple[float, float]:
    """The longest time of an answer, and the 99th percentile, in milliseconds."""
    if reloads:
        workers.process.send_signal(signal.SIGHUP)
    took = ask(workers.address, seconds, REQUESTS_A_SECOND)
    while reloads and not select.select([workers.process.stderr], [], [], 0)[0]:
        # The new workers are not there yet.
        took += ask(workers.address, seconds, REQUESTS_A_SECOND)
    took.sort()
    if reloads:
        check("has reloaded" in workers.says())
    return took[-1] * 1e3, took[len(took) * 99 // 100] * 1e3


GET, RATE = "GET /ready", "answers a CPU second"
WITH_RELOAD, WITHOUT = "with a reload", "without a reload"
GOALS = (
    Goal(GET, RATE, "two", "one", ">=", 1.8),
    Goal(WITH_RELOAD, "longest, ms", "two", "", "<=", 100),
)


def main() -> None:
    options = options_of("What more workers bring.", 9, 2)
    end_in_order()
    seconds = 1.0 if options.is_quick else 2.0
    cores = sorted(os.sched_getaffinity(0))
    check(len(cores) > 1)
    kinds = {"one": "serve --workers 1", "two": "serve --workers 2"}
    comparison = Comparison("Workers", kinds, options.rounds)
    for number in range(options.rounds):
        for kind, count in (("one", 1), ("two", 2)) if number % 2 else (("two", 2), ("one", 1)):
            with running(count, cores) as workers:
                compare(comparison, kind, workers, seconds)
    with running(2, cores) as workers:
        for reloads in (False, True):
            longest, p99 = slowest(workers, 2 * seconds, reloads)
            table = WITH_RELOAD if reloads else WITHOUT
            comparison.add(table, "longest, ms", "two", longest)
            comparison.add(table, P99, "two", p99)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
