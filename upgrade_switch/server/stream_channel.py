"""
:class:`StreamChannel`: for one stream of HTTP/2 what ``HTTPChannel`` is for an HTTP/1.1 connection.

The request on a stream is a twisted.web request like any other, and its channel is the stream's
protocol. If it switches (:class:`ConnectChannel`), the stream is the transport that is handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from typing import Protocol as TypingProtocol

from h2.errors import ErrorCodes
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import implementer

from .. import _twisted
from ..fields import says_continue
from ..http2.fields import RequestHead, response_fields
from ..http2.machine import STREAM_WINDOW
from ..interfaces import IDetachable, SwitchHead
from ..negotiation import UpgradeToken
from .content import Demand, IContentSource

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IProducer
    from twisted.web.http_headers import Headers

    from ..http2.stream import HTTP2Stream
    from ..interfaces import CarriedRequest, IUpgradeSite
    from .content import ContentStream

__all__ = ["ConnectChannel", "RequestsConnection", "StreamChannel"]

# Seconds for which a client may leave its direction open, once a switched stream has ended here.
# Firefox never ends it after a WebSocket; Chromium takes a reset that comes at once for a failure.
_LINGER = 5

# How many bytes of content restart its timer: if a single one did, a stream could be held for ever.
_LEAST_PROGRESS = 1024

NOT_IMPLEMENTED = 501


class RequestsConnection(TypingProtocol):
    """The connection that requests come on, as their channels need it."""

    site: IUpgradeSite
    clock: IReactorTime

    @property
    def is_secure(self) -> bool:
        """Whether there is TLS beneath."""

    def when_read(self, stream: HTTP2Stream, act: Callable[[], object]) -> None:
        """Have something done when all that has come has been read."""

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream."""

    def widen(self, stream: HTTP2Stream) -> None:
        """What comes on a stream is never kept waiting: let more be on its way."""

    def is_alive(self) -> None:
        """The client goes on: it is not idle."""

    def answered(self) -> None:
        """A request has been answered, or has switched."""


@implementer(IHalfCloseableProtocol, IContentSource)
class StreamChannel(_twisted.RefusingChannel, Protocol):
    """
    The channel of a request that has come over HTTP/2.

    :ivar site: answers the request, and logs it.
    :ivar transport: the stream.
    """

    transport: HTTP2Stream
    persistent = True
    #: The token that an extended CONNECT names (RFC 8441 §4).
    connect_protocol: UpgradeToken | None = None

    def __init__(self, connection: RequestsConnection, stream: HTTP2Stream, head: RequestHead) -> None:
        self.site = self.factory = connection.site
        self.transport = stream
        self._connection = connection
        self._head = head
        self._request: Any = None
        self._content: ContentStream | None = None
        self._timer: IDelayedCall | None = None
        self._progress = 0
        self._is_complete = False

    # The request.

    def begin(self, ends: bool, carried: CarriedRequest | None = None) -> None:
        """
        Make the request, whose head has come.

        :param ends: whether it is without content.
        :param carried: a request whose content has come already.
        """
        head = self._head
        factory: Any = self.site.requestFactory
        if INonQueuedRequestFactory.providedBy(factory):
            request = factory(self)
        else:
            request = factory(self, False)
        self._request = request
        fields = [(b"host", head.authority), *head.fields]
        _twisted.raw_fields(request.requestHeaders).update(_twisted.by_name(fields))
        self.transport.rest = 0 if ends else head.content_length
        request.gotLength(0 if ends else head.content_length)
        if carried is not None:
            request.content.close()
            request.content = carried.content
        elif not ends and not self.transport.is_closing:
            self._start_timer()
            if self._content is not None:
                # The resource sets the pace.
                request.process()
                return
            if head.content_length is None or head.content_length > STREAM_WINDOW:
                self._connection.widen(self.transport)
            if b"expect" in (name for name, _ in head.fields):
                self._send_continue()

    def _send_continue(self) -> None:
        if says_continue(self._request.requestHeaders.getRawHeaders(b"expect") or ()):
            self.write_informational(100, b"", ())

    @property
    def request_target(self) -> tuple[bytes, bytes]:
        """Method and target, as the request has them."""
        assert self._head.path is not None
        return self._head.method, self._head.path

    def dataReceived(self, data: bytes) -> None:
        self._progress += len(data)
        if self._timer is not None and self._progress >= _LEAST_PROGRESS:
            self._progress = 0
            self._stop_timer()
            self._start_timer()
            self._connection.is_alive()
        if self._request is not None:
            self._request.handleContentChunk(data)

    def readConnectionLost(self) -> None:
        """The request is complete."""
        self._is_complete = True
        self._stop_timer()
        if self._request is not None:
            self._request.requestReceived(*self.request_target, b"HTTP/2")

    def writeConnectionLost(self) -> None:
        """The answer has been sent, and the stream is over."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        request, self._request = self._request, None
        if request is not None:
            request.connectionLost(reason)
            self._connection.answered()

    # The content (IContentSource).

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        return (*self.request_target, b"HTTP/2")

    def stream_into(self, stream: ContentStream) -> None:
        self._content = stream

    def pace(self, demand: Demand) -> None:
        if demand is Demand.NOTHING:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()
        self._stop_timer()
        if demand is Demand.MORE and not self._is_complete:
            self._start_timer()

    def _start_timer(self) -> None:
        seconds = self.site.timeOut
        if seconds is not None and self._timer is None:
            self._timer = self._connection.clock.callLater(seconds, self._content_took_too_long)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _content_took_too_long(self) -> None:
        self._timer = None
        self._connection.reset(self.transport.stream_id, ErrorCodes.CANCEL)

    # The answer: what a twisted.web request does with its channel.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        fields = [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self.transport.send_head(response_fields(int(code), fields))

    def write_informational(
        self, code: int, phrase: bytes, fields: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Send an interim response (RFC 9113 §8.1)."""
        self.transport.send_head(response_fields(code, fields))

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        self.transport.write(b"".join(iovec))

    def requestDone(self, request: object) -> None:
        self._request = None
        self._stop_timer()
        self.transport.loseConnection()
        self._connection.answered()

    def loseConnection(self) -> None:
        """Cut the answer off. (A reset with NO_ERROR would say that it is complete.)"""
        self._connection.reset(self.transport.stream_id, ErrorCodes.INTERNAL_ERROR)

    def forceAbortClient(self) -> None:
        self.loseConnection()

    def abortConnection(self) -> None:
        self.loseConnection()

    def refuse_request(self) -> None:
        self.transport.send_head(response_fields(400, ()))
        self._request = None
        self.transport.loseConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self.transport.unregisterProducer()

    def getPeer(self) -> IAddress:
        address: IAddress = self.transport.getPeer()
        return address

    def getHost(self) -> IAddress:
        address: IAddress = self.transport.getHost()
        return address

    def isSecure(self) -> bool:
        return self._connection.is_secure


