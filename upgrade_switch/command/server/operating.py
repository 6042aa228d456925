"""
The options of ``serve`` that say how it is operated.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from math import inf
from pwd import struct_passwd
from typing import Self

from twisted.python.usage import UsageError
from twisted.web.resource import IResource

from ..options import CommandOptions
from .paths import is_path
from .privileges import user_called

__all__ = ["OperatingOptions", "seconds_of"]

# A slip of the finger must not fill the machine with processes.
_MOST_WORKERS = 1000


class OperatingOptions(CommandOptions):
    """
    How a server is run. An attribute is None if its option was not given.

    :ivar arguments: the command line.
    :ivar made: what classes have made, by path and name of the class. They keep it when the options are
        read again: it may hold what users care about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[str] = []
        self.made: dict[tuple[str, str], IResource] = {}
        self.ready: str | None = None
        self.run_as: struct_passwd | None = None
        self.workers: int | None = None
        self.retire: float | None = None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        self.arguments = list(sys.argv[1:] if options is None else options)
        super().parseOptions(self.arguments)

    def again(self) -> Self:
        """
        What the same command line says now: the files that it names may have changed.

        :raises UsageError: if it is wrong now.
        """
        options = type(self)()
        options.made = self.made
        options.parseOptions(self.arguments)
        return options

    def opt_ready(self, path: str) -> None:
        """
        PATH: answer 200 there, and 503 while the server shuts down, for load balancers. It needs no
        password, whatever --auth protects.
        """
        if not is_path(path) or not path.strip("/"):
            raise UsageError(f"--ready needs a /PATH, not {path!r}")
        self.ready = path.rstrip("/")

    def opt_run_as(self, name: str) -> None:
        """
        NAME: become this user, with its groups, once the ports are open. At SIGHUP, files (keys, too)
        are read as this user.
        """
        self.run_as = user_called(name)

    def opt_retire(self, seconds: str) -> None:
        """
        SECONDS: with --workers, how long the connections of old workers may go on after SIGHUP; then
        these workers shut down, as at SIGTERM. [default: no limit]
        """
        self.retire = seconds_of("retire", seconds)

    def opt_workers(self, number: str) -> None:
        """
        NUMBER: serve with this many processes, which share the ports, the limits and the status page;
        auto means one for each core. A process that dies or hangs is replaced. At SIGHUP, new ones
        start with the new options, and the old ones end with their last connection. [default: this
        process alone]
        """
        if number == "auto":
            self.workers = len(os.sched_getaffinity(0))
        elif re.fullmatch("0*[1-9][0-9]{0,3}", number) and int(number) <= _MOST_WORKERS:
            self.workers = int(number)
        else:
            raise UsageError(
                f"--workers must be a whole number from 1 to {_MOST_WORKERS}, or auto, not {number!r}"
            )


def seconds_of(option: str, text: str) -> float:
    """
    The number of seconds that was given to an option.

    :raises UsageError: if it is not a number, or negative.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = inf
    if not 0 <= seconds < inf:
        raise UsageError(f"--{option} needs a number of seconds, not {text!r}")
    return seconds
