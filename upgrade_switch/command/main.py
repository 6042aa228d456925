"""
``upgrade-switch``: the options that all subcommands share, and the way to them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from twisted.python.usage import UsageError

from .client.connect import ConnectOptions, run_connect
from .client.forward import ForwardOptions, run_forward
from .exits import USAGE, say
from .options import CommandOptions
from .server.options import ServeOptions
from .server.service import run_serve

__all__ = ["main"]


class MainOptions(CommandOptions):
    """The options of ``upgrade-switch`` itself."""

    synopsis = "Usage: upgrade-switch"
    longdesc = (
        "HTTP Upgrade: one port, many protocols. Exit codes: 0 success; 1 the network failed; "
        "2 the options make no sense; 3 the server did not switch. "
        "upgrade-switch COMMAND --help tells of a command's options."
    )
    subCommands = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["serve", None, ServeOptions, "Listen, and switch connections."],
        ["connect", None, ConnectOptions, "Join standard input and output to a switched connection."],
        ["forward", None, ForwardOptions, "Listen, and take each connection through an upgrade."],
    ]

    def postOptions(self) -> None:
        if self.subCommand is None:
            raise UsageError("say what to do: serve, connect or forward (--help explains them)")


def _parse(options: MainOptions, arguments: Sequence[str]) -> None:
    """Parse the arguments. ``--help`` ends with success also where nobody reads all of it."""
    try:
        try:
            options.parseOptions(arguments)
        finally:
            # None, where it was closed.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Else Python would write what is left at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: its arguments; without them, the process's.
    :return: the exit code.
    """
    options = MainOptions()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _parse(options, arguments)
    except UsageError as error:
        command = options.subCommand
        message = str(error)
        if message.startswith("Unknown command"):
            message += " (there are serve, connect and forward)"
        say(f"{command}: {message}" if command else message)
        return USAGE
    if isinstance(options.subOptions, ServeOptions):
        return run_serve(options.subOptions)
    if isinstance(options.subOptions, ForwardOptions):
        return run_forward(options.subOptions)
    assert isinstance(options.subOptions, ConnectOptions)
    return run_connect(options.subOptions)
