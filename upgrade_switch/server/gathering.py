"""
:class:`GatheringChannel`: an ``HTTPChannel`` that can send what is written to it in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from .. import _twisted

if TYPE_CHECKING:
    from twisted.web.http import Request

    from ..interfaces import IStreamTransport

__all__ = ["GatheringChannel", "IGatheringChannel"]


class IGatheringChannel(Interface):
    """
    A channel that can send the head of an answer, and what there is of its body, in one piece and at
    once. (Twisted sends them in the reactor's next turn.)
    """

    def gather() -> bool:
        """
        Hold what is written from now on, until :meth:`flush`, which the caller has to call soon; the
        end of the answer, and that of the connection, flush it, too.

        :return: False if the client takes no more now: then nothing is held.
        """

    def flush() -> None:
        """Send what is held, if there is anything."""

    def write_together(write: Callable[[bytes], None], data: bytes) -> None:  # noqa: N805
        """
        Call a function with some data, and send all that it writes, unless that is held anyway.
        """


@implementer(IGatheringChannel)
class GatheringChannel(_twisted.LateChannel):
    """
    Twisted's HTTP/1.1 server protocol, able to send an answer in one piece.

    :ivar is_full: whether the transport takes no more now.
    """

    # Set by makeConnection.
    transport: IStreamTransport
    is_full = False
    # What is held; None if nothing is to be held.
    _gathered: list[bytes] | None = None

    def pauseProducing(self) -> None:
        self.is_full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.is_full = False
        super().resumeProducing()

    def write_together(self, write: Callable[[bytes], None], data: bytes) -> None:
        is_held = self._gathered is not None
        self.gather()
        try:
            write(data)
        finally:
            if not is_held:
                self.flush()

    def gather(self) -> bool:
        if self._gathered is None and not self.is_full:
            self._gathered = []
        return not self.is_full

    def flush(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered:
            _twisted.write_at_once(self.transport, b"".join(gathered))

    def write(self, data: bytes) -> None:
        if self._gathered is None:
            super().write(data)
        else:
            self._gathered.append(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        if self._gathered is None:
            super().writeSequence(iovec)
        else:
            self._gathered.extend(iovec)

    def requestDone(self, request: Request) -> None:
        if self._gathered is not None:
            # What follows may be written to the transport directly.
            self.flush()
        super().requestDone(request)

    def loseConnection(self) -> None:
        self.flush()
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gathered = None
        super().connectionLost(reason)
