"""
How checks are run: one or several at a time, each with its own time limit, and all of them with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Literal

from .checks.check import Check, Group, Skipped
from .faults import Broken, brief
from .subject import Subject
from .wire import Deadline, Transcript

__all__ = ["TIME_OVER", "Outcome", "run_checks"]

TIME_OVER = "the time for all checks was over"
"""Why a check was skipped that had not finished when the time for all checks was over."""

# The time-out of a socket may be over a little early.
_ALMOST = 0.05

# How many characters of a fault are reported: a server may send a lot.
_LONGEST_PART = 600

Plan = tuple[Group, Check]


@dataclass(frozen=True)
class Outcome:
    """What became of a check."""

    group: str
    check: Check
    result: Literal["pass", "fail", "skipped"]
    told: Sequence[str]
    """What was sent, what came and what was expected, or why it was skipped; nothing if it passed."""
    transcript: Transcript

    @property
    def detail(self) -> str:
        """The same in one line."""
        return "; ".join(self.told)


def run_checks(
    groups: Sequence[Group],
    subject: Subject,
    bound: float,
    jobs: int = 1,
) -> Iterator[Outcome]:
    """
    Run all checks. The plainest upgrade is tried first, once; if it does not work, the checks that need
    an upgrade are skipped.

    :param bound: the seconds after which checks that have not finished are skipped.
    :param jobs: how many are run at once.
    :return: their outcomes, in the order of the groups.
    """
    deadline = Deadline(bound)
    planned = [(group, check.on(subject)) for group in groups for check in group.checks]
    needed = any(check.needs_upgrade for _, check in planned)
    switches = not needed or _switches(subject.for_a_check(bound))

    def run(plan: Plan) -> Outcome:
        group, check = plan
        return _run(group, check, subject, deadline.left(), switches or not check.needs_upgrade)

    yield from _in_order(run, planned, jobs)


def _in_order(run: Callable[[Plan], Outcome], plans: Sequence[Plan], jobs: int) -> Iterator[Outcome]:
    """
    Run them in threads. (An executor would wait for its threads at the end; but when the probe is
    interrupted, nobody wants to wait until a server has answered.)
    """
    futures: list[Future[Outcome]] = [Future() for _ in plans]
    waiting: SimpleQueue[tuple[Plan, Future[Outcome]]] = SimpleQueue()
    for planned in zip(plans, futures, strict=True):
        waiting.put(planned)

    def work() -> None:
        with suppress(Empty):
            while True:
                plan, future = waiting.get_nowait()
                try:
                    future.set_result(run(plan))
                except Exception as error:
                    future.set_exception(error)

    for _ in range(jobs):
        Thread(target=work, daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        with suppress(Empty):
            while True:
                waiting.get_nowait()


def _switches(subject: Subject) -> bool:
    try:
        subject.switches()
    except Broken:
        return False
    return True


def _run(group: Group, check: Check, subject: Subject, left: float, is_fit: bool) -> Outcome:
    own = subject.for_a_check(left)
    result: Literal["pass", "fail", "skipped"] = "pass"
    told: tuple[str, ...] = ()
    try:
        if not left:
            raise Skipped(TIME_OVER)
        if not is_fit:
            raise Skipped("the plain upgrade does not work")
        check.passes(own)
    except Skipped as reason:
        result, told = "skipped", (str(reason),)
    except Broken as fault:
        if own.bound.left() < _ALMOST:
            result, told = "skipped", (TIME_OVER,)
        else:
            came, expected = (brief(text, _LONGEST_PART) for text in (fault.came, fault.expected))
            result = "fail"
            told = (f"sent: {check.sent.rstrip('.')}", f"came: {came}", f"expected: {expected}")
    return Outcome(group.title, check, result, told, own.transcript)
