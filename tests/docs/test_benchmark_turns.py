"""In the benchmarks, servers take turns; what the proxies' clients do ends with each turn."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit import ROOT


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their folder, from which modules can be imported."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return ROOT / "benchmarks"


def compared(fails: str = "") -> tuple[Any, list[str]]:
    """A round with three servers, one of which may fail in its second turn; and the turns taken."""
    figures, load, processes = map(importlib.import_module, ("figures", "load", "processes"))
    taken: list[str] = []

    @contextmanager
    def begin(server: Any) -> Iterator[Any]:
        taken.append(f"{server.kind} begins")

        def turn() -> Any:
            if server.kind == fails and server.kind in taken:
                raise processes.Wrong("on purpose")
            taken.append(server.kind)
            return load.Done(2, 0.5, 0.25, 0.1, [0.01, 0.02])

        yield turn
        taken.append(f"{server.kind} ends")

    comparison = figures.Comparison("x", dict.fromkeys("abc", ""), 1)
    works = [figures.Work("table", processes.Server(kind, 0, 0), begin) for kind in "abc"]
    comparison.take_turns(works, 3)
    return comparison, taken


def test_turns() -> None:
    """Each has its turns beside the others', beginning with another one each time, and all count."""
    comparison, taken = compared()
    assert [each for each in taken if len(each) == 1] == [*"abc", *"bca", *"cab"]
    assert taken[:3] == ["a begins", "b begins", "c begins"]
    assert {*taken[-3:]} == {"a ends", "b ends", "c ends"}
    columns = comparison.section()["tables"]["table"]
    assert columns["CPU, µs"]["a"] == [pytest.approx(0.75 / 6 * 1e6)]
    assert columns["a second"]["a"] == [pytest.approx(4)]
    assert columns["p99, ms"]["a"] == [pytest.approx(20)]
    assert columns["load busy, %"]["a"] == [pytest.approx(20)]


def test_failure() -> None:
    """One that fails is left out, and the others go on."""
    comparison, taken = compared(fails="b")
    assert [each for each in taken if len(each) == 1] == [*"abc", *"ca", *"ca"]
    assert comparison.missing == {"b": "on purpose"}
    assert {*comparison.section()["tables"]["table"]["a second"]} == {"a", "c"}


@pytest.fixture
def load() -> Iterator[Any]:
    """The proxies' clients, at the back end itself."""
    back_end, proxy_load, processes = map(
        importlib.import_module, ("back_end", "proxy_load", "processes")
    )
    with closing(back_end.Loop()) as loop:
        server = back_end.BackEnd(loop)
        at = processes.Server("back end", server.port, os.getpid())
        with closing(proxy_load.Load(loop, server, at)) as load:
            yield load


@pytest.mark.parametrize("work", ["GET", "POST 10 kB", "upgrade", "echo of 128 bytes"])
def test_messages(load: Any, work: str) -> None:
    """At the end of a turn, however short, nothing is under way; and each has been timed."""
    run = importlib.import_module("proxy").WORK[work](load)
    for _ in range(2):
        done = run(0)
        # Each client has done it once.
        assert done.times == len(done.took) == (8 if work.startswith("echo") else 32)
        assert 0 < done.percentile(50) <= done.percentile(99) <= done.seconds


@pytest.mark.parametrize("work", ["spliced down", "spliced up", "download", "upload"])
def test_bulk(load: Any, work: str) -> None:
    """Bytes go on from turn to turn."""
    run = importlib.import_module("proxy").WORK[work](load)
    assert min(run(0).times, run(0).times) > 0
