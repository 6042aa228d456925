"""
:class:`HTTP2Stream`: one stream of a connection, as a transport.

It knows nothing of frames. What it is given to write waits here until its connection takes it
(:meth:`~HTTP2Stream.take`), since the connection knows the windows and what the other streams want to
send; what comes while nobody reads waits here, too, and no more than a window of it can.

Each of its directions is in one of three states::

    OPEN ──> ENDING ──> ENDED

A direction is ENDING while its end waits behind bytes: what this side has still to send, or what this
side has not read yet. RFC 9113 §5.1 calls the combinations "open", "half-closed" and "closed".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar
from typing import Protocol as TypingProtocol

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..interfaces import IMultiplexedTransport, IStreamTransport
from ..sending import SendingWatch

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProducer

__all__ = ["Direction", "HTTP2Stream", "StreamOwner"]

_log = Logger()

Fields = Sequence[tuple[bytes, bytes]]


class Direction(Enum):
    """How far one direction of a stream is."""

    OPEN = auto()
    ENDING = auto()
    """There will be no more; what was there before has not all gone its way yet."""
    ENDED = auto()


class StreamOwner(TypingProtocol):
    """The connection that a stream belongs to, as the stream needs it."""

    transport: Any
    clock: IReactorTime

    def schedule(self, stream: HTTP2Stream) -> None:
        """The stream has something to send."""

    def consumed(self, stream: HTTP2Stream, size: int) -> None:
        """So many bytes need no room any more: the other side may send as many."""

    def cancel(self, stream: HTTP2Stream) -> None:
        """Reset the stream, which nobody wants any more."""

    def finished(self, stream: HTTP2Stream) -> None:
        """Nothing is sent or read on this side any more."""


@implementer(IMultiplexedTransport)
class HTTP2Stream:
    """
    A stream as a transport: ``ITransport``, ``IConsumer`` and ``IPushProducer``, with half-close. It
    gives its bytes, and its end, to ``protocol``.

    A direction that ends before the other is told to a protocol that is an ``IHalfCloseableProtocol``;
    for any other, the end of what comes ends the stream, as soon as everything has been sent.

    :ivar stream_id: its number.
    :ivar protocol: what owns it.
    :ivar producer: what has been registered to write to it.
    :ivar unsent: how many bytes wait to be sent.
    :ivar rest: how many bytes are to come; None if that has not been said (RFC 9113 §8.1.1).
    :ivar linger: how many seconds the other side may take to end its direction, once this side is
        through with both; then the stream is reset (RFC 9113 §8.1). If it is 0, the stream is a
        message's; if not, it is closed like a connection, and aborted if it sends nothing for too long.
    :ivar outlasts: whether what has come, its end too, is still read when the connection has ended.
    """

    #: As with Twisted's transports: how many bytes may wait before a producer is paused.
    bufferSize: ClassVar[int] = 2**16

    # Whether it has been told to close; and whether it has ended. As with Twisted's transports.
    disconnecting = False
    disconnected = False
    _aborting = False

    linger: float = 0
    outlasts = False
    _last_reason: Failure | None = None
    producer: IProducer | None = None
    _is_streaming_producer = True
    _is_producer_paused = False
    _is_pulling = False

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        self.stream_id = stream_id
        self.protocol: Any = None
        self.unsent = 0
        self.rest: int | None = None
        self.is_scheduled = False
        self.sending = Direction.OPEN
        self.receiving = Direction.OPEN
        self._owner = owner
        self._heads: list[Fields] = []
        self._queue: deque[bytes] = deque()
        # How much of the first in the queue has been taken.
        self._taken = 0
        self._is_paused = False
        self._held: list[tuple[bytes, int]] = []
        self._is_delivering = False
        self._draining: SendingWatch | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream_id} to {self.protocol!r}>"

    @property
    def is_aborting(self) -> bool:
        """Whether this side has reset it."""
        return self._aborting

    @property
    def is_closing(self) -> bool:
        """Whether the stream has ended, or has been told to."""
        return self.disconnecting or self.disconnected or self._aborting

    # What a protocol does with its transport.

    @property
    def shared(self) -> IStreamTransport:
        """The transport of the connection."""
        transport: IStreamTransport = self._owner.transport
        return transport

    # Any, as the addresses are of whatever kind the connection is.

    def getPeer(self) -> Any:
        return self.shared.getPeer()

    def getHost(self) -> Any:
        return self.shared.getHost()

    def write(self, data: bytes) -> None:
        if isinstance(data, str):
            raise TypeError("Data must not be string")
        if not data or self.disconnected or self._aborting or self.sending is Direction.ENDED:
            return
        self._queue.append(data)
        self.unsent += len(data)
        self._owner.schedule(self)
        self._pause_if_full()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def send_head(self, fields: Fields) -> None:
        """
        Send fields in front of everything that is written (RFC 9113 §8.1): the head of a message, or an
        interim response.
        """
        if not (self.disconnected or self._aborting):
            self._heads.append(fields)
            self._owner.schedule(self)

    def loseWriteConnection(self) -> None:
        """End this side's direction, when everything has been sent (END_STREAM)."""
        if self.sending is Direction.OPEN and not self.is_closing:
            self.sending = Direction.ENDING
            self._owner.schedule(self)

    def loseConnection(self) -> None:
        """
        End the stream, when everything has been sent and no producer is registered any more. What
        still comes is dropped.
        """
        if self.is_closing:
            return
        self.disconnecting = True
        self._drop_held()
        if self.sending is Direction.ENDED:
            self._owner.clock.callLater(0, self.finish, Failure(ConnectionDone()))
            return
        self.sending = Direction.ENDING
        if self.unsent and self.linger:
            self._draining = SendingWatch(self, self._owner.clock, _nothing, self.abortConnection)
        self._owner.schedule(self)

    def abortConnection(self) -> None:
        """Reset the stream at once; what waits to be sent is lost."""
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self._drop_unsent()
        self._drop_held()
        self._owner.cancel(self)
        self._owner.clock.callLater(0, self.finish, Failure(ConnectionAborted()))

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
        self._is_streaming_producer = streaming
        self._is_producer_paused = False
        if streaming:
            self._pause_if_full()
        else:
            self._pull()

    def unregisterProducer(self) -> None:
        self.producer = None
        if not self.disconnected and self.sending is Direction.ENDING:
            self._owner.schedule(self)

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        if (self._held or self.receiving is Direction.ENDING) and not self._is_delivering:
            # Not now: whoever resumes may be in the middle of something.
            self._is_delivering = True
            self._owner.clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    # What the connection does: sending.

    @property
    def is_full(self) -> bool:
        """Whether more bytes wait than there is room for."""
        return self.unsent > self.bufferSize

    @property
    def has_output(self) -> bool:
        """Whether something could be sent if there were a window for it."""
        return bool(self._heads or self._queue or self.is_at_end)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing but the end of this side's direction is left to send."""
        if self._queue or self.sending is not Direction.ENDING:
            return False
        return self.producer is None or not self.disconnecting

    def take_heads(self) -> list[Fields]:
        """Take what is to be sent in front of everything else."""
        heads, self._heads = self._heads, []
        return heads

    def take(self, most: int) -> bytes:
        """
        Take what is sent next.

        :param most: how many bytes it may be at most.
        """
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
        producer = self.producer
        if producer is None or self._queue:
            return
        if not self._is_streaming_producer:
            self._pull()
        elif self._is_producer_paused:
            self._is_producer_paused = False
            self._call(producer.resumeProducing)  # type: ignore[attr-defined]

    def _pull(self) -> None:
        """
        Have a pull producer write. One that writes nothing (a request's, for a HEAD) is asked again in
        the reactor's next turn.
        """
        producer = self.producer
        if producer is None or self._is_streaming_producer or self._queue or self._is_pulling:
            return
        self._is_pulling = True
        self._call(producer.resumeProducing)  # type: ignore[attr-defined]
        self._is_pulling = False
        if self.producer is producer and not self._queue:
            self._owner.clock.callLater(0, self._pull)

    def end_sent(self) -> None:
        """The end of this side's direction has been sent."""
        self.sending = Direction.ENDED
        if self.linger:
            # Not now: it is sent in the middle of loseConnection, perhaps, which no transport answers
            # at once.
            self._owner.clock.callLater(0, self._tell_end_sent)
        else:
            self._tell_end_sent()

    def _tell_end_sent(self) -> None:
        if self.disconnected:
            return
        if self.disconnecting:
            self.finish(Failure(ConnectionDone()))
            return
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is not None:
            self._call(half_closeable.writeConnectionLost)
        self._finish_if_ended()

    def _pause_if_full(self) -> None:
        producer = self.producer
        if producer is None or not self._is_streaming_producer or self._is_producer_paused:
            return
        if self.is_full:
            self._is_producer_paused = True
            self._call(producer.pauseProducing)  # type: ignore[attr-defined]

    # What the connection does: receiving.

    def received(self, data: bytes, size: int) -> None:
        """
        :param data: some bytes that have come.
        :param size: how much of the window they have used, padding included.
        """
        if self.is_closing:
            self._owner.consumed(self, size)
        elif self._is_paused or self._held:
            self._held.append((data, size))
        else:
            self._call(self.protocol.dataReceived, data)
            self._owner.consumed(self, size)

    def peer_ended(self) -> None:
        """The other side has ended its direction."""
        self.receiving = Direction.ENDING
        if not (self._is_paused or self._held):
            self._tell_end()

    def take_held(self) -> bytes:
        """Take what has come and has not been read."""
        held, self._held = self._held, []
        if held:
            self._owner.consumed(self, sum(size for _, size in held))
        return b"".join(data for data, _ in held)

    def _drop_held(self) -> None:
        self.take_held()

    def _deliver(self) -> None:
        self._is_delivering = False
        while self._held and not (self._is_paused or self.is_closing):
            data, size = self._held.pop(0)
            self._call(self.protocol.dataReceived, data)
            self._owner.consumed(self, size)
        if self.receiving is Direction.ENDING and not (self._is_paused or self._held):
            self._tell_end()

    def _tell_end(self) -> None:
        self.receiving = Direction.ENDED
        if self.is_closing:
            return
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is None:
            self.loseConnection()
            return
        self._call(half_closeable.readConnectionLost)
        self._finish_if_ended()

    # The end.

    def _finish_if_ended(self) -> None:
        if self.sending is self.receiving is Direction.ENDED:
            self.finish(Failure(ConnectionDone()))

    def was_reset(self, why: str, is_complete: bool = False) -> None:
        """
        The other side has reset the stream.

        :param why: the name of the reason that it gives.
        :param is_complete: whether it says that it has sent everything, and only needs no more of what
            is sent to it (RFC 9113 §8.1).
        """
        reason = Failure(ConnectionLost(f"the other end has reset the stream: {why}"))
        if not is_complete:
            self.receiving = Direction.ENDED
            self.finish(reason)
        elif self.receiving is Direction.ENDING and not self.unsent:
            self.cut_off(reason, Failure(ConnectionDone()))
        else:
            self.cut_off(reason)

    def cut_off(self, reason: Failure, when_read: Failure | None = None) -> None:
        """
        Nothing more comes and goes. If everything has come, and it is to be read, it is read first.

        :param when_read: how the stream then ends, if not for the same reason.
        """
        if self.outlasts and self.receiving is Direction.ENDING and not self.is_closing:
            self._last_reason = when_read or reason
            self.sending = Direction.ENDED
            self._drop_unsent()
        else:
            self.receiving = Direction.ENDED
            self.finish(reason)

    def finish(self, reason: Failure) -> None:
        """Nothing comes and goes any more: tell the protocol, once."""
        if self.disconnected:
            return
        self.disconnected = True
        if self._last_reason is not None and reason.check(ConnectionDone):
            reason = self._last_reason
        self._drop_unsent()
        self._drop_held()
        draining, self._draining = self._draining, None
        if draining is not None:
            draining.cancel()
        self._owner.finished(self)
        producer, self.producer = self.producer, None
        if producer is not None:
            self._call(producer.stopProducing)
        self._call(self.connectionLost, reason)

    def connectionLost(self, reason: Failure) -> None:
        """As with Twisted's transports, this may be replaced (``_twisted.watch_end``)."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)

    def _drop_unsent(self) -> None:
        self._queue.clear()
        self._heads.clear()
        self.unsent = self._taken = 0

    def _call(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a protocol or a producer: what it raises is logged and resets the stream."""
        try:
            method(*arguments)
        except Exception:
            _log.failure("{method} failed on a stream", method=method)
            if not self.disconnected:
                self.abortConnection()


def _nothing() -> None:
    """What is called when a stream that closes has sent everything: its connection says so, too."""
