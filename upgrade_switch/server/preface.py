"""
:class:`PrefaceTable`: which preface a connection's first bytes are.

Pure: bytes in, values out; no Twisted, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from ..errors import InvalidPrefaces

__all__ = ["PrefaceTable"]

V = TypeVar("V")

_CRLF = b"\r\n"


class PrefaceTable(Generic[V]):
    """
    A mapping from prefaces to what they lead to. Where one preface begins another, the longer one
    wins, as long as it can still come.

    :ivar lines: the prefaces that are one whole line, with its CRLF: the flag lines.
    """

    def __init__(self, entries: Mapping[bytes, V]) -> None:
        """
        :raises InvalidPrefaces: if a key is not bytes, or is empty.
        """
        for preface in entries:
            if not isinstance(preface, bytes) or not preface:
                raise InvalidPrefaces(f"a preface is bytes, at least one, not {preface!r}")
        # The longest first: the first that fits is the one.
        self._entries = sorted(entries.items(), key=lambda entry: -len(entry[0]))
        self._longest = max(map(len, entries), default=0)
        self.lines = tuple(p for p in entries if p.find(_CRLF) == len(p) - len(_CRLF) >= 0)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, data: bytes) -> V | None:
        """The value of the longest preface that the bytes begin with, or None."""
        for preface, value in self._entries:
            if data.startswith(preface):
                return value
        return None

    def may_become_longer(self, data: bytes) -> bool:
        """Whether more bytes could make a preface, or a longer one, of these."""
        if len(data) >= self._longest:
            return False
        return any(
            len(preface) > len(data) and preface.startswith(data) for preface, _ in self._entries
        )
