"""
What a reverse proxy costs: ``UpgradeProxy`` beside others, in front of one back end.

The proxies (``proxies.py``) are processes on one core, of which one is at work at any time. This
process is both ends of the load, on another core: the clients (``proxy_load.py``), and a back end that
does nothing but read a head, and answer (``back_end.py``). So what is compared is the CPU time of the
proxy alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from back_end import BODY, ENDLESS, BackEnd, Loop
from figures import CPU, PER_GB, TURNS, Comparison, Goal, options_of, publish, turns
from load import Done
from processes import Server, prepare
from proxies import OURS, PROGRAMS, running, title_of, why_missing
from proxy_load import FIELDS, KEPT, LENGTH, UPGRADE, Load
from switching import IDLE

WARM_UP = 3000
SECONDS_TO_WARM_UP = 3

Run = Callable[[float], Done]
"""Does something for so many seconds."""

WORK: dict[str, Callable[[Load], Run]] = {
    "GET": lambda load: load.requests(b"GET /page HTTP/1.1\r\n" + FIELDS + KEPT),
    "POST 10 kB": lambda load: load.requests(
        b"POST /post HTTP/1.1\r\n" + FIELDS + LENGTH % len(BODY) + KEPT + BODY
    ),
    "upgrade": lambda load: load.upgrades(),
    "echo of 128 bytes": lambda load: load.echoes(),
    "spliced down": lambda load: load.stream(b"/down", UPGRADE, to_client=True),
    "spliced up": lambda load: load.stream(b"/up", UPGRADE, to_client=False),
    "download": lambda load: load.stream(b"/download", KEPT, to_client=True),
    "upload": lambda load: load.stream(b"/upload", LENGTH % ENDLESS + KEPT, to_client=False),
}
SWITCHED = ("upgrade", "echo of 128 bytes", "spliced down", "spliced up", IDLE)
MESSAGES = ("GET", "POST 10 kB", "upgrade", "echo of 128 bytes")

GOALS = (
    Goal("GET", CPU, OURS, "node", "<=", 1.0),
    Goal("POST 10 kB", CPU, OURS, "node", "<=", 1.0),
    Goal("upgrade", CPU, "tunnel", "haproxy"),
    Goal("echo of 128 bytes", CPU, "tunnel", "haproxy", "<=", 1.2),
    *(Goal(table, PER_GB, "tunnel", "haproxy", "<=", 1.0) for table in ("spliced down", "spliced up")),
    *(Goal(table, PER_GB, OURS, "tunnel", "<=", 1.0) for table in ("spliced down", "spliced up")),
    *(
        Goal(IDLE, "KiB", ours, other)
        for ours in ("tunnel", OURS)
        for other in ("raw", "haproxy", "nginx")
    ),
)


def does(name: str, work: str) -> bool:
    """Whether a program does it at all."""
    if name in ("tunnel", "raw"):
        return work in SWITCHED
    # Twisted's own passes no upgrade, and has no back-pressure: it would fill the memory.
    return name != "twisted" or work in ("GET", "POST 10 kB")


class Size(NamedTuple):
    """How much is done: of each thing, by each proxy, in each round."""

    seconds: float = 0.4
    idle: int = 300


class Rounds:
    """All rounds, in which the proxies take turns, and stay the same."""

    def __init__(self, comparison: Comparison, size: Size, core: int, folder: Path, loop: Loop) -> None:
        """
        :param folder: for what the proxies need.
        """
        self._comparison = comparison
        self._size = size
        self._core = core
        self._folder = folder
        self._loop = loop
        self._back_end = BackEnd(loop)

    def measure(self, works: Sequence[str]) -> None:
        comparison = self._comparison
        with ExitStack() as stack:
            proxies = {name: stack.enter_context(self._running(name)) for name in comparison.servers}
            for number in range(comparison.rounds):
                print(f"Proxies: round {number + 1} of {comparison.rounds}", file=sys.stderr)
                in_turn = [proxies[name] for name in turns([*proxies], number)]
                for work in works:
                    those = [proxy for proxy in in_turn if does(proxy.kind, work)]
                    if work == IDLE:
                        comparison.each(those, self._hold)
                    elif work in MESSAGES:
                        if not number:
                            comparison.each(those, partial(self._warm_up, work))
                        comparison.compare(work, those, partial(self._exchange, work))
                    else:
                        comparison.each(those, partial(self._pour, work))

    @contextmanager
    def _running(self, name: str) -> Iterator[Server]:
        with (
            TemporaryDirectory(dir=self._folder) as own,
            running(name, Path(own), self._back_end.port, self._core) as proxy,
        ):
            yield proxy

    @contextmanager
    def _load(self, proxy: Server) -> Iterator[Load]:
        load = Load(self._loop, self._back_end, proxy)
        try:
            yield load
        finally:
            load.close()
            proxy.come_to_rest()

    def _warm_up(self, work: str, proxy: Server) -> None:
        """Compilers at run time need to have seen many messages."""
        with self._load(proxy) as load:
            run, done, spent = WORK[work](load), 0, 0.0
            while done < WARM_UP and spent < SECONDS_TO_WARM_UP:
                some = run(self._size.seconds / TURNS)
                done, spent = done + some.times, spent + some.seconds

    def _exchange(self, work: str, proxy: Server) -> Done:
        """Messages, in a turn, which has connections of its own: Node's close after five seconds."""
        with closing(Load(self._loop, self._back_end, proxy)) as load:
            run = WORK[work](load)
            # One of each client, by which they are accepted.
            run(0)
            return run(self._size.seconds / TURNS)

    def _pour(self, work: str, proxy: Server) -> None:
        with self._load(proxy) as load:
            run = WORK[work](load)
            run(self._size.seconds / 3)
            self._comparison.add_bulk(work, proxy.kind, run(self._size.seconds))

    def _hold(self, proxy: Server) -> None:
        """What an idle switched connection takes, in a new process: an old one has room left."""
        count = self._size.idle
        with self._running(proxy.kind) as new, self._load(new) as load:
            load.switched(count)
            before = new.memory
            load.switched(count)
            self._comparison.add(IDLE, "KiB", new.kind, (new.memory - before) / count / 1024)


def main() -> None:
    options = options_of(
        "What a reverse proxy costs, and a tunnel, beside other ones.",
        5,
        1,
        lambda parser: parser.add_argument("--work", help=f"some of {','.join([*WORK, IDLE])}"),
    )
    names = options.only or [*PROGRAMS]
    comparison = Comparison("Proxies and tunnels", {}, options.rounds)
    for name in names:
        why = why_missing(name)
        if why is None:
            comparison.servers[name] = title_of(name)
        else:
            comparison.leave_out(name, why)
    works = options.extra.work.split(",") if options.extra.work else [*WORK, IDLE]
    core = prepare()
    gc.disable()
    with TemporaryDirectory() as folder, closing(Loop()) as loop:
        size = Size(0.2, 100) if options.is_quick else Size()
        Rounds(comparison, size, core, Path(folder), loop).measure(works)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
