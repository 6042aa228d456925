"""
:class:`ClientConnection`: an HTTP/2 connection to a server that takes upgrades on its streams (RFC
8441).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from .. import _twisted
from ..connection import HoldingProtocol
from ..http2.connection import HTTP2Connection
from ..http2.ending import ConnectionState
from ..http2.machine import MOST_STREAMS
from .stream_exchange import NotProcessed, StreamExchange, connect_fields

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.iweb import IResponse

    from ..http2.reader import Message
    from ..http2.stream import HTTP2Stream
    from ..negotiation import UpgradeToken
    from .request import ClientRequest

__all__ = ["ClientConnection", "ConnectionOwner"]

# ":status: 200", by its place in HPACK's table (RFC 7541 §A); ":status: 100", its name by that place.
_FINAL = b"\x88"
_INTERIM = b"\x08\x03100"

# Seconds in which a server that is there would have answered something.
_SILENT_SECONDS = 2

_CONNECT_PROTOCOL = SettingCodes.ENABLE_CONNECT_PROTOCOL


class ConnectionOwner(TypingProtocol):
    """Who has a connection, and gives it out for requests."""

    @property
    def seconds_idle(self) -> float:
        """For how many seconds a connection without streams is kept."""

    def began(self, connection: ClientConnection) -> None:
        """The server's first settings have come: it is known what it can do."""

    def takes_no_more(self, connection: ClientConnection, reason: Failure) -> None:
        """No more requests can be sent; called once or more."""

    def lost(self, connection: ClientConnection, reason: Failure) -> None:
        """The connection has ended."""


