"""
:class:`ContentStream`: the content of one request, on its way to a consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import IO, Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from ..errors import AlreadyStreamed

__all__ = ["ContentState", "ContentStream", "Demand", "IContentSource"]

# How much is read before anybody wants it: Twisted reads as much behind a request that is being
# answered. While reading goes on, a client that leaves is noticed.
_MOST_AHEAD = 2**14

# The size of the pieces in which a file is read.
_PIECE = 2**16


class Demand(Enum):
    """What is wanted of a connection while the content of a request is read from it."""

    NOTHING = auto()
    """Reading stops, and no time passes for the client."""
    AHEAD = auto()
    """What comes is read, so that a client that leaves is noticed; no time passes for the client."""
    MORE = auto()
    """The client is to send more; if it sends nothing, it is timed out."""


class IContentSource(Interface):
    """A channel that can have a request processed before the request's content has come."""

    def request_line() -> tuple[bytes, bytes, bytes]:
        """Method, target and version of the request whose head has been read."""

    def stream_into(stream: Any) -> None:  # noqa: N805 - interfaces have no self
        """
        Called by a request's ``gotLength``: have it processed now, and give its content to a stream
        (:class:`ContentStream`).
        """

    def pace(demand: Demand) -> None:  # noqa: N805 - interfaces have no self
        """Go on as is wanted."""


class ContentState(Enum):
    """How far the content has come."""

    COMING = auto()
    """Its source has more."""
    COMPLETE = auto()
    """Its source has given all of it, of which the consumer has not got everything."""
    READ = auto()
    """The consumer has got all of it."""
    LOST = auto()
    """The consumer gets no more, whatever comes."""


