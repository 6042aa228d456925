"""
What the benchmarks have found: values for each server, table by table, with one value for each round,
and the goals that they are held against. A program prints its own, and may leave them as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from load import Done, Turn, together
from peers import Peer
from processes import Server, running
from report import BUSY, LOAD, RATE, Section, Verdict, tables_of

__all__ = [
    "CPU",
    "P50",
    "P99",
    "PER_GB",
    "TURNS",
    "Comparison",
    "Goal",
    "Options",
    "Work",
    "called",
    "chosen",
    "options_of",
    "peer_rounds",
    "publish",
    "turns",
]

TURNS = 3
"""Of each server, in each round. The machine may be a fifth faster in the next second."""

CPU = "CPU, µs"
P50, P99 = "p50, ms", "p99, ms"
PER_GB, MB_A_SECOND = "CPU a GB, s", "MB a second"


class Options(NamedTuple):
    """What somebody wants of a program."""

    rounds: int
    is_quick: bool
    only: Sequence[str]
    """Some of the servers; empty: all."""
    json: Path | None
    extra: argparse.Namespace


def options_of(
    about: str,
    rounds: int,
    quick: int,
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Options:
    """
    Read the command line.

    :param rounds: how many there are if nothing is said.
    :param quick: how many there are with --quick.
    :param more: adds what this program alone has.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "--rounds", type=int, help=f"how many (default: {rounds}; with --quick: {quick})"
    )
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--only", default="", help="some of the servers, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    more(parser)
    found = parser.parse_args()
    return Options(
        found.rounds or (quick if found.quick else rounds),
        found.quick,
        [name for name in found.only.split(",") if name],
        found.json,
        found,
    )


class Goal(NamedTuple):
    """A limit for one of our figures, in relation to another one; no sign: it is only shown."""

    table: str
    column: str
    ours: str
    than: str
    """Whose the other figure is; empty: the figure has a limit in itself."""
    sign: str = ""
    limit: float = 0
    than_table: str = ""
    """Where the other figure is; empty: in the same table and column."""


class Work(NamedTuple):
    """Something that is measured in turns with other works."""

    table: str
    server: Server
    begin: Callable[[Server], AbstractContextManager[Turn]]
    """What has been begun goes on in each turn. Most servers do not leave a client idle for long."""


