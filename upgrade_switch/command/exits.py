"""
How the command ends: exit codes that scripts can use, and messages of one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from twisted.python.failure import Failure

from ..errors import cause_of
from ..fields import printable

__all__ = ["FAILED", "REFUSED", "SUCCESS", "USAGE", "explain", "say", "unread_is_fine"]

SUCCESS = 0
"""The command did what it was asked to do."""

FAILED = 1
"""No connection, no port to listen on, a connection that was cut off, or output not written."""

USAGE = 2
"""The command line is wrong, or an extra that it needs is not installed."""

REFUSED = 3
"""The server answered, but did not switch."""


def say(message: str) -> None:
    """
    Print a message for the user: one line on standard error.

    :param message: any string. White space, line breaks too, becomes single spaces, and characters
        that a terminal could act on become question marks, since a part may come from a server.
    """
    line = printable(" ".join(message.split()))
    # It is None if standard error was closed at the start; print would then use standard output.
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"upgrade-switch: {line}", file=sys.stderr, flush=True)


@contextmanager
def unread_is_fine(code: int = SUCCESS) -> Iterator[None]:
    """
    For printing what need not be read to its end (``| head``).

    :raises SystemExit: with this code, where the reader has gone before all was written; after a
        message, with :data:`FAILED`, where it cannot be written, as on a full disk.
    """
    try:
        try:
            yield
        finally:
            # It is None if standard output was closed at the start.
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would write the rest when it exits, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"cannot write the output: {error.strerror or error}")
            raise SystemExit(FAILED) from None
        raise SystemExit(code) from None


def explain(reason: Failure) -> str:
    """What went wrong, in words: the message of the innermost error, or else its class's name."""
    cause = cause_of(reason)
    return str(cause) or type(cause).__name__
