"""
What the options of all subcommands have in common.
"""

from __future__ import annotations

from importlib.metadata import version

from twisted.python.usage import Options

from .exits import SUCCESS

__all__ = ["CommandOptions"]


class CommandOptions(Options):
    """Options whose ``--version`` is this package's."""

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(version("upgrade_switch"))
        raise SystemExit(SUCCESS)
