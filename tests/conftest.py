"""Fixtures for all tests: a listening site that is cleaned up, and a log that must stay empty."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.logger import LogLevel, globalLogBeginner, globalLogPublisher

from tests.kit.browser import Browser
from tests.kit.harness import Listening, no_collector

# Else Twisted keeps all events until somebody begins, and with them what their failures refer to.
globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


# A child process inherits what is ignored (as SIGINT is in ``make test &``), and not what is handled:
# with a handler, each begins with the default, and we ignore it as before.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

#: Modules and folders in the order in which their tests run: the longest first, so that no core
#: waits for the last of them at the end. The modules take more than five seconds each.
ORDER = (
    "command/test_installs.py",
    "docs/test_pages.py",
    "examples/test_chat_browser.py",
    "core/test_handover.py",
    "server/test_flag_line.py",
    "command/test_load.py",
    "core/test_state_machine.py",
    "peers/test_proxy_clients.py",
    "peers/test_http2_browsers.py",
    "proxy/test_ports.py",
    "observe/test_status_browser.py",
    "server/test_prefaces.py",
    "command/test_listen.py",
    "http2/test_fields.py",
    "client/test_exchange_network.py",
    "core/test_import_check.py",
    "protocols/test_names.py",
    "client/test_state_machine.py",
    "docs",
    "examples",
    "command",
    "peers",
    "observe",
    "proxy",
    "core",
    "http2",
    "protocols",
    "client",
    "server",
    "testing",
)


def pytest_xdist_auto_num_workers() -> int:
    """
    Four more than there are cores: while some wait for a child or a browser, others have their cores.
    With two more, the cores of a machine with two had nothing to do for a third of the time.
    """
    return (os.cpu_count() or 1) + 4


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """
    Each process begins to collect at another place of a folder. In a fresh clone, pytest rewrites each
    module's asserts, which takes longer than the rest of its import; what one process has done, the
    others find in a file. Beginning at the same place, all would do all of it at the same time.
    """
    report = yield
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    if isinstance(collector, pytest.Directory) and report.passed:
        count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        first = len(report.result) * int(worker) // count
        report.result = [*report.result[first:], *report.result[:first]]
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if not os.environ.get("CI") and all(Path(named).resolve() == here for named in config.args):
        # Whoever waits for all of the tests does not wait for these.
        left_out = [item for item in items if item.get_closest_marker("in_ci")]
        items[:] = [item for item in items if not item.get_closest_marker("in_ci")]
        config.hook.pytest_deselected(items=left_out)
    ranks = {name: rank for rank, name in enumerate(ORDER)}

    @cache
    def rank_of(path: Path) -> tuple[int, Path]:
        path = path.relative_to(here)
        return min(ranks.get(name, len(ORDER)) for name in (path.as_posix(), path.parts[0])), path

    # The same order in all processes, too.
    items.sort(key=lambda item: rank_of(item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI all is installed that a test may need: a skip is a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        *_, reason = report.longrepr if isinstance(report.longrepr, tuple) else (report.longrepr,)
        report.outcome = "failed"
        report.longrepr = f"in CI nothing is skipped; {reason}"
    return report


_modules = count()


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """
    What is there before a module's tests need not be looked through after each: a collection takes as
    long as the heap is large. What has become garbage in some modules' time is found here.
    """
    if next(_modules) % 32 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest_twisted.async_yield_fixture
async def listen() -> Any:
    """``await listen(kind, site)``: a listening site, which is stopped after the test."""
    running: list[Listening] = []

    async def start(kind: str, site: Any) -> Listening:
        listening = await Listening(kind, site).start()
        running.append(listening)
        return listening

    yield start
    for listening in running:
        await listening.stop()


@pytest_twisted.async_yield_fixture(scope="module")
async def chromium() -> Any:
    """A running browser, for all of a module's tests."""
    running = Browser()
    try:
        yield await running.start()
    finally:
        await running.stop()


@pytest_twisted.async_yield_fixture
async def browser(chromium: Browser) -> Any:
    """A running browser without windows; a test's own are closed after it."""
    yield chromium
    await chromium.close_windows()


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Without the collector, reference counting alone frees things."""
    with no_collector():
        yield


class Errors(list[Any]):
    """
    What has been logged as an error. A test that expects some takes them off with :meth:`take`; what
    is left fails it.
    """

    def take(self, count: int) -> list[Any]:
        taken = [event["log_failure"].value for event in self if "log_failure" in event]
        assert len(self) == count, self
        self.clear()
        return taken


@pytest.fixture(autouse=True)
def errors() -> Iterator[Errors]:
    """The errors that a test logs; there must be none left at its end."""
    logged = Errors()

    def observe(event: Any) -> None:
        if event["log_level"] >= LogLevel.error:
            logged.append(event)

    globalLogPublisher.addObserver(observe)
    yield logged
    # Errors that nobody has handled are logged when their Deferred is collected. What is left is kept.
    gc.collect()
    gc.freeze()
    globalLogPublisher.removeObserver(observe)
    assert not logged, [str(event.get("log_failure", event)) for event in logged]
