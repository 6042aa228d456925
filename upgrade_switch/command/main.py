"""
``upgrade-switch``: the options that all subcommands share, and the way to them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.python.usage import UsageError

from .client.connect import ConnectOptions, run_connect
from .client.forward import ForwardOptions, run_forward
from .completion import SHELLS, completion
from .exits import SUCCESS, USAGE, say, unread_is_fine
from .options import CommandOptions
from .probe.options import ProbeOptions
from .probe.probing import run_probe
from .server.options import ServeOptions
from .server.service import run_serve

__all__ = ["MainOptions", "main"]

_COMMANDS = "serve, connect, forward, probe"


class MainOptions(CommandOptions):
    """The options of ``upgrade-switch`` itself."""

    synopsis = "Usage: upgrade-switch"
    longdesc = (
        "HTTP Upgrade: one port, many protocols. upgrade-switch COMMAND --help explains a command and "
        "its options. Exit codes: 0 success; 1 the network failed; 2 usage error, or a missing extra; "
        "3 the server did not switch."
    )
    subCommands = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["serve", None, ServeOptions, "Serve HTTP, and switch connections to other protocols."],
        [
            "connect",
            None,
            ConnectOptions,
            "Connect standard input and output to a server through an upgrade.",
        ],
        [
            "forward",
            None,
            ForwardOptions,
            "Listen locally, and carry each connection to a server through an upgrade.",
        ],
        ["probe", None, ProbeOptions, "Ask a server what it switches to, and check how it does."],
    ]

    def opt_completion(self, shell: str) -> None:
        """
        SHELL: print a script that completes commands and options in bash or zsh:
        source <(upgrade-switch --completion bash)
        """
        if shell not in SHELLS:
            raise UsageError(f"--completion must be one of {', '.join(SHELLS)}, not {shell!r}")
        print(completion(shell, self), end="")
        raise SystemExit(SUCCESS)

    def postOptions(self) -> None:
        if self.subCommand is None:
            raise UsageError(f"a command is missing; available: {_COMMANDS} (see --help)")


def _parse(options: MainOptions, arguments: Sequence[str]) -> None:
    """Parse the arguments. ``--help`` is a success even if nobody reads all of it."""
    with unread_is_fine():
        options.parseOptions(arguments)


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
            message += f"; available: {_COMMANDS}"
        say(f"{command}: {message}" if command else message)
        return USAGE
    if isinstance(options.subOptions, ServeOptions):
        return run_serve(options.subOptions)
    if isinstance(options.subOptions, ForwardOptions):
        return run_forward(options.subOptions)
    if isinstance(options.subOptions, ProbeOptions):
        return run_probe(options.subOptions)
    assert isinstance(options.subOptions, ConnectOptions)
    return run_connect(options.subOptions)
