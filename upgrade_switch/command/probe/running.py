"""
How checks are run: one at a time or several, each with a time of its own, and all of them with a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from .checks.check import Check, Group, Skipped
from .subject import Subject
from .wire import Broken, Deadline, Transcript

__all__ = ["Outcome", "run_checks"]


@dataclass(frozen=True)
class Outcome:
    """What became of a check."""

    group: str
    check: Check
    result: Literal["pass", "fail", "skipped"]
    detail: str
    """What went wrong, or why it was skipped; empty if it passed."""
    transcript: Transcript


def run_checks(
    groups: Sequence[Group],
    subject: Subject,
    bound: float,
    jobs: int = 1,
) -> Iterator[Outcome]:
    """
    Run all checks. Those that need it are skipped where the plainest upgrade does not work, which is
    tried once, in front of all.

    :param bound: the seconds after which those that have not begun are skipped.
    :param jobs: how many are run at once.
    :return: their outcomes, in the order of the groups.
    """
    deadline = Deadline(bound)
    planned = [(group, check.on(subject)) for group in groups for check in group.checks]
    needed = any(check.needs_upgrade for _, check in planned)
    switches = not needed or _switches(subject.for_a_check(bound))

    def run(plan: tuple[Group, Check]) -> Outcome:
        group, check = plan
        return _run(group, check, subject, deadline.left(), switches or not check.needs_upgrade)

    executor = ThreadPoolExecutor(jobs)
    try:
        yield from executor.map(run, planned)
    finally:
        # Somebody may not want to wait for the rest.
        executor.shutdown(cancel_futures=True)


def _switches(subject: Subject) -> bool:
    try:
        subject.switches()
    except Broken:
        return False
    return True


def _run(group: Group, check: Check, subject: Subject, left: float, is_fit: bool) -> Outcome:
    own = subject.for_a_check(left)
    result: Literal["pass", "fail", "skipped"] = "pass"
    detail = ""
    try:
        if not left:
            raise Skipped("the time for all checks was over")
        if not is_fit:
            raise Skipped("the plain upgrade does not work")
        check.passes(own)
    except Skipped as reason:
        result, detail = "skipped", str(reason)
    except Broken as fault:
        result = "fail"
        detail = f"sent: {check.sent.rstrip('.')}; came: {fault.came}; expected: {fault.expected}"
    return Outcome(group.title, check, result, detail, own.transcript)
