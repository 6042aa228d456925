"""
What the options of all subcommands have in common.
"""

from __future__ import annotations

from importlib.metadata import version

from twisted.python.usage import Options

from .exits import SUCCESS

__all__ = ["CommandOptions"]


class CommandOptions(Options):
    """
    Options whose ``--version`` is this package's.

    :cvar examples: command lines that are shown at the end of ``--help``.
    """

    examples: tuple[str, ...] = ()

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(version("upgrade_switch"))
        raise SystemExit(SUCCESS)

    def getUsage(self, width: int | None = None) -> str:
        # Of docstrings, whose lines are indented.
        self.docs = {name: " ".join((text or "").split()) for name, text in self.docs.items()}
        usage: str = super().getUsage(width)
        if self.examples:
            usage = "\n".join(
                [usage.rstrip("\n"), "", "Examples:", *map("  {}".format, self.examples), ""]
            )
        return usage