class Comparison:
    """
    Collects the values.

    :ivar missing: the servers that are left out, and why.
    """

    def __init__(self, title: str, servers: Mapping[str, str], rounds: int) -> None:
        """
        :param servers: the names of those that are compared, and what they are called in texts.
        """
        self.title = title
        self.servers = dict(servers)
        self.rounds = rounds
        self.missing: dict[str, str] = {}
        self._tables: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, table: str, column: str, kind: str, value: float) -> None:
        """Remember a value of this round."""
        columns = self._tables.setdefault(table, {})
        columns.setdefault(column, {}).setdefault(kind, []).append(value)

    def add_done(self, table: str, kind: str, done: Done) -> None:
        """Remember what became of a load."""
        self.add(table, CPU, kind, done.each * 1e6)
        self.add(table, RATE, kind, done.rate)
        self.add(table, P50, kind, done.percentile(50) * 1e3)
        self.add(table, P99, kind, done.percentile(99) * 1e3)
        self.add(table, BUSY, kind, done.busy)
        self.add(table, LOAD, kind, done.load_busy)

    def add_bulk(self, table: str, kind: str, done: Done) -> None:
        """Remember what so many bytes took."""
        self.add(table, PER_GB, kind, done.each * 1e9)
        self.add(table, MB_A_SECOND, kind, done.rate / 1e6)
        self.add(table, BUSY, kind, done.busy)
        self.add(table, LOAD, kind, done.load_busy)

    def leave_out(self, kind: str, why: str) -> None:
        """A server is missing, or does not do what it should: it has no part in what follows."""
        print(f"{kind} is left out: {why}", file=sys.stderr)
        self.missing[kind] = why
        for columns in self._tables.values():
            for column in columns.values():
                column.pop(kind, None)

    def each(self, servers: Sequence[Server], measure: Callable[[Server], None]) -> None:
        """Do something with one server after the other; those that fail are left out."""
        for server in servers:
            self._unless_it_fails(server, partial(measure, server))

    def compare(
        self, table: str, servers: Sequence[Server], do: Callable[[Server], Done], count: int = TURNS
    ) -> None:
        """One round of something that begins anew in each turn of a server."""

        @contextmanager
        def begin(server: Server) -> Iterator[Turn]:
            yield partial(do, server)

        self.take_turns([Work(table, server, begin) for server in servers], count)

    def take_turns(self, works: Sequence[Work], count: int = TURNS) -> None:
        """One round of several works: a part of each in turn, again and again."""
        parts: dict[int, list[Done]] = {number: [] for number in range(len(works))}
        turn_of: dict[int, Turn] = {}
        with ExitStack() as stack:

            def begin(number: int) -> None:
                turn_of[number] = stack.enter_context(works[number].begin(works[number].server))

            def go_on(number: int) -> None:
                parts[number].append(turn_of[number]())

            for act, times in ((begin, 1), (go_on, count)):
                for turn in range(times):
                    for number in turns([*parts], turn):
                        self._unless_it_fails(works[number].server, partial(act, number))
        for number, done in parts.items():
            table, server, _ = works[number]
            if server.kind not in self.missing:
                self.add_done(table, server.kind, together(done))

    def _unless_it_fails(self, server: Server, act: Callable[[], object]) -> None:
        if server.kind not in self.missing:
            try:
                act()
            except (RuntimeError, OSError, ValueError) as error:
                self.leave_out(server.kind, str(error) or type(error).__name__)

    def section(self, goals: Sequence[Goal] = ()) -> Section:
        """All of it, and what became of the goals."""
        verdicts = [found for goal in goals if (found := self._verdict(goal))]
        # What says most comes first, whatever has been measured first.
        tables = sorted(self._tables.items(), key=lambda item: len(item[1]) == 1)
        return {
            "title": self.title,
            "rounds": self.rounds,
            "servers": {
                kind: title for kind, title in self.servers.items() if kind not in self.missing
            },
            "missing": self.missing,
            "tables": dict(tables),
            "goals": verdicts,
        }

    def _verdict(self, goal: Goal) -> Verdict | None:
        def values(table: str, kind: str) -> list[float]:
            return self._tables.get(table, {}).get(goal.column, {}).get(kind, [])

        ours = values(goal.table, goal.ours)
        theirs = values(goal.than_table or goal.table, goal.than) if goal.than else [1.0] * len(ours)
        if not ours or len(theirs) != len(ours):
            return None
        than = goal.than
        if goal.than_table:
            than = goal.than_table if goal.than == goal.ours else f"{goal.than}, {goal.than_table}"
        return {
            "figure": f"{goal.table}: {goal.column}",
            "ours": goal.ours,
            "than": than,
            "ratio": median(our / their for our, their in zip(ours, theirs, strict=True)),
            "sign": goal.sign,
            "limit": goal.limit,
        }


def called(peer: Peer) -> str:
    """What a server is called in texts."""
    return f"{peer.title} ({peer.runs or peer.packages[0]} {peer.version()})"


T = TypeVar("T")


def turns(kinds: Sequence[T], number: int) -> list[T]:
    """Whose turn is first changes with each round."""
    first = number % len(kinds) if kinds else 0
    return [*kinds[first:], *kinds[:first]]


def chosen(title: str, peers: Sequence[Peer], options: Options) -> tuple[Comparison, list[Peer]]:
    """Those of the servers that are wanted, and that there are."""
    wanted = [peer for peer in peers if not options.only or peer.name in options.only]
    comparison = Comparison(title, {}, options.rounds)
    found = []
    for peer in wanted:
        why = peer.why_missing()
        if why is None:
            comparison.servers[peer.name] = called(peer)
            found.append(peer)
        else:
            comparison.leave_out(peer.name, why)
    return comparison, found


def peer_rounds(comparison: Comparison, peers: Sequence[Peer], core: int) -> Iterator[list[Server]]:
    """The servers of each round: new processes each time, since no two are equally fast."""
    by_name = {peer.name: peer for peer in peers}
    for number in range(comparison.rounds):
        print(f"{comparison.title}: round {number + 1} of {comparison.rounds}", file=sys.stderr)
        with ExitStack() as stack:
            servers: list[Server] = []
            for name in turns([*by_name], number):
                if name not in comparison.missing:
                    try:
                        servers.append(stack.enter_context(running(by_name[name], core)))
                    except RuntimeError as error:
                        comparison.leave_out(name, str(error))
            yield servers


def publish(section: Section, options: Options) -> None:
    """Print what was found, and leave it as JSON where that is wanted."""
    print("\n".join(tables_of(section)))
    if options.json is not None:
        options.json.write_text(json.dumps(section))
