"""
``upgrade-switch probe``: asks, and prints what it has found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

from twisted.python.usage import UsageError

from ..exits import SUCCESS, USAGE, say, unread_is_fine
from .checks import GROUPS, through
from .discovery import NotReached, answer_of, discover
from .options import ProbeOptions
from .progress import ProgressLine
from .report import answers_as_json, as_json, as_table, is_bad, line_of
from .running import TIME_OVER, Outcome, run_checks
from .subject import Subject
from .through import reached
from .wire import Deadline

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
    bound = Deadline(options["within"])
    if not options["conformance"] and options["through"] is None:
        with ProgressLine() as line:
            line.show("asking what the server switches to")
            answers = list(discover(server, options.tokens, bound))
        _print(answers_as_json(answers) if options["json"] else "\n".join(map(line_of, answers)))
        return SUCCESS
    with ProgressLine() as line:
        line.show("asking whether the server is there")
        outcomes = list(_outcomes(options, server, bound, line))
    code = FAULTY if is_bad(outcomes) else SUCCESS
    table = as_table(outcomes, bool(options["verbose"]))
    _print(as_json(outcomes) if options["json"] else "\n".join(table), code)
    if late := sum(outcome.detail == TIME_OVER for outcome in outcomes):
        say(f"probe: skipped {late} of {len(outcomes)} checks: {TIME_OVER} (--within)")
    return code


def _print(text: str, code: int = SUCCESS) -> None:
    # The section sign is not in every encoding.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with unread_is_fine(code):
        print(text.encode(encoding, "replace").decode(encoding))


def _outcomes(
    options: ProbeOptions, server: Subject, bound: Deadline, line: ProgressLine
) -> Iterator[Outcome]:
    with ExitStack() as stack:
        groups = GROUPS
        if options["through"] is not None:
            host, port = options["listen"]
            server = stack.enter_context(reached(server, host, port, bound.left()))
            groups = through.GROUPS
        else:
            answer_of(server, bound)
        total = sum(len(group.checks) for group in groups)
        outcomes = run_checks(groups, server, bound.left(), options["jobs"])
        for number, outcome in enumerate(outcomes, 1):
            yield outcome
            line.show(f"{number} of {total} checks")
