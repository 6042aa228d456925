"""The line on a terminal that says which check is running; each may take five seconds."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["ProgressLine"]

_STDERR = 2


class ProgressLine:
    """A line on standard error, if that is a terminal. Used as a context manager, it clears itself."""

    def __init__(self) -> None:
        self._is_shown = os.isatty(_STDERR)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *raised: object) -> None:
        self.show("")

    def show(self, text: str) -> None:
        """
        :param text: what replaces the line: a few words of ASCII.
        """
        if self._is_shown:
            # ECMA-48: EL, erase to the end of the line.
            with suppress(OSError):
                os.write(_STDERR, f"\r{text}\x1b[K".encode("ascii"))
