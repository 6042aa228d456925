"""
The examples, run as their users run them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGTERM

from tests.kit import EXAMPLES
from tests.kit.commands import LOCAL
from tests.kit.programs import Script, run_script


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    done = run_script([str(EXAMPLES / name), *arguments], env=os.environ | environment)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def refused(name: str, *arguments: str, **environment: str) -> str:
    """
    Run an example that says in one line on standard error why it fails, with the exit code 1.

    :return: the line, less the example's name.
    """
    done = run(name, *arguments, **environment)
    example, separator, line = done.stderr.partition(": ")
    assert (example, separator, done.stderr.count("\n")) == (name, ": ", 1), done.stderr
    assert (done.stdout, done.returncode) == ("", 1)
    return line.rstrip("\n")


class Example(Script):
    """
    An example that runs until it is told to end.

    :ivar port: what a server listens on.
    """

    port: int
    _said: str | None = None

    def __init__(self, name: str, *arguments: str, **environment: str) -> None:
        super().__init__(
            [str(EXAMPLES / name), *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
        )

    @property
    def url(self) -> str:
        """A server's URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def says(self) -> str:
        """The next line on standard output; there has to be one."""
        with self.killed_if_late():
            line: bytes = self.stdout.readline()
        assert line, "it says nothing"
        return line.decode().rstrip("\n")

    def finishes(self) -> tuple[int, str]:
        """SIGTERM, and what becomes of it: exit code, and what stands on standard error."""
        if self._said is None:
            self.terminate()
            _code, _out, error = self.everything()
            self._said = error.decode()
        return self.wait(), self._said


@contextmanager
def running(name: str, *arguments: str, **environment: str) -> Iterator[Example]:
    """An example that runs; ended by SIGTERM, to which it says nothing."""
    with Example(name, *arguments, **environment) as example:
        yield example
        ended = example.finishes()
        # The signal itself, where it comes before the reactor runs.
        assert ended in ((0, ""), (-SIGTERM, "")), ended


@contextmanager
def serving(name: str, *arguments: str, **environment: str) -> Iterator[Example]:
    """An example that listens, on a port that its last argument is to name."""
    with running(name, *arguments, LOCAL, **environment) as example:
        line = example.says()
        match = re.search(r"port=(\d+)", line)
        assert match is not None, line
        example.port = int(match[1])
        yield example
