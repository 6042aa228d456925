"""
:class:`StreamExchange`: one upgrade on a stream of an HTTP/2 connection (RFC 8441), and its answer.

What :class:`~.switching.SwitchingClient` is for a connection of HTTP/1.1, this is for a stream, whose
connection others share. It knows no frames: the connection (``http2``) gives it heads that have been
read, and the stream is its transport.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol
from urllib.parse import urlsplit

from h2.errors import ErrorCodes
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed
from twisted.web.http import RESPONSES
from zope.interface import implementer

from ..connection import AbortUnlessInstalled, HoldingProtocol, SwitchedConnection
from ..errors import InvalidResponse
from ..http2.fields import MalformedResponse, ResponseHead, read_response_head, request_fields
from .failures import cut_off
from .response import AnswerHead, Body, UpgradeResponse, body_done, empty_body
from .states import State

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse

    from ..http2.lists import Field
    from ..http2.reader import Message
    from ..http2.stream import HTTP2Stream
    from ..negotiation import UpgradeToken
    from .request import ClientRequest

__all__ = ["NotProcessed", "StreamExchange", "StreamsConnection", "connect_fields"]

# Seconds for which a server may leave its direction open, once a switched stream has ended here.
_LINGER = 5

# Interim answers that are one too many.
_MOST_INTERIM = 100

# RFC 8441 §5.
_NEVER_SENT = frozenset({b"sec-websocket-key"})


class NotProcessed(Exception):
    """
    The server says that it has not looked at a request, which may be sent again (RFC 9113 §8.7).

    :ivar wants_http1: whether it is to be sent over HTTP/1.1.
    """

    def __init__(self, message: str, wants_http1: bool = False) -> None:
        super().__init__(message)
        self.wants_http1 = wants_http1


class StreamsConnection(TypingProtocol):
    """The connection of a stream, as its exchange needs it."""

    clock: IReactorTime

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream."""

    def given_up(self, exchange: StreamExchange) -> None:
        """Nobody waits for an answer any more."""


class _Stage(Enum):
    WAITING = auto()
    """Nothing has come."""
    READING = auto()
    """Interim answers have come."""
    REFUSED = auto()
    """The server has refused, and the body of the answer is being read."""
    OVER = auto()
    """The stream is somebody else's, or has ended."""


def connect_fields(request: ClientRequest, token: UpgradeToken) -> list[Field]:
    """
    The header list of an extended CONNECT (RFC 8441 §4).

    :param request: a GET that an agent has made.
    :param token: what it asks for.
    """
    fields = [
        (name, value)
        for name, values in request.headers.getAllRawHeaders()
        for value in values
        if name.lower() not in _NEVER_SENT
    ]
    authority = (request.headers.getRawHeaders(b"host") or [b""])[0]
    path = b"/" + request.uri if request.uri.startswith(b"?") else request.uri
    protocol = str(token).encode("ascii")
    return request_fields(b"CONNECT", b"https", authority, path, fields, protocol)


