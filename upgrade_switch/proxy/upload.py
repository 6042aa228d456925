"""
:class:`Upload`: the content of a request on its way to a back end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IProducer

    from ..client.exchange import Exchange
    from .fields import Length

__all__ = ["Draining", "Upload", "may_repeat"]

# RFC 9110 §9.2.2.
_IDEMPOTENT = frozenset([b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"])

# Bytes that may well have been sent, and not acknowledged, at any time.
_ON_ITS_WAY = 4096


class Asked(TypingProtocol):
    """What a back end has been sent."""

    @property
    def unsent(self) -> int:
        """How many bytes of it the back end has not taken yet."""


class Draining:
    """Whether a back end goes on taking what has been sent to it, though none of it is new."""

    def __init__(self) -> None:
        self._unsent = 0

    def begin(self, asked: Asked) -> None:
        """Note how much it has taken by now."""
        self._unsent = asked.unsent

    def goes_on(self, asked: Asked) -> bool:
        """Whether it has taken more since this was asked last, or since :meth:`begin`."""
        before, self._unsent = self._unsent, asked.unsent
        return self._unsent < before and before > _ON_ITS_WAY


def may_repeat(method: bytes, length: Length, upload: Upload | None) -> bool:
    """
    Whether a request may be sent again (RFC 9110 §9.2.2), of whose content nothing must have gone.

    :param length: of the content.
    :param upload: the content, unless it has gone.
    """
    is_whole = not length or (upload is not None and not upload.size)
    return is_whole and method in _IDEMPOTENT


@implementer(IConsumer, IPushProducer)
class Upload:
    """
    Takes the content of a request, and gives it to an exchange; to another one if the first has come to
    nothing before there was anything of it. While there is no exchange, the content waits.

    :ivar size: how many bytes there have been.
    :ivar streaming: fires when there is no more; cancelling it ends the content.
    """

    def __init__(
        self,
        longest: int | None,
        too_long: Callable[[], object],
        moves: Callable[[], object],
        stalled: Callable[[bool], object],
    ) -> None:
        """
        :param longest: how many bytes there may be; None: any number.
        :param too_long: called once there are more; the rest is dropped.
        :param moves: called before some of it goes on.
        :param stalled: called with whether the back end does not take any more now.
        """
        self.size = 0
        self.streaming: Deferred[None] | None = None
        self._longest = longest
        self._too_long = too_long
        self._moves = moves
        self._stalled = stalled
        self._exchange: Exchange | None = None
        self._producer: IPushProducer | None = None

    def go_to(self, exchange: Exchange) -> None:
        """Give the content to an exchange from now on."""
        self._exchange = exchange
        if self._producer is not None:
            # This, and not the producer: an exchange stops its producer, however it ends.
            exchange.registerProducer(self, True)
            self._producer.resumeProducing()

    def stop(self) -> None:
        """There is no exchange any more."""
        self._exchange = None
        if self._producer is not None:
            self._producer.pauseProducing()

    def give_up(self) -> None:
        """There will be none, and what still comes of the content is dropped."""
        self.stop()
        if self.streaming is not None:
            self.streaming.cancel()

    # The consumer of the content.

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert streaming
        self._producer = IPushProducer(producer)
        if self._exchange is not None:
            self._exchange.registerProducer(self, True)

    def unregisterProducer(self) -> None:
        self._producer = None
        if self._exchange is not None:
            self._exchange.unregisterProducer()

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._longest is not None and self.size > self._longest:
            self._too_long()
        elif self._exchange is not None:
            self._moves()
            self._exchange.write(data)

    # The exchange's producer.

    def pauseProducing(self) -> None:
        if self._producer is not None:
            self._producer.pauseProducing()
            self._stalled(True)

    def resumeProducing(self) -> None:
        if self._producer is not None:
            self._producer.resumeProducing()
            self._stalled(False)

    def stopProducing(self) -> None:
        """The exchange is over; whoever has begun it hears of that next."""
