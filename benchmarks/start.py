"""
What the command takes until it does something, beside Python itself and Twisted's reactor.

- ``python``: ``python -c pass``;
- ``reactor``: ``from twisted.internet import reactor``;
- ``connect``: ``upgrade-switch connect`` to a port on which nobody listens, until it has been told so;
  with ``--before``, the same in another working tree;
- ``connect, https``, ``forward --help``, ``--version``: likewise.

Each is a new process, one after the other in turns; the figure is its CPU time, the system's included.
Modules are compiled before, as pip does it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

TREE = Path(__file__).resolve().parent.parent
COMMAND = "import sys; from upgrade_switch.command import main; sys.exit(main())"

# Nobody listens there.
ARGUMENTS = {
    "connect": ("connect", "http://127.0.0.1:1/", "echo"),
    "connect, https": ("connect", "https://127.0.0.1:1/", "echo"),
    "forward --help": ("forward", "--help"),
    "--version": ("--version",),
}


def cpu_of(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds of CPU that a new process takes."""
    pid = os.fork()
    if pid == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        os.execve(command[0], command, environment)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime


def commands(before: str | None) -> dict[str, tuple[list[str], str]]:
    """What is run, and the tree that it is run in, by its name."""
    # Not the working directory's modules.
    python = [sys.executable, "-P", "-c"]
    found = {
        "python": ([*python, "pass"], ""),
        "reactor": ([*python, "from twisted.internet import reactor"], ""),
    }
    for name, arguments in ARGUMENTS.items():
        if before is not None:
            found[f"{name}, before"] = ([*python, COMMAND, *arguments], before)
        found[name] = ([*python, COMMAND, *arguments], str(TREE))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What the command takes to start.")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--before", metavar="TREE", help="another working tree to compare with")
    options = parser.parse_args()
    found = commands(options.before)
    values: dict[str, list[float]] = {name: [] for name in found}
    with tempfile.TemporaryDirectory() as compiled:
        for number in range(options.rounds + 1):
            for name, (command, tree) in found.items():
                environment = {**os.environ, "PYTHONPATH": tree, "PYTHONPYCACHEPREFIX": compiled}
                environment.pop("PYTHONDONTWRITEBYTECODE", None)
                taken = cpu_of(command, environment)
                # The first time, they are compiled.
                if number:
                    values[name].append(taken)
    print(f"{'CPU, s':24}{'least':>8}{'median':>8}")
    for name, taken_each in values.items():
        print(f"{name:24}{min(taken_each):8.3f}{median(taken_each):8.3f}")


if __name__ == "__main__":
    main()
