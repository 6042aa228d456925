"""What goes through pipes."""

from __future__ import annotations

import os
import stat
from typing import Any

import pytest

__all__ = ["Splicing"]


class Splicing:
    """
    ``os.splice``, which remembers what it has done, and fails when it is told to.

    :ivar read: how many bytes have come out of sockets; ``written``: gone into them.
    :ivar errors: numbers of errors, by whether it is to read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.written = 0
        self.errors: dict[bool, list[int]] = {True: [], False: []}
        self._splice = os.splice
        monkeypatch.setattr(os, "splice", self)

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
