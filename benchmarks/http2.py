"""
What HTTP/2 costs: ``UpgradeSite`` beside Twisted's own HTTP/2, hypercorn and Node; and what a switched
stream costs beside a switched connection.

Each server is one process on one core, and speaks TLS. The load (``http2_load.py``) runs on
another core. The figures are the servers' CPU time, so it does not matter how fast the load is.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from figures import CPU, TURNS, Comparison, Goal, Work, chosen, options_of, publish, turns
from http2_load import (
    CONNECTIONS,
    GETS_AT_ONCE,
    IDLE_ON_EACH,
    ON_ONE,
    WARM_UP,
    echoing_on_connections,
    echoing_on_streams,
    getting,
    h2load,
    memory_of_streams,
)
from http2_servers import KINDS, OURS, running
from load import Done
from processes import Server, prepare
from secured import make_certificate

TURNS_OF_H2LOAD = 2

KIB = "KiB"
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
        # Each time, there are new connections: not as often as others have their turns.
        part = requests // TURNS_OF_H2LOAD

        def asked(server: Server) -> Done:
            return h2load(server, path, part, connections, streams)

        comparison.compare(table, servers, asked, TURNS_OF_H2LOAD)

    comparison.each(servers, warm_up)
    ask(GET_COST, "/", size.gets, 4, GETS_AT_ONCE)
    ask(GET_OTHERS, "/?%d", size.gets, 4, GETS_AT_ONCE)
    ask(DOWNLOAD, "/big", size.downloads, 2, 4)


def measure_streams(comparison: Comparison, server: Server, size: Size) -> None:
    """One round of what only ours does. What is compared has its turns together."""
    memory = memory_of_streams(server)
    each, of_all = size.echoes // TURNS, size.echoes // TURNS // CONNECTIONS
    comparison.take_turns(
        [
            Work(SWITCHED_CONNECTION, server, lambda at: echoing_on_connections(at, of_all)),
            Work(STREAM, server, lambda at: echoing_on_streams(at, CONNECTIONS, 1, of_all)),
            Work(STREAMS, server, lambda at: echoing_on_streams(at, 1, ON_ONE, each // ON_ONE)),
        ]
    )
    gets = size.gets // TURNS
    comparison.take_turns(
        [
            Work(GET_ALONE, server, lambda at: getting(at, 0, gets)),
            Work(GET_BESIDE, server, lambda at: getting(at, IDLE_ON_EACH, gets)),
        ]
    )
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
