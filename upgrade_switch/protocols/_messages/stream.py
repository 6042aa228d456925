"""
:class:`MessageStream`: a WebSocket, as its handler sees it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ...errors import InvalidArgument, StreamClosed

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from ...server.request import UpgradeRequest

__all__ = ["Connection", "Message", "MessageStream", "broadcast"]

Message: TypeAlias = str | bytes
"""A text message, or a binary one."""

_T = TypeVar("_T")

# RFC 6455 §7.4.1: a regular end. 1005 means that the Close frame had no code.
_CLEAN_CODES: Final = frozenset([1000, 1001, 1005])


class Connection(Protocol):
    """What a stream reads from and writes to."""

    @property
    def is_fully_open(self) -> bool:
        """Whether neither side has begun to close it."""

    @property
    def is_full(self) -> bool:
        """Whether more waits to be sent than should."""

    @property
    def has_ended(self) -> bool:
        """Whether no more will be received."""

    @property
    def why_closed(self) -> tuple[int, str]:
        """The close code, and the text beside it, as far as they are known."""

    def reads_on(self) -> None:
        """The handler has taken a message."""

    def send_message(self, message: Message) -> None:
        """Send it. The stream is open."""

    def send_close(self, code: int, reason: str) -> None:
        """Close it, if it is open."""

    def abort(self) -> None:
        """End the connection at once."""


class _Over:
    """A connection that is over. (The stream lets go of the real one, and of what that holds.)"""

    is_fully_open = False
    is_full = False
    has_ended = True

    def __init__(self, code: int, reason: str) -> None:
        self.why_closed = (code, reason)

    def reads_on(self) -> None:
        """There is nothing more to read."""

    def send_message(self, message: Message) -> None:
        """Nobody gets it."""

    def send_close(self, code: int, reason: str) -> None:
        """It is closed."""

    def abort(self) -> None:
        """It has ended."""


class _UnloggedDeferred(Deferred[_T]):
    """
    What a caller waits for on a stream. If nobody handles it, no error is logged when it fails because
    the stream was closed: the other end decides when that happens, and could fill the log.
    """

    def __del__(self) -> None:
        result = getattr(self, "result", None)
        if isinstance(result, Failure) and result.check(StreamClosed):
            self.addErrback(lambda _: None)


class MessageStream:
    """
    A WebSocket. Iterate over what is received, and await what is sent::

        async def echo(stream):
            async for message in stream:
                await stream.send(message)

    :ivar request: the request that opened it, on a server: with its session, user and cookies. It is
        finished. None on a client.
    :ivar subprotocol: the subprotocol that was agreed on (RFC 6455 §1.9), or None.
    :ivar peer: the address of the other end.
    :ivar close_code: the code with which the other end has closed it (§7.4); None as long as it has
        not. 1006: the connection ended without a Close frame.
    :ivar close_reason: the text that came with the code; may be empty.
    """

    close_code: int | None = None
    close_reason = ""

    def __init__(
        self,
        connection: Connection,
        peer: IAddress,
        subprotocol: str | None,
        request: UpgradeRequest | None,
    ) -> None:
        self._connection = connection
        self.peer = peer
        self.subprotocol = subprotocol
        self.request = request
        self._received: deque[Message] = deque()
        self.waiting_size = 0
        # Each is removed before it fires: what it calls may cancel others, and so remove them.
        self._readers: deque[Deferred[Message]] = deque()
        self._senders: deque[Deferred[None]] = deque()
        self._closers: deque[Deferred[None]] = deque()
        self._is_over = False

    def __repr__(self) -> str:
        state = "open" if self.close_code is None else f"closed ({self.close_code})"
        return f"<MessageStream {self.peer} {state}>"

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: neither side has begun to close it."""
        return self._connection.is_fully_open

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except StreamClosed as closed:
            if closed.code in _CLEAN_CODES:
                raise StopAsyncIteration from None
            raise

    def receive(self) -> Deferred[Message]:
        """
        The next message.

        :return: fires with a ``str``, or with ``bytes``; fails with
            :class:`~upgrade_switch.errors.StreamClosed` when no more will come. Cancelling it loses no
            message.
        """
        if self._received:
            message = self._received.popleft()
            self.waiting_size -= len(message)
            self._connection.reads_on()
            return succeed(message)
        if self._connection.has_ended:
            return self._failed()
        reader: Deferred[Message] = _UnloggedDeferred(self._readers.remove)
        self._readers.append(reader)
        return reader

    def send(self, message: Message) -> Deferred[None]:
        """
        Send a message: at once, in the order of the calls, whether or not the result is awaited.

        :param message: a ``str`` becomes a text message, ``bytes`` a binary one.
        :return: fires when there is room for more, so that a slow reader does not fill the memory;
            fails with :class:`~upgrade_switch.errors.StreamClosed` if the stream is closed, now or
            while this waits. Cancelling it does not take the message back.
        :raises InvalidArgument: if it is neither of these.
        """
        if not isinstance(message, str | bytes | bytearray | memoryview):
            raise InvalidArgument(f"a message is a str or bytes, not {type(message).__name__}")
        if not self.is_open:
            return self._failed()
        self._connection.send_message(message)
        if not self._connection.is_full:
            return succeed(None)
        sender: Deferred[None] = _UnloggedDeferred(self._senders.remove)
        self._senders.append(sender)
        return sender

    def close(self, code: int = 1000, reason: str = "") -> Deferred[None]:
        """
        Close it, after everything that has been sent. Harmless if it is closed already.

        :param code: 1000 to 1014, except for those that are not sent, or 3000 to 4999 (RFC 6455 §7.4).
        :param reason: at most 123 bytes in UTF-8.
        :return: fires when the connection is over.
        :raises InvalidArgument: if there is no such code, or the reason is too long.
        """
        self._connection.send_close(code, reason)
        return self.wait_closed()

    def wait_closed(self) -> Deferred[None]:
        """
        :return: fires when the connection is over.
        """
        if self._is_over:
            return succeed(None)
        closer: Deferred[None] = Deferred(self._closers.remove)
        self._closers.append(closer)
        return closer

    def abort(self) -> None:
        """End the connection at once; what waits to be sent is lost."""
        self._connection.abort()

    # What the protocol tells.

    @property
    def waiting(self) -> int:
        """How many messages wait to be received."""
        return len(self._received)

    def message_received(self, message: Message) -> None:
        """A message has come."""
        if self._readers:
            self._readers.popleft().callback(message)
        else:
            self._received.append(message)
            self.waiting_size += len(message)

    def has_room(self) -> None:
        """More can be sent."""
        while self._senders and not self._connection.is_full:
            self._senders.popleft().callback(None)

    def ended(self) -> None:
        """No more will be received."""
        self.close_code, self.close_reason = self._connection.why_closed
        while self._readers:
            self._readers.popleft().errback(self._closed())

    def connection_lost(self) -> None:
        """The connection is over."""
        self._is_over = True
        self._connection = _Over(*self._connection.why_closed)
        self.ended()
        while self._senders:
            self._senders.popleft().errback(self._closed())
        while self._closers:
            self._closers.popleft().callback(None)

    def _closed(self) -> StreamClosed:
        return StreamClosed(*self._connection.why_closed)

    def _failed(self) -> Deferred[_T]:
        failed: Deferred[_T] = _UnloggedDeferred()
        failed.errback(self._closed())
        return failed


def broadcast(streams: Iterable[MessageStream], message: Message) -> None:
    """
    Send a message to many, without waiting for any: those that are closed are skipped. A client that
    does not read is ended by the site's ``max_unsent``, if it has one.

    :param streams: they may change meanwhile.
    :raises InvalidArgument: if the message is neither a ``str`` nor bytes.
    """
    for stream in tuple(streams):
        if stream.is_open:
            stream.send(message)
