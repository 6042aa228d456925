"""
What the options of all subcommands have in common.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from twisted.python.usage import Options, UsageError

from .._version import __version__
from .exits import SUCCESS

__all__ = ["DEFAULT_HEARTBEAT", "CommandOptions", "needs_extra_for", "read_toml"]

DEFAULT_HEARTBEAT = 30.0
"""Seconds of silence after which a WebSocket tunnel is pinged."""


class CommandOptions(Options):
    """
    Options whose ``--version`` is this package's, and which may also stand behind the arguments of a
    subcommand.

    :ivar given: the options that were given, each in one word.
    :cvar examples: command lines that are shown at the end of ``--help``.
    """

    examples: tuple[str, ...] = ()
    given: Sequence[str] = ()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        words = list(sys.argv[1:] if options is None else options)
        if not hasattr(self, "subCommands"):
            words = self._options_first(words)
        super().parseOptions(words)

    def _options_first(self, words: list[str]) -> list[str]:
        try:
            found, arguments = getopt.gnu_getopt(words, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            raise UsageError(str(error)) from None
        # In one word where there is a value, which may be empty, or begin with a hyphen.
        self.given = [
            f"{name}={value}" if f"{name[2:]}=" in self.longOpt else f"{name}{value}"
            for name, value in found
        ]
        return [*self.given, "--", *arguments]

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


def read_toml(path: str) -> dict[str, object]:
    """
    What a TOML file says.

    :raises UsageError: if it cannot be read, or is not TOML.
    """
    # Only now, since most commands read none.
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(str(error)) from None
