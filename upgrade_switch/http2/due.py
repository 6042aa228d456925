"""
:class:`Due`: what is to be done when all that has come has been read.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stream import HTTP2Stream

__all__ = ["Due"]


class Due:
    """
    What is to be done for streams that are not over by then: for a request that is reset right behind
    it, nothing is done (CVE-2023-44487).

    :ivar waiting: what is to be done.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[HTTP2Stream, Callable[[], object]]] = []

    def add(self, stream: HTTP2Stream, act: Callable[[], object]) -> None:
        """Have something done for a stream."""
        self.waiting.append((stream, act))

    def run(self, streams: Container[int]) -> None:
        """
        Do it, and what is added meanwhile.

        :param streams: the numbers of those that are not over.
        """
        while self.waiting:
            waiting, self.waiting = self.waiting, []
            for stream, act in waiting:
                if stream.stream_id in streams:
                    act()

    def clear(self) -> None:
        """Nothing is to be done any more."""
        self.waiting.clear()
