"""
One request to a back end, and its answer: :class:`Exchange`. (Where both come in one piece, there is
none: ``whole_answers``.)

**Theory of operation.** Where request and answer end, and what may come in between, is what h11 knows,
by way of ``exchange_messages``. What is left to do stands here: heads are collected first, so that
their limit is the same however they are cut (``head``); what is written goes to the transport, which
pauses its producer; and what is read goes to the owner's listener, which pauses the transport. While
it has paused, whatever still arrives (TLS delivers the records that it has read already) stays unread,
the connection's end behind it, too. The states stand in ``exchange_states``, what is asked of those
around an exchange in ``exchange_interfaces``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as TypingProtocol

import h11
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseFailed, ResponseNeverReceived
from zope.interface import implementer

from .. import _twisted
from ..connection import SwitchedConnection
from ..errors import InvalidResponse
from ..interfaces import IStreamTransport
from ..negotiation import Offer, UpgradeToken
from .exchange_heads import LONGEST_HEAD, AnswerHead
from .exchange_interfaces import ExchangeHead, IExchangeListener, framings
from .exchange_messages import End, Messages
from .exchange_states import Event, State, after
from .head import HeadReader
from .request import Head, switched_token

__all__ = ["Exchange"]

# A server sends one 100, and perhaps some 102 or 103. One that does not stop has to be stopped.
_MOST_INFORMATIONAL = 100


class ExchangeConnection(TypingProtocol):
    """The connection of an exchange, which calls exactly one of the methods below, once."""

    transport: IStreamTransport
    messages: Messages
    """Have been given the head of the request."""
    was_used: bool
    """Whether there has been an exchange on it before."""
    lenient: bool
    """Whether a 101 without ``Connection: upgrade`` switches."""

    def rest(self) -> None:
        """Wait for the next exchange: both messages of the last are complete."""

    def close(self) -> None:
        """Close the connection, which cannot be used again."""

    def abort(self) -> object:
        """End the connection at once; harmless when it has ended."""

    def switch(
        self, token: UpgradeToken, path: bytes, trailing: bytes, lost: Failure | None
    ) -> SwitchedConnection:
        """
        Give the connection away.

        :param trailing: what has come behind the 101.
        :param lost: how it has ended, if it has.
        """


@implementer(IConsumer, IPushProducer)
class Exchange:
    """
    One request, and its answer. It is the consumer of the request's body, and the producer of the
    answer's; whoever has begun it owns it. When it is over, no method does anything any more.

    :ivar held: what is sent with the first part of the request's body, or at :meth:`flush`: its head.
    :ivar has_received: whether anything of an answer has come.
    """

    # Until it is over. They know each other, and the listener knows its exchange, too.
    _connection: ExchangeConnection
    _listener: IExchangeListener
    # From a 101 on.
    _token: UpgradeToken
    # While HOLDING: the 101 that waits.
    _switch: AnswerHead

    def __init__(
        self,
        connection: ExchangeConnection,
        request: ExchangeHead,
        listener: IExchangeListener,
        offer: Offer | None,
    ) -> None:
        """
        :param connection: the connection, whose messages are given the head of the request.
        :param request: that head.
        :param listener: is told of the answer.
        :param offer: what the request's Upgrade offers; None without one.
        """
        self._connection = connection
        self._transport = connection.transport
        self._messages = connection.messages
        self._listener = listener
        self._offer = offer
        self._target = request.target
        self._state = State.SENDING
        self._heads = HeadReader(LONGEST_HEAD)
        self._informational = 0
        self.held = b""
        self._producer: IProducer | None = None
        self._is_pulled = self._is_paused = self._is_reading = False
        self.has_received = False
        # How the connection has ended, if it has; and whether it was meant to end so.
        self._lost: Failure | None = None
        self._is_clean_end = False

    def _move(self, event: Event) -> State:
        """
        Note that something has happened.

        :return: the state before.
        """
        before, self._state = self._state, after(self._state, event)
        return before

    # The request.

    def flush(self) -> None:
        """The first part of the body comes later."""
        if self._state is not State.OVER:
            self._write(b"")

    def write(self, data: bytes) -> None:
        """
        Send a part of the request's body, whose framing the head has named: chunks are made here.
        Ignored when the request or the answer is complete. A part that is longer than what is left of
        the Content-Length fails the exchange.
        """
        if self._state.is_sending:
            self._send(self._messages.send_data, data)

    def end(self) -> None:
        """
        The request is complete. To be called for each, also if it has no body; again, it does nothing.
        A body that is shorter than its Content-Length fails the exchange.
        """
        if self._state.is_sending and self._send(self._messages.send_end):
            self._take_producer()
            if self._state is State.HOLDING:
                self._switched(self._switch, Event.SENT)
            else:
                self._move(Event.SENT)

    def _send(self, framed: Callable[..., list[bytes]], *data: bytes) -> bool:
        try:
            self._write(b"".join(framed(*data)))
        except h11.LocalProtocolError as error:
            self._fail(RequestGenerationFailed([Failure(error)]))
            return False
        return True

    def _write(self, data: bytes) -> None:
        data, self.held = self.held + data, b""
        if data and self._lost is None:
            # Transports ask a producer that they pull for more when they have sent what waits.
            if self._is_pulled:
                self._transport.write(data)
            else:
                _twisted.write_at_once(self._transport, data)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        Have a producer write the request's body. As with any consumer, its ``stopProducing`` is called
        if the exchange is over, by whatever end, before the producer has been unregistered.
        """
        if not self._state.is_sending:
            producer.stopProducing()
            return
        if self._producer is not None:
            raise RuntimeError(f"{self._producer!r} is registered already")
        self._producer, self._is_pulled = producer, not streaming
        _twisted.register_producer(self._transport, producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer has written everything, or will not."""
        self._take_producer()

    def _take_producer(self) -> IProducer | None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._transport.unregisterProducer()
        return producer

    @property
    def unsent(self) -> int:
        """How many bytes of the request the server has not taken yet, as far as that is known."""
        return _twisted.unacknowledged(self._transport)

    # The answer, as its reader sees it.

    def pauseProducing(self) -> None:
        """Tell nothing of the answer, and read no more of it, until it is resumed."""
        if self._state is not State.OVER:
            self._is_paused = True
            self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on. What has been read already is told within this call."""
        if self._state is not State.OVER:
            self._is_paused = False
            if self._state is not State.HOLDING:
                self._transport.resumeProducing()
            self._read()

    def stopProducing(self) -> None:
        """The same as :meth:`abort`."""
        self.abort()

    def abort(self) -> None:
        """End the exchange, and its connection with it. The listener is told nothing more."""
        if self._state is not State.OVER:
            connection, _ = self._leave(Event.FAILED)
            connection.abort()

    # What the connection calls.

    def received(self, data: bytes) -> None:
        """Bytes have come."""
        self.has_received = True
        if self._state.has_body:
            self._messages.receive(data)
        else:
            self._heads.feed(data)
        self._read()

    def lost(self, reason: Failure, is_clean: bool) -> None:
        """
        The connection has ended.

        :param is_clean: whether the server meant to end it so (``sending.is_clean_end``).
        """
        self._lost, self._is_clean_end = reason, is_clean
        # The transport has told it. (A TLS layer would keep it for ever.)
        self._take_producer()
        if self._state is State.HOLDING:
            # There is nothing to be read first.
            self._is_paused = False
        self._read()

    def refuse(self, error: BaseException) -> None:
        """The connection was over before it was given the request."""
        self._fail(error)

    # Reading.

    def _read(self) -> None:
        """Tell the listener of everything that has been received, until it pauses."""
        if self._is_reading:
            # It has resumed within what it was told: the loop below goes on.
            return
        self._is_reading = True
        has_told = False
        try:
            while not self._is_paused and self._read_next():
                has_told = True
        finally:
            self._is_reading = False
        if has_told and self._state is not State.OVER:
            self._listener.caught_up()

    def _read_next(self) -> bool:
        """
        :return: whether there was something to tell, and more may be.
        """
        try:
            event = self._next_event()
        except h11.RemoteProtocolError as error:
            what = "is not HTTP" if self._lost is None else "has been cut off"
            # Without the traceback, which refers to this, and which older Twisteds keep.
            reason = Failure(error.with_traceback(None))
            self._fail(InvalidResponse(f"the answer {what}: {error}", reason))
            return False
        except InvalidResponse as error:
            self._fail(error.with_traceback(None))
            return False
        if event is not None:
            self._tell(event)
            return self._state is not State.OVER
        if self._lost is not None and self._state is not State.OVER:
            self._fail((ResponseFailed if self.has_received else ResponseNeverReceived)([self._lost]))
        return False

    def _next_event(self) -> bytes | AnswerHead | End | None:
        """
        :return: a head, a part of a body, or a body's end; None if there is none to be read.
        :raises InvalidResponse: if what has been received breaks the rules; also raises
            ``h11.RemoteProtocolError`` for that.
        """
        if self._state.has_body:
            return self._messages.read_part(self._is_clean_end)
        if not self._state.is_undecided or (data := self._heads.next_head()) is None:
            return None
        if self._offer is None and data[9:12] == b"101":
            raise InvalidResponse("a 101 Switching Protocols that nobody asked for")
        head = self._messages.read_head(data)
        if head.event is not None:
            self._check(head.event)
        return head

    def _check(self, head: Head) -> None:
        """
        :raises InvalidResponse: if a head breaks rules that h11 does not know.
        """
        if not head.http_version.startswith(b"1."):
            raise InvalidResponse("the answer is not HTTP/1.1")
        if isinstance(head, h11.Response):
            if len(framings(head.headers.raw_items())) > 1:
                raise InvalidResponse("an answer with Content-Length and Transfer-Encoding")
        elif head.status_code == 101:
            self._token = switched_token(head, self._offer or Offer(), self._connection.lenient)
        else:
            self._informational += 1
            if self._informational > _MOST_INFORMATIONAL:
                raise InvalidResponse(f"more than {_MOST_INFORMATIONAL} answers before the final one")

    def _tell(self, event: bytes | AnswerHead | End) -> None:
        if isinstance(event, bytes):
            self._listener.data(event)
        elif isinstance(event, End):
            self._ended()
        elif event.code >= 200:
            self._responded(event)
        elif event.code != 101:
            self._listener.informational(event.code, event.phrase, event.fields)
        else:
            self._transport.pauseProducing()
            if self._state is State.SENDING:
                self._move(Event.SWITCH)
                self._switch = event
            else:
                self._switched(event, Event.SWITCH)

    def _responded(self, head: AnswerHead) -> None:
        self._move(Event.RESPONSE)
        rest = self._heads.take_rest()
        if rest:
            self._messages.receive(rest)
        self._listener.response(head.code, head.phrase, head.fields, head.version)

    # The end.

    def _leave(self, event: Event) -> tuple[ExchangeConnection, IExchangeListener]:
        """
        Be over.

        :return: the connection, which the caller has to take care of, and the listener, which it then
            tells.
        """
        self._move(event)
        connection, listener = self._connection, self._listener
        del self._connection, self._listener
        producer = self._take_producer()
        if producer is not None:
            producer.stopProducing()
        return connection, listener

    def _ended(self) -> None:
        # What comes behind an answer belongs to nobody; and a server that has answered early may never
        # read what is left of the request.
        is_loaded = self._messages.unread or _twisted.unsent(self._transport)
        is_reusable = self._offer is None and self._messages.are_complete
        connection, listener = self._leave(Event.ENDED)
        if is_loaded:
            connection.abort()
        elif is_reusable:
            connection.rest()
        else:
            connection.close()
        listener.ended()

    def _switched(self, head: AnswerHead, event: Event) -> None:
        """
        :param event: what completes the switch: its head, or the end of a request that it overtook.
        """
        connection, listener = self._leave(event)
        path = self._target.partition(b"?")[0]
        switched = connection.switch(self._token, path, self._heads.take_rest(), self._lost)
        listener.switched(head.code, head.phrase, head.fields, switched)

    def _fail(self, error: BaseException) -> None:
        may_retry = self._connection.was_used and isinstance(error, ResponseNeverReceived)
        connection, listener = self._leave(Event.FAILED)
        connection.abort()
        listener.failed(Failure(error), may_retry)