class ClientConnection(HTTP2Connection):
    """
    A client's connection, which opens streams and accepts none: the server is told not to push.
    """

    def __init__(self, clock: IReactorTime, owner: ConnectionOwner) -> None:
        super().__init__(clock, is_client=True, settings={SettingCodes.ENABLE_PUSH: 0})
        self._owner = owner
        self._has_begun = self._is_retired = False
        self._received = 0
        self._idle_call: IDelayedCall | None = None
        self._closed: list[Deferred[None]] = []

    def connectionMade(self) -> None:
        _twisted.send_small_parts(self.transport)
        super().connectionMade()

    @property
    def takes_upgrades(self) -> bool:
        """Whether the server has said that it takes an extended CONNECT (RFC 8441 §3)."""
        return bool(self.machine.remote_settings.get(_CONNECT_PROTOCOL, 0))

    @property
    def has_room(self) -> bool:
        """Whether another stream can be opened now."""
        if self.state is not ConnectionState.OPEN or self._is_retired or not self.takes_upgrades:
            return False
        # h2 also counts streams that have ended here, and whose end the server has not heard of.
        count = max(len(self.streams), self.machine.open_outbound_streams)
        # The connection's window is as wide as those of so many streams.
        return count < min(self.machine.remote_settings.max_concurrent_streams, MOST_STREAMS)

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses a stream, or is about to."""
        return self._has_begun and all(stream.disconnected for stream in self.streams.values())

    # Requests.

    def ask(self, request: ClientRequest, token: UpgradeToken) -> Deferred[IResponse]:
        """
        Ask for a switch, on a stream of its own; there must be room.

        :param request: a GET without content. It is left as it is.
        :param token: what it asks for.
        :return: fires with the response, or fails; with :class:`NotProcessed` if the server says that
            it did not look at the request. Cancelling it resets the stream.
        """
        self._stop_idle_timer()
        stream_id = self.machine.get_next_available_stream_id()
        stream = self.add_stream(stream_id)
        stream.outlasts = True
        exchange = StreamExchange(self, stream, request, token, self._received)
        stream.protocol = exchange
        # Not in turns: the numbers of streams have to go up.
        self.machine.send_headers(stream_id, connect_fields(request, token))
        answer = exchange.answer
        if not (self.turns.is_held or self.is_closed):
            self.turns.flush(unasked=True)
        return answer

    def given_up(self, exchange: StreamExchange) -> None:
        """
        Nobody waits for an answer any more. If nothing at all has come in the seconds since the request
        was sent, the connection may be dead: then it gets no more of them.
        """
        waited = self.clock.seconds() - exchange.since
        if exchange.received_before == self._received and waited >= _SILENT_SECONDS:
            self.retire()

    def retire(self) -> None:
        """Open no more streams, and close the connection when the last one has ended."""
        self._is_retired = True
        if not self.streams:
            self.emptied()

    # What comes.

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        super().dataReceived(data)

    def settings_came(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._owner.began(self)
            if not self.streams:
                self.emptied()

    def stand_in_for(self, message: Message) -> bytes:
        # Of a stream that has been reset here, h2 drops what is final, and no other.
        if message.ends or message.stream_id not in self.streams or not message.fields:
            return _FINAL
        name, value = message.fields[0]
        return _INTERIM if name == b":status" and value[:1] == b"1" else _FINAL

    def opened(self, message: Message) -> None:
        if not message.stream_id % 2:
            # RFC 9113 §5.1: only a client begins with HEADERS.
            self.fail(ErrorCodes.PROTOCOL_ERROR)

    def continued(self, stream: HTTP2Stream, message: Message) -> None:
        exchange = stream.protocol
        is_exchange = isinstance(exchange, StreamExchange)
        if is_exchange and exchange.is_unanswered:
            exchange.head_came(message)
        elif is_exchange or stream.disconnected:
            super().continued(stream, message)
        else:
            # A tunnel has no trailers (RFC 9113 §8.5).
            self.reset(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)

    def stream_ended(self, stream: HTTP2Stream) -> None:
        # At once: a server may reset a stream behind its answer, which is complete (RFC 9113 §8.1).
        stream.peer_ended()

    def stream_reset(self, stream: HTTP2Stream, code: int) -> None:
        exchange = stream.protocol
        if isinstance(exchange, StreamExchange):
            if code == ErrorCodes.REFUSED_STREAM:
                exchange.not_processed(NotProcessed("the server has refused the stream"))
            elif code == ErrorCodes.HTTP_1_1_REQUIRED:
                exchange.not_processed(NotProcessed("the server requires HTTP/1.1", wants_http1=True))
        _keep_held(stream)
        super().stream_reset(stream, code)

    def told_goodbye(self, last_stream: int, code: int) -> None:
        self.state = ConnectionState.GOING_AWAY
        why = ConnectionLost("the server has closed the connection to new requests")
        self._owner.takes_no_more(self, Failure(why))
        for stream in [s for s in self.streams.values() if s.stream_id > last_stream]:
            self.forget(stream)
            if isinstance(stream.protocol, StreamExchange):
                stream.protocol.not_processed(NotProcessed(str(why)))
            stream.finish(Failure(why))
        super().told_goodbye(last_stream, code)

    # The end.

    def emptied(self) -> None:
        if self.is_closed:
            return
        self._stop_idle_timer()
        is_over = self.state is ConnectionState.GOING_AWAY or self._is_retired
        # Not now, if at all: what comes next may be another request.
        seconds = 0 if is_over else self._owner.seconds_idle
        self._idle_call = self.clock.callLater(seconds, self._idle_for_long)

    def _stop_idle_timer(self) -> None:
        call, self._idle_call = self._idle_call, None
        if call is not None:
            call.cancel()

    def _idle_for_long(self) -> None:
        self._idle_call = None
        if not self.streams:
            self.close()

    def close_if_idle(self) -> Deferred[None]:
        """
        Close the connection if nobody uses it.

        :return: fires when it is closed; has fired if it is not to be closed.
        """
        if not self.is_idle:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        self.close()
        return closed

    def _close(self, reason: Failure) -> None:
        self._stop_idle_timer()
        # Before its streams end, whose requests may be sent again.
        self.state = ConnectionState.CLOSED
        self._owner.takes_no_more(self, reason)
        super()._close(reason)

    def _end_streams(self, reason: Failure) -> None:
        for stream in self.streams.values():
            _keep_held(stream)
        super()._end_streams(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_idle_timer()
        self.state = ConnectionState.CLOSED
        self._owner.lost(self, reason)
        super().connectionLost(reason)
        closed, self._closed = self._closed, []
        for waiting in closed:
            waiting.callback(None)


def _keep_held(stream: HTTP2Stream) -> None:
    """Keep what has come for a target that is not there yet, since the stream is about to end."""
    if isinstance(stream.protocol, HoldingProtocol):
        held = stream.take_held()
        if held:
            stream.protocol.dataReceived(held)
