"""
``upgrade-switch probe``: asks, and prints what it has found.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.python.usage import UsageError

from ..exits import SUCCESS, USAGE, say, unread_is_fine
from .checks import GROUPS, through
from .checks.check import Group
from .discovery import NotReached, discover
from .options import ProbeOptions
from .progress import ProgressLine
from .report import answers_as_json, as_json, as_table, is_bad, line_of
from .running import Outcome, run_checks
from .subject import Subject
from .through import reached

__all__ = ["run_probe"]

FAULTY = 1
"""Something failed that an RFC demands, or the probe was interrupted."""

NOT_REACHED = 3
"""There is no HTTP server."""


def run_probe(options: ProbeOptions) -> int:
    """
    Probe the server, and print what was found.

    :return: the exit code.
    """
    try:
        return _probe(options, options.subject())
    except UsageError as error:
        say(f"probe: {error}")
        return USAGE
    except NotReached as reason:
        say(f"probe: {reason}")
        return NOT_REACHED
    except KeyboardInterrupt:
        say("probe: interrupted")
        return FAULTY


def _probe(options: ProbeOptions, server: Subject) -> int:
    with ProgressLine() as line:
        line.show("asking what the server switches to")
        if options["through"] is not None:
            with reached(server, *options["listen"]) as passage:
                outcomes = _checked(options, through.GROUPS, passage, line)
            return _reported(options, outcomes)
        answers = list(discover(server, options.tokens))
        outcomes = _checked(options, GROUPS, server, line) if options["conformance"] else []
    if not options["conformance"]:
        _print(answers_as_json(answers) if options["json"] else "\n".join(map(line_of, answers)))
        return SUCCESS
    return _reported(options, outcomes)


def _reported(options: ProbeOptions, outcomes: list[Outcome]) -> int:
    table = as_table(outcomes, bool(options["verbose"]))
    _print(as_json(outcomes) if options["json"] else "\n".join(table))
    return FAULTY if is_bad(outcomes) else SUCCESS


def _print(text: str) -> None:
    with unread_is_fine():
        print(text)


def _checked(
    options: ProbeOptions, groups: Sequence[Group], server: Subject, line: ProgressLine
) -> list[Outcome]:
    total = sum(len(group.checks) for group in groups)
    outcomes: list[Outcome] = []
    for outcome in run_checks(groups, server, options["within"], options["jobs"]):
        outcomes.append(outcome)
        line.show(f"{len(outcomes)} of {total} checks")
    return outcomes
