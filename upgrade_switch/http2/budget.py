"""
:class:`Budget`: how much of what is legal, and costs more than it is worth, one connection may send.

A stranger can have a server work without an end at little cost to himself: by resetting what he has
just asked for (CVE-2023-44487), by having this side reset it (CVE-2025-8671), by PING and SETTINGS,
which want an answer, by empty frames, by opening a window one byte at a time. Each alone is no error.
So they are counted: a connection has a budget that grows again with time, and with the bytes that are
really carried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import FrameType

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

__all__ = ["Budget"]

_MOST = 1000
_A_SECOND = 100

# Bytes that are worth a frame; and that open a window well enough. Some small devices have windows of
# 1 KiB, and open them by half.
_WORTH_A_FRAME = 1024
_WORTH_AN_UPDATE = 256

_ALWAYS_COSTS = frozenset(
    [FrameType.RST_STREAM, FrameType.SETTINGS, FrameType.PING, FrameType.CONTINUATION]
)


class Budget:
    """
    What one connection may still send of it.

    :ivar spent: how much it has sent. As long as that is nothing, which is the rule, nothing can be
        earned either, and nobody has to ask.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.spent: float = 0
        self._clock = clock
        self._since = clock.seconds()

    def allows(self, frame: bytes) -> bool:
        """Whether a frame that has come, and has no data, is still within the budget."""
        kind = frame[3]
        if kind == FrameType.HEADERS:
            costs = False
        elif kind == FrameType.WINDOW_UPDATE:
            costs = int.from_bytes(frame[9:13], "big") < _WORTH_AN_UPDATE
        else:
            costs = kind in _ALWAYS_COSTS or kind > FrameType.CONTINUATION
        return not costs or self.spend()

    def received(self, size: int) -> None:
        """So many bytes have come, in one frame."""
        if size > _WORTH_A_FRAME:
            self._earn(1)

    def sent(self, size: int, waiting: int) -> None:
        """
        Bytes have been sent.

        :param size: how many, in one frame.
        :param waiting: how many of the stream had to wait, since its window has no room for them.
        """
        if size > _WORTH_A_FRAME or not waiting:
            # The other side may open two windows again: the stream's, and the connection's.
            self._earn(2)

    def _earn(self, count: float) -> None:
        self.spent = max(self.spent - count, 0)

    def spend(self) -> bool:
        """Something that costs has been done; gives whether it is still within the budget."""
        self.spent += 1
        if self.spent > _MOST:
            now = self._clock.seconds()
            self._earn((now - self._since) * _A_SECOND)
            self._since = now
        return self.spent <= _MOST
