"""
HTTP/2 for a site's requests: :class:`ServerConnection`, and :class:`StreamChannel`, which is for one
stream what ``HTTPChannel`` is for an HTTP/1.1 connection.

The request on a stream is a twisted.web request like any other, and its channel is the stream's
protocol. If it switches, the stream is the transport that is handed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import implementer

from .. import _twisted
from ..http2.connection import MOST_STREAMS, ConnectionState, HTTP2Connection, new_machine
from ..http2.fields import MalformedRequest, RequestHead, read_request_head, response_fields
from ..http2.stream import Direction
from ..interfaces import IDetachable, IDrainable, SwitchHead
from ..negotiation import UpgradeToken
from .content import Demand, IContentSource

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IProducer
    from twisted.web.http_headers import Headers

    from ..http2.stream import HTTP2Stream
    from ..interfaces import CarriedRequest, IUpgradeSite
    from .content import ContentStream

__all__ = ["ConnectChannel", "ServerConnection", "StreamChannel", "are_settings"]

# RFC 9113 §3.4.
_PREFACE_LENGTH = 24

# ":method: GET", ":scheme: https" and ":path: /", by their places in HPACK's table (RFC 7541 §A).
_STAND_IN = b"\x82\x87\x84"

# Seconds for which a client may leave its direction open, once a switched stream has ended here.
# Firefox never ends it after a WebSocket; Chromium takes a reset that comes at once for a failure.
_LINGER = 5

# Bytes of a content that set its timer back: one at a time would hold a stream for ever.
_LEAST_PROGRESS = 1024

OK, NOT_IMPLEMENTED = 200, 501


def are_settings(value: bytes) -> bool:
    """
    Whether a base64url string is the payload of a SETTINGS frame with valid settings. A connection that
    is made for this alone tries it out.
    """
    machine = new_machine(is_client=False)
    try:
        machine.initiate_upgrade_connection(value)
    except (H2Error, ValueError):
        return False
    return True


@implementer(IDrainable)
class ServerConnection(HTTP2Connection, TimeoutMixin):
    """
    A client's HTTP/2 connection to a site.

    :ivar site: answers the requests.
    """

    stand_in = _STAND_IN

    def __init__(
        self,
        site: IUpgradeSite,
        settings: bytes | None = None,
        carried: CarriedRequest | None = None,
    ) -> None:
        """
        :param settings: the value of HTTP2-Settings, if the connection was upgraded (RFC 7540 §3.2).
        :param carried: the request that was upgraded; it is answered on stream 1.
        """
        ours = {SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS}
        if site.takes_http2_connect:
            ours[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        super().__init__(site.reactor, is_client=False, settings=ours)
        self.site = site
        self.timeOut = site.timeOut
        self.callLater = site.reactor.callLater
        self._settings = settings
        self._carried = carried
        self._preface_left = _PREFACE_LENGTH
        self._head_timer: IDelayedCall | None = None
        self._is_draining = self._has_announced_end = False

    def begin(self) -> None:
        self.site.http2_connections.add(self)
        self.setTimeout(self.timeOut)
        if self._settings is None:
            self.machine.initiate_connection()
        else:
            self.machine.initiate_upgrade_connection(self._settings)

    def connectionMade(self) -> None:
        super().connectionMade()
        carried, self._carried = self._carried, None
        if carried is not None:
            self.last_opened = 1
            self._answer(1, _head_of(carried), True, carried)
            stream = self.streams.get(1)
            if stream is not None:
                stream.peer_ended()

    def _read(self, data: bytes) -> bytes:
        if self._preface_left:
            begun = data[: self._preface_left]
            self.machine.receive_data(begun)
            self._preface_left -= len(begun)
            data = data[len(begun) :]
        return super()._read(data)

    # Streams.

    def opened(self, stream_id: int, fields: list[tuple[bytes, bytes]], ends: bool) -> None:
        self.resetTimeout()
        try:
            head = read_request_head(fields)
        except MalformedRequest:
            self.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if head.protocol is not None and not self.site.takes_http2_connect:
            # RFC 8441 §3: the client was not told that it may.
            self.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        elif head.content_length and ends:
            # RFC 9113 §8.1.1.
            self.reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            self._answer(stream_id, head, ends)

    def _answer(
        self, stream_id: int, head: RequestHead, ends: bool, carried: CarriedRequest | None = None
    ) -> None:
        stream = self.add_stream(stream_id)
        make = ConnectChannel if head.method == b"CONNECT" else StreamChannel
        channel = make(self, stream, head)
        stream.protocol = channel
        channel.begin(ends, carried)

    def emptied(self) -> None:
        self.resetTimeout()
        if self.state is ConnectionState.GOING_AWAY or self._is_draining:
            # Not now: a new request may follow the frame that has ended this stream.
            self.clock.callLater(0, self._close_if_empty)

    def _close_if_empty(self) -> None:
        if not self.streams:
            self.close()

    # Time-outs.

    def is_reading_head(self, is_reading: bool) -> None:
        seconds = self.site.head_timeout
        if is_reading and self._head_timer is None and seconds is not None:
            self._head_timer = self.clock.callLater(seconds, self._head_took_too_long)
        elif not is_reading:
            self._stop_head_timer()

    def _stop_head_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        self.fail(ErrorCodes.ENHANCE_YOUR_CALM)

    def timeoutConnection(self) -> None:
        """As with HTTP/1.1, whose idle timer stands still while a request is being answered."""
        if any(map(self._is_at_work, self.streams.values())):
            self.setTimeout(self.timeOut)
        else:
            self.close()

    def _is_at_work(self, stream: HTTP2Stream) -> bool:
        """Whether the next step on a stream is this side's, or whether it may take any time."""
        channel = stream.protocol
        if not isinstance(channel, StreamChannel):
            return not stream.disconnected
        # A content that is to come has a timer of its own.
        return not stream.unsent or self.machine.local_flow_control_window(stream.stream_id) > 0

    # The end.

    def drain(self) -> None:
        """
        Say goodbye, and close the connection as soon as all that has been asked is answered (RFC 9113
        §6.8). Some clients give up an answer that is under way when they hear a goodbye, so it waits
        until there is none; switched streams are told by themselves.
        """
        self._is_draining = True
        self.answered()

    def answered(self) -> None:
        """A request has been answered, or has switched."""
        if not self._is_draining or self._has_announced_end:
            return
        if not any(isinstance(stream.protocol, StreamChannel) for stream in self.streams.values()):
            self._has_announced_end = True
            if self.streams:
                self.say_goodbye()
            else:
                self.clock.callLater(0, self._close_if_empty)

    def _close(self, reason: Failure) -> None:
        self._stop_timers()
        super()._close(reason)

    def _stop_timers(self) -> None:
        self._stop_head_timer()
        self.setTimeout(None)
        self.site.http2_connections.discard(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timers()
        super().connectionLost(reason)
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.content.close()


def _head_of(carried: CarriedRequest) -> RequestHead:
    """A request that came over HTTP/1.1 (RFC 9113 §8.3.1)."""
    fields = [(name.lower(), value) for name, value in carried.fields]
    (host,) = (value for name, value in fields if name == b"host")
    rest = [(name, value) for name, value in fields if name != b"host"]
    return RequestHead(carried.method, b"http", host, carried.target, None, rest, None)


@implementer(IProtocol, IHalfCloseableProtocol, IContentSource)
class StreamChannel(_twisted.RefusingChannel):
    """
    The channel of a request that has come over HTTP/2.

    :ivar site: answers the request, and logs it.
    :ivar transport: the stream.
    """

    persistent = True
    #: The token that an extended CONNECT names (RFC 8441 §4).
    connect_protocol: UpgradeToken | None = None

    def __init__(self, connection: ServerConnection, stream: HTTP2Stream, head: RequestHead) -> None:
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
        _twisted.set_fields(request.requestHeaders, [(b"host", head.authority), *head.fields])
        request.parseCookies()
        self.transport.rest = 0 if ends else head.content_length
        request.gotLength(0 if ends else head.content_length)
        if carried is not None:
            request.content.close()
            request.content = carried.content
        elif not ends and self.transport.receiving is Direction.OPEN:
            self._start_timer()
            if self._content is not None:
                request.process()
            elif b"expect" in (name for name, _ in head.fields):
                self._send_continue()

    def _send_continue(self) -> None:
        expected = self._request.requestHeaders.getRawHeaders(b"expect") or ()
        if expected and expected[0].lower() == b"100-continue":
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
            self._timer.reset(self._connection.timeOut)
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

    def makeConnection(self, transport: object) -> None:
        """The stream is there from the beginning."""

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
        seconds = self._connection.timeOut
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
        return self.transport.getPeer()

    def getHost(self) -> IAddress:
        return self.transport.getHost()

    def isSecure(self) -> bool:
        return self._connection.is_secure

    def getPeerCertificate(self) -> object:
        transport = self._connection.transport
        return transport.getPeerCertificate() if ISSLTransport.providedBy(transport) else None


@implementer(IDetachable)
class ConnectChannel(StreamChannel):
    """
    The channel of a CONNECT, whose stream can be handed over. With ``:protocol`` (RFC 8441 §4) it
    offers that token, and is shown as a GET, so that resources and routers find it.

    What comes before there is an answer waits in the stream.
    """

    _is_leaving = False
    # Whether a page's 2xx, which would mean a tunnel, has been replaced.
    _is_replaced = False

    def __init__(self, connection: ServerConnection, stream: HTTP2Stream, head: RequestHead) -> None:
        super().__init__(connection, stream, head)
        if head.protocol is not None:
            self.connect_protocol = UpgradeToken.parse(head.protocol)

    def begin(self, ends: bool, carried: CarriedRequest | None = None) -> None:
        super().begin(True)
        self.transport.rest = None
        self.transport.pauseProducing()
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
        assert head is not None
        self._is_leaving = True
        self.transport.linger = _LINGER
        self.transport.send_head(response_fields(head.code, head.fields))
        self._request.finish()
        self.transport.unregisterProducer()
        return self.transport.take_held()

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
        self.transport.loseConnection()
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
