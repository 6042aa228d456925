"""
:class:`HTTP2Stream`: one stream of a connection, as a transport.

It knows nothing of frames. What it is given to write waits (``outgoing.py``) until its connection takes
it, since the connection knows the windows and what the other streams want to send; what comes while
nobody reads waits here, and no more than a window of it can.

Each of its directions is in one of three states::

    OPEN ──> ENDING ──> ENDED

A direction is ENDING while its end waits behind bytes: what this side has still to send, or what this
side has not read yet. RFC 9113 §5.1 calls the combinations "open", "half-closed" and "closed".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..interfaces import IMultiplexedTransport, IStreamTransport
from ..sending import SendingWatch
from .machine import MUCH, STREAM_WINDOW, WORTH_A_FRAME
from .outgoing import Direction, Outgoing, SendingOwner

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from .lists import Field

__all__ = ["HTTP2Stream", "StreamOwner"]

_log = Logger()


class StreamOwner(SendingOwner, TypingProtocol):
    """The connection that a stream belongs to, as the stream needs it."""

    transport: IStreamTransport

    @property
    def peer(self) -> IAddress:
        """The address of the other side."""

    @property
    def host(self) -> IAddress:
        """The address of this side."""

    def reopen(self, stream: HTTP2Stream, is_large: bool) -> None:
        """
        Some bytes have been read: the other side may send as many, when they are worth a frame.

        :param is_large: whether what has come last was much, and has been read as soon as it came.
        """

    def cancel(self, stream: HTTP2Stream) -> None:
        """Reset the stream, which nobody wants any more."""

    def finished(self, stream: HTTP2Stream) -> None:
        """Nothing is sent or read on this side any more."""


@implementer(IMultiplexedTransport)
class HTTP2Stream(Outgoing):
    """
    A stream as a transport: ``ITransport``, ``IConsumer`` and ``IPushProducer``, with half-close. It
    gives its bytes, and its end, to ``protocol``.

    A direction that ends before the other is told to a protocol that is an ``IHalfCloseableProtocol``;
    for any other, the end of what comes ends the stream, as soon as everything has been sent.

    What has been done about its end has Twisted's names, which ``_twisted.is_closing`` looks for. Each,
    once true, stays so, and from then on what comes is dropped:

    - ``disconnecting``: it has been told to close. What waits is still sent, and what a producer adds.
    - ``_aborting``: this side has reset it. The protocol hears of it in the reactor's next turn.
    - ``disconnected``: it has ended, and the protocol has been told.

    :ivar protocol: what owns it.
    :ivar receiving: how far the direction is that the other side sends in.
    :ivar end_came: whether the other side has ended that direction, though it may not all be read.
    :ivar width: how many bytes may come (``windows.py``) that have not been read.
    :ivar room: how many may still come.
    :ivar read: how many have been read, while the other side has not been told.
    :ivar rest: how many bytes are to come; None if that has not been said (RFC 9113 §8.1.1).
    :ivar linger: how many seconds the other side may take to end its direction, once this side is
        through with both; then the stream is reset (RFC 9113 §8.1). If it is 0, the stream is a
        message's; if not, it is closed like a connection, and aborted if it sends nothing for too long.
    :ivar outlasts: whether what has come, its end too, is still read when the connection has ended.
    """

    _owner: StreamOwner
    _aborting = False

    linger: float = 0
    outlasts = False
    _last_reason: Failure | None = None
    _may_close = False

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        super().__init__(stream_id)
        self.protocol: Any = None
        self.rest: int | None = None
        self.end_came = False
        self.width = self.room = STREAM_WINDOW
        self.read = 0
        self.receiving = Direction.OPEN
        self._owner = owner
        # Whether nobody reads what comes; what has come since, and how much of the window it has used;
        # and whether it is delivered in the reactor's next turn.
        self._is_paused = False
        self._held = bytearray()
        self._held_size = 0
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
        return self._owner.transport

    # Any, as the addresses are of whatever kind the connection is.

    def getPeer(self) -> Any:
        return self._owner.peer

    def getHost(self) -> Any:
        return self._owner.host

    def send_head(self, fields: Sequence[Field]) -> None:
        """
        Send fields in front of everything that is written (RFC 9113 §8.1): the head of a message, or an
        interim response.
        """
        if not (self.disconnected or self._aborting):
            self.add_head(fields)

    def loseWriteConnection(self) -> None:
        """End this side's direction, when everything has been sent (END_STREAM)."""
        if self.sending is Direction.OPEN and not self.is_closing:
            self.sending = Direction.ENDING
            self._owner.turns.add(self)

    def loseConnection(self) -> None:
        """
        End the stream, when everything has been sent and no producer is registered any more. What
        still comes is dropped.
        """
        if self.is_closing:
            return
        self.disconnecting = True
        self.take_held()
        if self.sending is Direction.ENDED:
            self._owner.clock.callLater(0, self.finish, Failure(ConnectionDone()))
            return
        self.sending = Direction.ENDING
        self._watch_draining()
        self._owner.turns.add(self)

    def _watch_draining(self) -> None:
        """Nobody else gives a stream up that closes, and of which the other side takes nothing."""
        is_watched = self._draining is not None and self._draining.active
        if self.unsent and self.linger and not (is_watched or self.is_aborting):
            self._draining = SendingWatch(self, self._owner.clock, _nothing, self.abortConnection)

    def abortConnection(self) -> None:
        """Reset the stream at once; what waits to be sent is lost."""
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self.sending = Direction.ENDED
        self.drop_unsent()
        self.take_held()
        self._owner.cancel(self)
        self._owner.clock.callLater(0, self.finish, Failure(ConnectionAborted()))

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        self._is_paused = False
        if (self._held_size or self.receiving is Direction.ENDING) and not self._is_delivering:
            # Not now: the caller may be in the middle of something.
            self._is_delivering = True
            self._owner.clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    # What the connection does: sending (Outgoing).

    def written_late(self) -> None:
        self._watch_draining()

    def end_sent(self) -> None:
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
            self.call(half_closeable.writeConnectionLost)
        self._finish_if_ended()

    # What the connection does: receiving.

    def takes(self, length: int, ends: bool) -> bool:
        """
        Whether so many bytes more are what was said to come (RFC 9113 §8.1.1).

        :param ends: whether the other side ends its direction with them.
        """
        if self.rest is None:
            return True
        self.rest -= length
        return self.rest == 0 if ends else self.rest >= 0

    def received(self, data: bytes, size: int) -> None:
        """
        :param data: some bytes that have come.
        :param size: how much of the window they have used, padding included.
        """
        if self.disconnecting or self.disconnected or self._aborting:
            self._count_read(size)
        elif self._is_paused or self._held_size:
            self._held += data
            self._held_size += size
        else:
            if data:
                receive = self.protocol.dataReceived
                try:
                    receive(data)
                except Exception:
                    self._failed(receive)
            self.read += size
            if self.read >= WORTH_A_FRAME or size >= MUCH:
                self._owner.reopen(self, size >= MUCH and not self._is_paused)

    def _count_read(self, size: int) -> None:
        self.read += size
        if self.read >= WORTH_A_FRAME:
            self._owner.reopen(self, False)

    def peer_ended(self) -> None:
        """The other side has ended its direction."""
        self.receiving = Direction.ENDING
        if not (self._is_paused or self._held_size):
            self._tell_end()

    def take_held(self) -> bytes:
        """Take what has come and has not been read."""
        held, size = bytes(self._held), self._held_size
        if size:
            self._held, self._held_size = bytearray(), 0
            self._count_read(size)
        return held

    def _deliver(self) -> None:
        self._is_delivering = False
        if self._is_paused or self.is_closing:
            return
        held, size = bytes(self._held), self._held_size
        if size:
            self._held, self._held_size = bytearray(), 0
            if held:
                self.call(self.protocol.dataReceived, held)
            self._count_read(size)
        if self.receiving is Direction.ENDING and not (self._is_paused or self._held_size):
            self._tell_end()

    def _tell_end(self) -> None:
        self.receiving = Direction.ENDED
        if self.is_closing:
            return
        half_closeable = IHalfCloseableProtocol(self.protocol, None)
        if half_closeable is None:
            if self._may_close:
                self._last_reason = None
            # What has been written is sent; nobody waits for a producer whose reader has gone.
            self.stop_producer()
            self.loseConnection()
            return
        self.call(half_closeable.readConnectionLost)
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
        if is_complete:
            self.cut_off(reason, is_complete=not self.unsent)
        else:
            self.receiving = Direction.ENDED
            self.finish(reason)

    def cut_off(self, reason: Failure, is_complete: bool = False) -> None:
        """
        Nothing more comes and goes. If everything has come, and it is to be read, it is read first.

        :param is_complete: whether that is no loss to a protocol that would only have closed then.
        """
        if self.outlasts and self.receiving is Direction.ENDING and not self.is_closing:
            self._last_reason, self._may_close = reason, is_complete
            self.sending = Direction.ENDED
            self.drop_unsent()
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
        self.drop_unsent()
        self.take_held()
        draining, self._draining = self._draining, None
        if draining is not None:
            draining.cancel()
        self._owner.finished(self)
        self.stop_producer()
        self.call(self.connectionLost, reason)

    def connectionLost(self, reason: Failure) -> None:
        """As with Twisted's transports, this may be replaced (``_twisted.watch_end``)."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)

    def call(self, method: Callable[..., object], *arguments: object) -> None:
        """Call a protocol or a producer: what it raises is logged and resets the stream."""
        try:
            method(*arguments)
        except Exception:
            self._failed(method)

    def _failed(self, method: object) -> None:
        _log.failure("{method} failed on a stream", method=method)
        if not self.disconnected:
            self.abortConnection()


def _nothing() -> None:
    """What is called when a stream that closes has sent everything: its connection says so, too."""
