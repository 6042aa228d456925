"""
``upgrade-switch``: the options that all subcommands share, and the way to them. What a subcommand needs
is imported when that is known: ``connect`` is started for each connection of an ssh client.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twisted.python.usage import UsageError

from .exits import SUCCESS, USAGE, say, unread_is_fine
from .options import CommandOptions

__all__ = ["MainOptions", "main"]

_COMMANDS = "serve, connect, forward, probe"


def _serve_options() -> CommandOptions:
    from .server.options import ServeOptions

    return ServeOptions()


def _connect_options() -> CommandOptions:
    from .client.connect import ConnectOptions

    return ConnectOptions()


def _forward_options() -> CommandOptions:
    from .client.forward import ForwardOptions

    return ForwardOptions()


def _probe_options() -> CommandOptions:
    from .probe.options import ProbeOptions

    return ProbeOptions()


class MainOptions(CommandOptions):
    """The options of ``upgrade-switch`` itself."""

    synopsis = "Usage: upgrade-switch"
    longdesc = (
        "HTTP Upgrade: one port, many protocols. upgrade-switch COMMAND --help explains a command and "
        "its options. Exit codes: 0 success; 1 the network failed; 2 usage error, or a missing extra; "
        "3 the server did not switch."
    )
    subCommands = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["serve", None, _serve_options, "Serve HTTP, and switch connections to other protocols."],
        [
            "connect",
            None,
            _connect_options,
            "Connect standard input and output to a server through an upgrade.",
        ],
        [
            "forward",
            None,
            _forward_options,
            "Listen locally, and carry each connection to a server through an upgrade.",
        ],
        [
            "probe",
            None,
            _probe_options,
            "Ask a server what it switches to, and check how it does so.",
        ],
    ]

    def opt_completion(self, shell: str) -> None:
        """
        SHELL: print a script that completes commands and options in bash or zsh:
        source <(upgrade-switch --completion bash)
        """
        from .completion import SHELLS, completion

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
    return _RUN[str(options.subCommand)](options.subOptions)


def _run_serve(options: object) -> int:
    from .server.options import ServeOptions
    from .server.service import run_serve

    assert isinstance(options, ServeOptions)
    return run_serve(options)


def _run_connect(options: object) -> int:
    from .client.connect import ConnectOptions, run_connect

    assert isinstance(options, ConnectOptions)
    return run_connect(options)


def _run_forward(options: object) -> int:
    from .client.forward import ForwardOptions, run_forward

    assert isinstance(options, ForwardOptions)
    return run_forward(options)


def _run_probe(options: object) -> int:
    from .probe.options import ProbeOptions
    from .probe.probing import run_probe

    assert isinstance(options, ProbeOptions)
    return run_probe(options)


_RUN = {
    "serve": _run_serve,
    "connect": _run_connect,
    "forward": _run_forward,
    "probe": _run_probe,
}
