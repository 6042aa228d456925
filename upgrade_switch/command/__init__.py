"""
The command ``upgrade-switch``: one module a subcommand.
"""

from __future__ import annotations

from collections.abc import Sequence

from .collector import collect_again, wait_with_collecting

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: its arguments; without them, the process's.
    :return: the exit code.
    """
    # Here, and not on import: a program that only imports this, such as ``twist``, has a collector.
    wait_with_collecting()
    try:
        from .subcommands import run

        return run(argv)
    finally:
        collect_again()
