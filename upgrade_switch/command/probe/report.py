"""What the probe has found, for a person or for a program."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from ...fields import printable
from .checks.check import Level
from .discovery import Answer
from .running import Outcome

__all__ = ["answers_as_json", "as_json", "as_table", "is_bad", "line_of"]

_MARKS = {"pass": "pass", "fail": "FAIL", "skipped": "-"}


def line_of(answer: Answer) -> str:
    """One line of what a server switches to."""
    mark = "yes" if answer.switched else "no"
    return f"{answer.token:20} {mark:4} {answer.milliseconds:7.1f} ms  {answer.answer}"


def answers_as_json(answers: Sequence[Answer]) -> str:
    """A list of objects, one for each token."""
    return json.dumps([asdict(answer) for answer in answers], indent=2)


def is_bad(outcomes: Sequence[Outcome]) -> bool:
    """Whether something failed that an RFC demands."""
    return any(outcome.result == "fail" and outcome.check.level is Level.MUST for outcome in outcomes)


def as_json(outcomes: Sequence[Outcome]) -> str:
    """A list of objects, one for each check."""
    found = [
        {
            "check": outcome.check.name,
            "level": outcome.check.level,
            "section": outcome.check.section,
            "result": outcome.result,
            "detail": outcome.detail,
        }
        for outcome in outcomes
    ]
    return json.dumps(found, indent=2)


def as_table(outcomes: Sequence[Outcome], verbose: bool) -> Iterator[str]:
    """
    :param verbose: whether the bytes of each check are shown.
    :return: lines: a table by group, a description of each failure, and the totals. A group that was
        skipped as a whole is one line, unless the bytes are shown.
    """
    width = max((len(outcome.check.name) for outcome in outcomes), default=0)
    for title, of_group in groupby(outcomes, key=lambda outcome: outcome.group):
        yield from ("", title)
        alike = [*of_group]
        reasons = {outcome.detail if outcome.result == "skipped" else None for outcome in alike}
        reason = reasons.pop()
        if reason is not None and not reasons and not verbose:
            yield f"  {_MARKS['skipped']:4}  {len(alike)} checks: {printable(reason)}"
            continue
        for outcome in alike:
            yield from _lines(outcome, width, verbose)
    yield ""
    yield _sums(outcomes)


def _lines(outcome: Outcome, width: int, verbose: bool) -> Iterator[str]:
    check = outcome.check
    mark = _MARKS[outcome.result]
    yield f"  {mark:4}  {check.name:{width}}  {check.level:6}  {check.section}"
    yield from (f"          {printable(part)}" for part in outcome.told)
    if verbose:
        yield from (f"          {line}" for line in outcome.transcript.lines())


def _sums(outcomes: Sequence[Outcome]) -> str:
    failed = {
        level: sum(o.result == "fail" and o.check.level is level for o in outcomes) for level in Level
    }
    passed = sum(outcome.result == "pass" for outcome in outcomes)
    skipped = sum(outcome.result == "skipped" for outcome in outcomes)
    faults = ", ".join(f"{count} {level}" for level, count in failed.items() if count)
    failures = f"{sum(failed.values())} failed" + (f" ({faults})" if faults else "")
    return f"{passed} passed, {failures}, {skipped} skipped"
