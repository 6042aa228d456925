"""
:class:`Outgoing`: what a stream has to send, and who produces more of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar
from typing import Protocol as TypingProtocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProducer, IReactorTime

    from .lists import Field

__all__ = ["Direction", "Outgoing", "Producing", "Queue", "SendingOwner"]


class Direction(Enum):
    """How far one direction of a stream is."""

    OPEN = auto()
    ENDING = auto()
    """There will be no more; what was there before has not all gone its way yet."""
    ENDED = auto()


class Producing(Enum):
    """What the registered producer of a stream does."""

    NOTHING = auto()
    """No producer is registered."""
    PUSHING = auto()
    """A push producer writes as it likes."""
    PAUSED = auto()
    """A push producer waits, since more bytes than there is room for do."""
    PULLED = auto()
    """A pull producer is asked for more when everything has been sent."""
    PULLING = auto()
    """It is being asked right now."""


class Queue(TypingProtocol):
    """Where streams wait until they may send."""

    def add(self, stream: Outgoing) -> None:
        """A stream has something to send."""


class SendingOwner(TypingProtocol):
    """The connection that a stream belongs to, as far as it sends."""

    clock: IReactorTime

    @property
    def turns(self) -> Queue:
        """Where its streams wait."""


class Outgoing:
    """
    The direction of a stream that this side sends in: heads, bytes and the end wait here, in this
    order, until the stream has its turn (``turns.py``).

    :ivar stream_id: the stream's number.
    :ivar sending: how far the direction is.
    :ivar heads: those that wait.
    :ivar unsent: how many bytes wait.
    :ivar window: how many the other side takes (``windows.py``).
    :ivar carried: how many have been sent.
    :ivar producer: who has been registered to write more, as with Twisted's transports.
    :ivar is_scheduled: whether the stream waits for its turn.
    """

    #: As with Twisted's transports: how many bytes may wait before a producer is paused.
    bufferSize: ClassVar[int] = 2**16

    # Whether the stream has ended (IStreamTransport), and been told to.
    disconnected = False
    disconnecting = False

    producer: IProducer | None = None
    _producing = Producing.NOTHING

    _owner: SendingOwner

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.sending = Direction.OPEN
        self.unsent = 0
        self.window = self.carried = 0
        self.is_scheduled = False
        self.heads: list[Sequence[Field]] = []
        self._queue: deque[bytes] = deque()
        # How much of the first in the queue has been taken.
        self._taken = 0

    # What the stream decides.

    def call(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a producer, or a protocol, which may fail."""
        raise NotImplementedError

    def written_late(self) -> None:
        """A producer has written, though the stream has been told to close."""
        raise NotImplementedError

    def end_sent(self) -> None:
        """The end of this side's direction has been sent."""
        raise NotImplementedError

    # What is to be sent.

    def write(self, data: bytes) -> None:
        """Send bytes behind all that waits."""
        if isinstance(data, str):
            raise TypeError("Data must not be string")
        if not data or self.disconnected or self.sending is Direction.ENDED:
            return
        self._queue.append(data)
        self.unsent += len(data)
        self._owner.turns.add(self)
        if self.producer is not None:
            self._pause_if_full()
        if self.disconnecting:
            self.written_late()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def add_head(self, fields: Sequence[Field]) -> None:
        """Send fields in front of all bytes."""
        self.heads.append(fields)
        self._owner.turns.add(self)

    def drop_unsent(self) -> None:
        """What waits is not sent any more."""
        self._queue.clear()
        self.heads.clear()
        self.unsent = self._taken = 0

    @property
    def is_full(self) -> bool:
        """Whether more bytes wait than there is room for."""
        return self.unsent > self.bufferSize

    @property
    def has_output(self) -> bool:
        """Whether something could be sent if there were a window for it."""
        return bool(self.heads or self._queue or self.is_at_end)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing but the end of the direction is left to send."""
        if self._queue or self.sending is not Direction.ENDING:
            return False
        if self.producer is None:
            return True
        # As with Twisted's transports: closing waits for any producer, a half-close for one that is
        # asked for more.
        return self._producing is Producing.PUSHING and not self.disconnecting

    # The stream's turn.

    def take_heads(self) -> list[Sequence[Field]]:
        """Take what is to be sent in front of everything else."""
        heads, self.heads = self.heads, []
        return heads

    def take(self, most: int) -> bytes:
        """
        Take what is sent next.

        :param most: how many bytes it may be at most.
        """
        if len(self._queue) == 1 and self.unsent <= most and not self._taken:
            # As a rule.
            self.unsent = 0
            return self._queue.popleft()
        pieces = []
        while most and self._queue:
            piece = self._queue[0]
            if self._taken or len(piece) > most:
                piece = piece[self._taken : self._taken + most]
            self._taken += len(piece)
            if self._taken == len(self._queue[0]):
                self._queue.popleft()
                self._taken = 0
            pieces.append(piece)
            most -= len(piece)
            self.unsent -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def sent(self) -> None:
        """Something has been sent: if that was all, a producer goes on."""
        if self._queue or self.producer is None:
            return
        if self._producing is Producing.PULLED:
            self._pull()
        elif self._producing is Producing.PAUSED:
            self._producing = Producing.PUSHING
            self.call(self._producer.resumeProducing)

    # The producer.

    @property
    def _producer(self) -> Any:
        """The producer, whose interface depends on how it was registered."""
        return self.producer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(
                f"Cannot register producer {producer}, because producer {self.producer} "
                "was never unregistered."
            )
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer = producer
        if streaming:
            self._producing = Producing.PUSHING
            self._pause_if_full()
        else:
            self._producing = Producing.PULLED
            self._pull()

    def unregisterProducer(self) -> None:
        self.producer, self._producing = None, Producing.NOTHING
        if not self.disconnected and self.sending is Direction.ENDING:
            self._owner.turns.add(self)

    def stop_producer(self) -> None:
        """Nobody wants any more of it."""
        producer, self.producer = self.producer, None
        self._producing = Producing.NOTHING
        if producer is not None:
            self.call(producer.stopProducing)

    def _pause_if_full(self) -> None:
        if self._producing is Producing.PUSHING and self.is_full:
            self._producing = Producing.PAUSED
            self.call(self._producer.pauseProducing)

    def _pull(self) -> None:
        """
        Have a pull producer write. One that writes nothing (a request's, for a HEAD) is asked again in
        the reactor's next turn.
        """
        if self._producing is not Producing.PULLED or self._queue:
            return
        self._producing = Producing.PULLING
        self.call(self._producer.resumeProducing)
        if self._producing is Producing.PULLING:
            self._producing = Producing.PULLED
            if not self._queue:
                self._owner.clock.callLater(0, self._pull)
