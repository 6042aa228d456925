"""
A connection to a back end, for one exchange after another: :class:`ExchangeClient`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from .. import _twisted
from ..connection import AbortUnlessInstalled, HoldingProtocol, SwitchedConnection
from ..errors import InvalidArgument, InvalidResponse
from ..interfaces import IStreamTransport
from ..negotiation import Offer, UpgradeToken
from ..sending import is_clean_end
from .exchange import Exchange
from .exchange_heads import request_head
from .exchange_interfaces import ExchangeHead, IExchangeListener, framings
from .exchange_messages import Messages
from .failures import explained
from .states import State
from .whole_answers import IAsker, whole_answer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["ExchangeClient", "ExchangeFactory", "IdleStore"]


class IdleStore(TypingProtocol):
    """Has the connections that rest."""

    def put(self, client: ExchangeClient) -> None:
        """A connection rests: it is the store's until it is taken out or has ended."""

    def remove(self, client: ExchangeClient) -> None:
        """A connection cannot be used any more; harmless if the store does not have it."""


class ExchangeClient(Protocol):
    """
    One connection to a back end, in plain HTTP/1.1 until it switches. It has one exchange at a time;
    between two of them it rests in a store.

    :ivar key: what the store finds it by.
    :ivar was_used: whether there has been an exchange on it before the one that is going on, or before
        the next.
    :ivar lenient: whether a 101 without ``Connection: upgrade`` switches.
    """

    transport: IStreamTransport

    def __init__(
        self, clock: IReactorTime, idle_store: IdleStore, key: Hashable = None, lenient: bool = False
    ) -> None:
        """
        :param clock: tells when the connection has switched.
        :param idle_store: gets the connection whenever it rests.
        """
        self.key = key
        self.was_used = False
        self.lenient = lenient
        self.messages = Messages()
        self._clock = clock
        self._idle_store = idle_store
        self._exchange: Exchange | None = None
        # Who has asked, until anything comes of the answer; and how long the content is that was sent.
        self._asker: IAsker | None = None
        self._size = 0
        self._is_head = False
        # Why there can be no exchange any more: it is over, or being closed.
        self._why_over: BaseException | None = None
        self._is_lost = False
        self._waiting: list[Deferred[None]] = []
        self._tls: TLSMemoryBIOProtocol | None = None
        self._last_reading: _twisted.LastReading | None = None

    def logPrefix(self) -> str:
        return "exchange"

    def connectionMade(self) -> None:
        # Later, the transport no longer knows its TLS layer.
        self._tls = _twisted.tls_layer(self.transport)
        _twisted.send_small_parts(self.transport)

    def exchange(self, head: ExchangeHead, listener: IExchangeListener) -> Exchange:
        """
        Send the head of a request. If there is a body, it is sent with its first part.

        :param head: the head.
        :param listener: is told of the answer, or of the failure, perhaps within this call.
        :return: the exchange, to which the caller writes the request's body, and its end. If the first
            part of the body comes later than the reactor's next turn, the caller calls ``flush``.
        :raises InvalidArgument: if the head breaks HTTP's rules; then nothing has been sent, and the
            connection rests.
        :raises RuntimeError: if there is an exchange on this connection already.
        """
        if self.is_busy:
            raise RuntimeError("the connection is at work on another request")
        try:
            request = request_head(head)
        except InvalidArgument:
            self._rest_unless_over()
            raise
        is_counted = request.length is not None
        offered = [] if is_counted else [v for k, v in head.fields if k.lower() == b"upgrade"]
        exchange = Exchange(self, head, listener, Offer.parse(offered) if offered else None)
        if self._why_over is not None:
            exchange.refuse(self._why_over)
            return exchange
        self._exchange = exchange
        data = self.messages.send(request)
        if not request.length and (is_counted or not framings(request.fields)):
            _twisted.write_at_once(self.transport, data)
        else:
            # The body follows, of which the server may not want everything.
            if self._last_reading is None:
                self._last_reading = _twisted.LastReading(self.transport)
            exchange.held = data
        return exchange

    def ask(self, data: bytes, size: int, is_head: bool, asker: IAsker) -> None:
        """
        Send a whole request, which is plain: nothing in its head says what becomes of the connection,
        or how its answer is framed.

        :param data: all of it.
        :param size: how many of these bytes are its content.
        :param is_head: whether it is a HEAD, which has none.
        :param asker: is told of the answer, or of the failure, perhaps within this call. If it does not
            want to know any more, it calls :meth:`abort`.
        :raises RuntimeError: if there is an exchange on this connection already, or if it is over.
        """
        if self._exchange is not None or self._asker is not None or self._why_over is not None:
            raise RuntimeError("the connection is at work on another request, or is over")
        self._asker, self._size, self._is_head = asker, size, is_head
        if size and self._last_reading is None:
            # The server may not want everything.
            self._last_reading = _twisted.LastReading(self.transport)
        _twisted.write_at_once(self.transport, data)

    def go_on(self) -> None:
        """Have an exchange for what has been asked, as if it had begun with that."""
        asker, self._asker = self._asker, None
        assert asker is not None
        head = asker.asked_head()
        self.messages.send(request_head(head))
        self.messages.has_sent(self._size)
        exchange = self._exchange = Exchange(self, head, asker, None)
        # Of which nothing is left to be sent.
        exchange.end()
        asker.goes_on(exchange)

    @property
    def is_busy(self) -> bool:
        """Whether there is an exchange on it now, or something has been asked."""
        return self._exchange is not None or self._asker is not None

    @property
    def is_over(self) -> bool:
        """Whether there can be no exchange on it any more."""
        return self._why_over is not None

    @property
    def unsent(self) -> int:
        """How many bytes of what has been asked the server has not taken yet."""
        return _twisted.unacknowledged(self.transport)

    # What its transport calls.

    def dataReceived(self, data: bytes) -> None:
        asker = self._asker
        if asker is not None:
            answer = whole_answer(data, self._is_head)
            # A server that answers early may never read what is left of the request.
            if answer is not None and not _twisted.unsent(self.transport) and asker.takes_whole(answer):
                self._asker = None
                self.was_used = True
                self._idle_store.put(self)
                asker.answered(answer)
                return
            self.go_on()
        if self._exchange is not None:
            self._exchange.received(data)
        else:
            # A server that answers twice, or that does not speak HTTP. (Some send a 408 before they
            # close a connection that rests.)
            self._end(Failure(InvalidResponse("the server answers before it is asked")))
            _twisted.abort(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        is_clean = is_clean_end(self.transport, self._tls, reason)
        self._tls = None
        self._is_lost = True
        if self._asker is not None:
            self.go_on()
        exchange = self._exchange
        if not self.was_used:
            begun = State.READING if exchange is None or exchange.has_received else State.WAITING
            reason = explained(begun, reason, self.transport)
        self._end(reason)
        if exchange is not None:
            exchange.lost(reason, is_clean)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _end(self, why: Failure) -> None:
        """There is no further exchange on this connection."""
        if self._why_over is None:
            # What comes while a connection rests concerns no request: that can be sent elsewhere.
            is_answer = isinstance(why.value, InvalidResponse) and not self.was_used
            self._why_over = why.value if is_answer else ResponseNeverReceived([why])
            self._idle_store.remove(self)

    # What its exchange calls, and its store.

    def rest(self) -> None:
        self._exchange = None
        self.messages.start_again()
        self.was_used = True
        self._rest_unless_over()

    def _rest_unless_over(self) -> None:
        if self._why_over is None:
            self._idle_store.put(self)

    def close(self) -> None:
        """Close the connection, as soon as everything has been sent."""
        self._exchange = None
        self._end(Failure(ConnectionLost()))
        self.transport.loseConnection()

    def abort(self) -> Deferred[None]:
        """
        End the connection at once, and with it the exchange that goes on; what waits to be sent is
        lost. Harmless when it has ended.

        :return: fires when it has ended.
        """
        self._asker = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()
        self._end(Failure(ConnectionLost()))
        if self._is_lost:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        _twisted.abort(self.transport)
        return ended

    def switch(
        self, token: UpgradeToken, path: bytes, trailing: bytes, lost: Failure | None
    ) -> SwitchedConnection:
        self._exchange = None
        self._end(Failure(ConnectionLost()))
        self._tls = None
        if self._last_reading is not None and lost is None:
            self._last_reading.give_up()
        holding = HoldingProtocol(self.transport, trailing)
        if lost is None:
            _twisted.slot_of(self.transport).set(holding)
        else:
            holding.lost = lost
        return SwitchedConnection(
            self.transport,
            token,
            path,
            self._clock.seconds(),
            uninstalled=AbortUnlessInstalled(holding),
        )


class ExchangeFactory(Factory):
    """Builds these clients, for an endpoint that connects them."""

    noisy = False

    def __init__(
        self, clock: IReactorTime, idle_store: IdleStore, key: Hashable, lenient: bool
    ) -> None:
        """
        :param clock: as for :class:`ExchangeClient`; the other arguments too.
        """
        self._clock = clock
        self._idle_store = idle_store
        self._key = key
        self._lenient = lenient

    def buildProtocol(self, addr: object) -> ExchangeClient:
        return ExchangeClient(self._clock, self._idle_store, self._key, self._lenient)