@implementer(IDetachable)
class ConnectChannel(StreamChannel):
    """
    The channel of a CONNECT, whose stream can be handed over. With ``:protocol`` (RFC 8441 §4) it
    offers that token, and is shown as a GET, so that resources and routers find it.

    What comes before there is an answer waits in the stream.
    """

    # None is: a client that has left resets its stream.
    outlives_half_close = True
    _is_leaving = False
    # Whether a page's 2xx, which would mean a tunnel, has been replaced.
    _is_replaced = False

    def __init__(self, connection: RequestsConnection, stream: HTTP2Stream, head: RequestHead) -> None:
        super().__init__(connection, stream, head)
        if head.protocol is not None:
            self.connect_protocol = UpgradeToken.parse(head.protocol)

    def begin(self, ends: bool, carried: CarriedRequest | None = None) -> None:
        super().begin(True)
        self.transport.rest = None
        self.transport.pauseProducing()
        self._connection.when_read(self.transport, self._process)

    def _process(self) -> None:
        self._request.requestReceived(*self.request_target, b"HTTP/2")

    @property
    def request_target(self) -> tuple[bytes, bytes]:
        if self.connect_protocol is None:
            return b"CONNECT", self._head.authority
        assert self._head.path is not None
        return b"GET", self._head.path

    def dataReceived(self, data: bytes) -> None:
        """Nobody is there any more whom it is for."""

    def readConnectionLost(self) -> None:
        """The client is done with a stream that has been answered in HTTP."""

    # IDetachable.

    def has_trailing_data(self) -> bool:
        # A client that does not wait does no harm: its bytes cannot be taken for a request.
        return False

    def slot(self) -> _twisted.Slot:
        return _twisted.slot_of(self.transport, self)

    def detach(self, head: SwitchHead | None) -> bytes:
        """
        Answer with a 2xx; the stream's connection is HTTP/2's as before.

        :param head: the answer.
        :return: what has come on the stream by now.
        """
        assert head is not None
        self._is_leaving = True
        self.transport.linger = _LINGER
        self.transport.send_head(response_fields(head.code, head.fields))
        self._request.finish()
        self.transport.unregisterProducer()
        trailing: bytes = self.transport.take_held()
        return trailing

    def requestDone(self, request: object) -> None:
        if self._is_leaving:
            self._request = None
            # The stream is the target's now, as soon as it is handed over.
            self._connection.clock.callLater(0, self._connection.answered)
        elif not self._is_replaced:
            super().requestDone(request)
        else:
            self._request = None

    # Any 2xx means a tunnel (RFC 9110 §9.3.6, RFC 8441 §5).

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        if not 200 <= int(code) < 300:
            super().writeHeaders(version, code, reason, headers)
            return
        self._is_replaced = True
        self._request.code, self._request.code_message = NOT_IMPLEMENTED, RESPONSES[NOT_IMPLEMENTED]
        kept = [
            (name, value)
            for name in (b"server", b"date")
            for value in headers.getRawHeaders(name) or ()
        ]
        self.transport.send_head(response_fields(NOT_IMPLEMENTED, [*kept, (b"content-length", b"0")]))
        producer = self.transport.producer
        self.transport.unregisterProducer()
        # Not now: the page is in the middle of a write, and has not gone yet.
        self._connection.clock.callLater(0, self.transport.loseConnection)
        if producer is not None:
            producer.stopProducing()

    def write(self, data: bytes) -> None:
        if not self._is_replaced:
            super().write(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        self.write(b"".join(iovec))

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._is_replaced:
            producer.stopProducing()
        else:
            super().registerProducer(producer, streaming)
