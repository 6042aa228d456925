"""
What the options of all subcommands have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.python.usage import Options, UsageError

from .._version import __version__
from .exits import SUCCESS

__all__ = ["DEFAULT_HEARTBEAT", "CommandOptions", "needs_extra_for"]

DEFAULT_HEARTBEAT = 30.0
"""Seconds of silence after which a WebSocket tunnel is pinged."""


class CommandOptions(Options):
    """
    Options whose ``--version`` is this package's.

    :cvar examples: command lines that are shown at the end of ``--help``.
    """

    examples: tuple[str, ...] = ()

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(__version__)
        raise SystemExit(SUCCESS)

    def getUsage(self, width: int | None = None) -> str:
        # They come from docstrings, whose lines are indented.
        self.docs = {name: " ".join((text or "").split()) for name, text in self.docs.items()}
        usage: str = super().getUsage(width)
        if self.examples:
            usage = "\n".join(
                [usage.rstrip("\n"), "", "Examples:", *map("  {}".format, self.examples), ""]
            )
        return usage


@contextmanager
def needs_extra_for(feature: str) -> Iterator[None]:
    """
    Import, in here, what an extra of this package brings.

    :param feature: what needs it, as a message begins: "WebSockets need", for example.
    :raises UsageError: if it is not installed; the message has the line for pip.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(f"{feature} an extra that is not installed: {error}") from None