@implementer(IHalfCloseableProtocol)
class StreamExchange(Protocol):
    """
    One request that asks for a switch of its stream. Afterwards a :class:`SwitchedConnection` owns the
    stream, or it ends.

    :ivar answer: fires with the response, or fails: with :class:`NotProcessed` if the request may be
        sent again. Cancelling it resets the stream.
    :ivar since: when the request was sent, in seconds on the connection's clock.
    :ivar received_before: how much the connection had received when the request was sent.
    """

    # From REFUSED on.
    _body: Body

    def __init__(
        self,
        connection: StreamsConnection,
        stream: HTTP2Stream,
        request: ClientRequest,
        token: UpgradeToken,
        received_before: int,
    ) -> None:
        self.answer: Deferred[IResponse] = Deferred(self._cancelled)
        self.since = connection.clock.seconds()
        self.received_before = received_before
        self._connection = connection
        self._stream = stream
        self._request = request
        self._token = token
        self._stage = _Stage.WAITING
        self._interim = 0

    @property
    def is_unanswered(self) -> bool:
        """Whether the head that decides has not come."""
        return self._stage in (_Stage.WAITING, _Stage.READING)

    def _move(self, stage: _Stage) -> _Stage:
        before, self._stage = self._stage, stage
        return before

    # What the connection says.

    def head_came(self, message: Message) -> None:
        """A head has come, and none that decides before it."""
        try:
            head = read_response_head(message.fields)
        except MalformedResponse as error:
            self._invalid(str(error))
            return
        if head.status >= 200:
            self._move(_Stage.OVER)
            (self._switch if head.status < 300 else self._refused)(head, message.ends)
            return
        self._stage = _Stage.READING
        self._interim += 1
        if message.ends:
            self._invalid("it ends behind an interim answer (RFC 9113 §8.1)")
        elif self._interim > _MOST_INTERIM:
            self._invalid("too many interim answers", ErrorCodes.ENHANCE_YOUR_CALM)

    def not_processed(self, error: NotProcessed) -> None:
        """The server has not looked at the request; the stream ends next."""
        if self.is_unanswered:
            self._fail(error)

    # What the stream says.

    def dataReceived(self, data: bytes) -> None:
        if self._stage is _Stage.REFUSED:
            self._body.write(data)
        elif self.is_unanswered:
            self._invalid("it begins without a head (RFC 9113 §8.1)")

    def readConnectionLost(self) -> None:
        if self.is_unanswered:
            self._invalid("it ends without a head (RFC 9113 §8.1)")
        elif self._move(_Stage.OVER) is _Stage.REFUSED:
            self._body.finish(body_done())

    def writeConnectionLost(self) -> None:
        """The server has been told that nothing will come on a stream that it has refused."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.is_unanswered:
            self._cut_off(reason)
        elif self._move(_Stage.OVER) is _Stage.REFUSED:
            self._body.finish(Failure(ResponseFailed([reason])))

    # How it ends without an answer.

    def _cancelled(self, answer: Deferred[IResponse]) -> None:
        self._connection.given_up(self)
        self._cut_off(Failure(CancelledError()))
        self._stream.abortConnection()

    def _cut_off(self, reason: Failure) -> None:
        is_waiting = self._stage is _Stage.WAITING
        self._fail(cut_off(State.WAITING if is_waiting else State.READING, reason))

    def _invalid(self, why: str, code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        self._fail(InvalidResponse(f"the answer is not HTTP/2: {why}"))
        self._connection.reset(self._stream.stream_id, code)

    def _fail(self, error: Exception) -> None:
        self._move(_Stage.OVER)
        self._take_answer().errback(Failure(error))

    def _take_answer(self) -> Deferred[IResponse]:
        """The Deferred to fire, which this protocol then forgets: the two know each other."""
        answer = self.answer
        del self.answer
        return answer

    # How it is answered.

    def _refused(self, head: ResponseHead, ends: bool) -> None:
        """Everything but a 2xx is an ordinary answer."""
        stream = self._stream
        body = Body(stream)
        if ends:
            body.finish(body_done())
            stream.resumeProducing()
        else:
            self._body = body
            self._move(_Stage.REFUSED)
            stream.rest = head.content_length
        # A request without content, which a server that refuses waits to see the end of.
        stream.loseWriteConnection()
        self._take_answer().callback(UpgradeResponse(_answer(head), self._request, body))

    def _switch(self, head: ResponseHead, ends: bool) -> None:
        """Any 2xx: what comes from now on is the target's, and waits for it."""
        stream = self._stream
        stream.pauseProducing()
        stream.linger = _LINGER
        stream.protocol = holding = HoldingProtocol(stream, b"")
        connection = SwitchedConnection(
            stream,
            self._token,
            urlsplit(self._request.uri).path,
            self._connection.clock.seconds(),
            uninstalled=AbortUnlessInstalled(holding),
        )
        response = UpgradeResponse(_answer(head), self._request, empty_body(), connection)
        self._take_answer().callback(response)


def _answer(head: ResponseHead) -> AnswerHead:
    """A head as responses have it; HTTP/2 has no phrases, so it has the usual one."""
    phrase = RESPONSES.get(head.status, b"")
    return AnswerHead((b"HTTP", 2, 0), head.status, phrase, head.fields)
