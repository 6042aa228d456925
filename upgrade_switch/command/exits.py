"""
How the command ends: exit codes that scripts can use, and errors of one line.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from twisted.python.failure import Failure

__all__ = ["FAILED", "REFUSED", "SUCCESS", "USAGE", "explain", "say"]

SUCCESS = 0
"""All went as it should."""

FAILED = 1
"""It did not: no connection, no port to listen on, a connection cut off, output not written."""

USAGE = 2
"""The options make no sense."""

REFUSED = 3
"""The server answered, but did not switch."""


def say(message: str) -> None:
    """Tell whoever runs the command something, in one line on standard error."""
    # Some of it may come from a server: a terminal is not to take it for an order.
    line = re.sub(r"[^ -~\u00a1-\uffff]", "?", " ".join(message.split()))
    # Closed by who started the command, it is None, which print would take for standard output.
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"upgrade-switch: {line}", file=sys.stderr, flush=True)


def explain(reason: Failure) -> str:
    """What went wrong, in words: Twisted wraps the errors of the network in others."""
    value = reason.value
    reasons = getattr(value, "reasons", None)
    if reasons and not str(getattr(value, "message", "")):
        return explain(reasons[0])
    return str(value) or type(value).__name__
