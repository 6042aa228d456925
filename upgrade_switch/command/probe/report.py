"""What the probe has found, for a person or for a program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from ...fields import printable
from .checks.check import Level
from .discovery import Answer
from .running import Outcome

__all__ = ["answers_as_json", "as_json", "as_table", "is_bad", "line_of"]

# What was sent, what came, what was expected.
_PARTS = re.compile("; (?=came: |expected: )")

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
    :return: lines: a table by group, what failed with a sentence each, and the sums.
    """
    width = max((len(outcome.check.name) for outcome in outcomes), default=0)
    for title, of_group in groupby(outcomes, key=lambda outcome: outcome.group):
        yield from ("", title)
        for outcome in of_group:
            check = outcome.check
            mark = _MARKS[outcome.result]
            yield f"  {mark:4}  {check.name:{width}}  {check.level:6}  {check.section}"
            if outcome.detail:
                yield from (f"          {printable(part)}" for part in _PARTS.split(outcome.detail))
            if verbose:
                yield from (f"          {line}" for line in outcome.transcript.lines())
    yield ""
    yield _sums(outcomes)


def _sums(outcomes: Sequence[Outcome]) -> str:
    failed = {
        level: sum(o.result == "fail" and o.check.level is level for o in outcomes) for level in Level
    }
    passed = sum(outcome.result == "pass" for outcome in outcomes)
    skipped = sum(outcome.result == "skipped" for outcome in outcomes)
    faults = ", ".join(f"{count} {level}" for level, count in failed.items() if count)
    failures = f"{sum(failed.values())} failed" + (f" ({faults})" if faults else "")
    return f"{passed} passed, {failures}, {skipped} skipped"
