"""
What the exec service of the examples may run, for its tests: scripts, and FIFOs that join them to one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from select import select

import pytest

from tests.kit.commands import PATIENCE
from tests.kit.examples import Example, serving

MUCH = random.Random(14).randbytes(2_000_000)

SCRIPTS = {
    # Apart, and with an exit code.
    "both": "echo out; echo err >&2; exit $1",
    # Ends with a signal.
    "killed": "kill -TERM $$",
    # Says that it has seen the end of its input; writes when it is told to.
    "late": 'cat; echo ended > "$1"; read line < "$2"; echo "$line"',
    # Holds a FIFO open for as long as it lives, and writes without end.
    "flooding": 'exec 3> "$1"; echo begun >&3; exec yes',
    # Leaves a child behind, which could still write, until a FIFO is written to.
    "leaving": 'echo begun; read line < "$1" & exit 3',
    # Says what it sees of its terminal.
    "terminal": 'stty size; read line; echo "got $line"; exit 7',
    # Says that there is nothing to read.
    "detached": 'read line || echo nothing > "$1"',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scripts."""
    path = tmp_path_factory.mktemp("exec")
    for name, text in SCRIPTS.items():
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Example]:
    """The example; it allows the scripts, and three programs."""
    allowed = ["cat", "head", "yes", *(str(folder / name) for name in SCRIPTS)]
    with serving("remote_exec.py", " ".join(allowed)) as example:
        yield example


class Fifo:
    """A FIFO that scripts write to, or read from."""

    def __init__(self, path: Path, mode: int = os.O_RDONLY) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.descriptor = os.open(path, mode | os.O_NONBLOCK)

    def __enter__(self) -> Fifo:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.descriptor)

    def read(self) -> bytes:
        """What is written to it; empty if those that have had it open are gone."""
        return read_soon(self.descriptor)

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)


def read_soon(descriptor: int) -> bytes:
    assert select([descriptor], [], [], PATIENCE)[0]
    return os.read(descriptor, 1000)