@implementer(IPushProducer)
class ContentStream:
    """
    Gives the content of a request to a consumer, as fast as that takes it. What comes before there is a
    consumer, or while it pauses, is held.

    A content comes from a connection, whose channel calls :meth:`received` and :meth:`ended` and is
    told how to go on; or from a file, which is read when something is wanted.

    :ivar state: how far it has come.
    :ivar is_wanted: whether a consumer has ever been given.
    :ivar awaits_continue: whether the client sends the content only when it is told to (RFC 9110
        §10.1.1).
    """

    def __init__(
        self,
        pace: Callable[[Demand], None] | None = None,
        file: IO[bytes] | None = None,
        length: int | None = None,
        awaits_continue: bool = False,
    ) -> None:
        """
        :param pace: called with what is wanted of the connection, each time that it changes.
        :param file: what to read in place of a connection, from its beginning; whoever gives it closes
            it, and calls :meth:`give_up` or :meth:`failed` when that happens early.
        :param length: how many bytes will come; None if that is not known.
        """
        self.state = ContentState.COMING
        self.awaits_continue = awaits_continue
        self._pace = pace
        self._file = file
        self._length = length
        self._received = 0
        self._demand = Demand.AHEAD
        self._held: list[bytes] = []
        self._size_of_held = 0
        self._consumer: IConsumer | None = None
        self._is_paused = False
        # While the consumer is being called.
        self._is_busy = False
        self._read: Deferred[None] | None = None
        self.is_wanted = False
        self._reason: Failure | None = None
        if file is not None:
            file.seek(0)

    @property
    def rest(self) -> int | None:
        """How many bytes have not come yet; None if that is not known."""
        return None if self._length is None else self._length - self._received

    def stream_to(self, consumer: IConsumer) -> Deferred[None]:
        """
        Give the content to a consumer: ``registerProducer``, ``write``, ``unregisterProducer``.

        :return: fires when the consumer has got everything. It fails with what :meth:`failed` says,
            with what the consumer raises, and with ``CancelledError`` if the content is given up.
        :raises AlreadyStreamed: if there is a consumer, or was one.
        """
        if self.is_wanted:
            raise AlreadyStreamed("the content of a request can be streamed once")
        self.is_wanted = True
        if self.state is ContentState.LOST:
            return fail(self._reason or Failure(CancelledError()))
        self._consumer = consumer
        read = self._read = Deferred(lambda _: self.give_up())
        self._is_busy = True
        try:
            consumer.registerProducer(self, True)
        except BaseException:
            self._consumer = self._read = None
            raise
        finally:
            self._is_busy = False
        self._settle()
        return read

    def take(self) -> bytes | None:
        """
        Take the whole content, if all of it has come, and nobody has been given any of it.

        :return: the content, which is the caller's now; None if it has to be streamed.
        """
        if self.is_wanted or self.state is not ContentState.COMPLETE:
            return None
        self.is_wanted = True
        held = b"".join(self._held)
        self._drop_held()
        self.state = ContentState.READ
        return held

    # What the source calls.

    def received(self, data: bytes) -> None:
        """Some of the content has come."""
        self._received += len(data)
        self.awaits_continue = False
        if self.state is ContentState.COMING:
            self._held.append(data)
            self._size_of_held += len(data)
            self._settle()

    def ended(self) -> None:
        """All of the content has come."""
        self._pace = None
        self.awaits_continue = False
        if self.state is ContentState.COMING:
            self.state = ContentState.COMPLETE
            self._settle()

    def came_whole(self, data: bytes) -> None:
        """All of the content has come at once, before anybody could ask for it."""
        self._received = self._size_of_held = len(data)
        self._held = [data] if data else []
        self._pace, self.awaits_continue = None, False
        self.state = ContentState.COMPLETE

    def failed(self, reason: Failure) -> None:
        """The rest of the content does not come: its source is gone."""
        self._pace = None
        self._lose(reason)

    # What the request calls.

    def continued(self) -> None:
        """The client has been told to send the content."""
        self.awaits_continue = False
        self._settle()

    def give_up(self) -> None:
        """The rest of the content is not wanted; what waits is dropped."""
        self._lose(None)

    # What the consumer calls.

    def pauseProducing(self) -> None:
        self._is_paused = True
        self._settle()

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._settle()

    def stopProducing(self) -> None:
        """The consumer has gone."""
        self._lose(None)

    def _settle(self) -> None:
        """Write what the consumer takes, and tell the connection how to go on."""
        if self._is_busy:
            # What the consumer calls while it is called itself is looked at when it returns.
            return
        self._is_busy = True
        try:
            self._write()
        except Exception:
            # The consumer's; it is not the connection's fault.
            self._lose(Failure())
        finally:
            self._is_busy = False
        demand = self._wanted()
        if demand is not self._demand and self._pace is not None:
            self._demand = demand
            self._pace(demand)
        if self.state is ContentState.LOST:
            self._pace = None

    def _write(self) -> None:
        while self._consumer is not None and not self._is_paused:
            if self._held:
                held = b"".join(self._held)
                self._drop_held()
                self._consumer.write(held)
            elif self.state is ContentState.COMPLETE:
                self._succeed()
            elif self._file is None:
                return
            elif piece := self._file.read(_PIECE):
                self._consumer.write(piece)
            else:
                self.state = ContentState.COMPLETE

    def _drop_held(self) -> None:
        self._held.clear()
        self._size_of_held = 0

    def _wanted(self) -> Demand:
        if self._is_paused or self.state is ContentState.LOST:
            return Demand.NOTHING
        if self._consumer is None:
            return Demand.AHEAD if self._size_of_held <= _MOST_AHEAD else Demand.NOTHING
        return Demand.AHEAD if self.awaits_continue else Demand.MORE

    def _succeed(self) -> None:
        self.state, self._file = ContentState.READ, None
        self._release(None)

    def _lose(self, reason: Failure | None) -> None:
        """
        :param reason: None if it is not wanted any more.
        """
        if self.state in (ContentState.READ, ContentState.LOST):
            return
        self.state, self._file = ContentState.LOST, None
        self._reason = reason
        self._drop_held()
        self._settle()
        self._release(reason or Failure(CancelledError()))

    def _release(self, reason: Failure | None) -> None:
        """Let the consumer go, and say how it ended."""
        consumer, self._consumer = self._consumer, None
        read, self._read = self._read, None
        if consumer is None or read is None:
            return
        try:
            consumer.unregisterProducer()
        except Exception:
            reason = reason or Failure()
        if not read.called:
            read.callback(reason)
