"""What goes through pipes."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

from .descriptors import named, open_files

__all__ = ["Splicing"]


class Splicing:
    """
    ``os.splice``, which remembers what it has done, and fails when it is told to.

    :ivar read: how many bytes have come out of sockets; ``written``: gone into them.
    :ivar errors: numbers of errors, by whether it is to read.
    :ivar opened: the names of the pipes that have been opened.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.written = 0
        self.errors: dict[bool, list[int]] = {True: [], False: []}
        self.opened: set[str] = set()
        self._splice = os.splice
        self._pipe2 = os.pipe2
        monkeypatch.setattr(os, "splice", self)
        monkeypatch.setattr(os, "pipe2", self._open)

    def __call__(self, source: int, sink: int, count: int, **options: Any) -> int:
        reads = stat.S_ISSOCK(os.fstat(source).st_mode)
        if self.errors[reads]:
            raise OSError(self.errors[reads].pop(0), "on purpose")
        done: int = self._splice(source, sink, count, **options)
        if reads:
            self.read += done
        else:
            self.written += done
        return done

    def _open(self, flags: int) -> tuple[int, int]:
        pipe = self._pipe2(flags)
        self.opened |= named(pipe)
        return pipe

    def held(self) -> set[str]:
        """The names of the pipes that are open now."""
        return self.opened & open_files()
