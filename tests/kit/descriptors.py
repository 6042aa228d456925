"""
What this process has open. The number of its descriptors says little: other threads, and what an
earlier test has left, open and close some, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["named", "open_files"]


def named(descriptors: Iterable[int | str]) -> set[str]:
    """
    What descriptors stand for, in the kernel's words, such as ``socket:[4711]``, whose number no other
    socket gets; nothing for one that is not open.
    """
    names = set()
    for descriptor in descriptors:
        with suppress(FileNotFoundError):
            names.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return names


def open_files() -> set[str]:
    """All that is open."""
    return named(os.listdir("/proc/self/fd"))
