"""
:class:`ServerConnection`: HTTP/2 for a site's requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from ..http2.connection import HTTP2Connection
from ..http2.ending import ConnectionState
from ..http2.fields import MalformedRequest, RequestHead, check_trailers, read_request_head
from ..http2.machine import MOST_STREAMS, new_machine
from ..interfaces import IDrainable
from ..observe.events import notify_of_flood
from .stream_channel import ConnectChannel, StreamChannel
from .unread import UnreadAnswers

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ..http2.reader import Message
    from ..http2.stream import HTTP2Stream
    from ..interfaces import CarriedRequest, IUpgradeSite

__all__ = ["ServerConnection", "are_settings"]

# RFC 9113 §3.4.
_PREFACE_LENGTH = 24

# ":method: GET" by its place in HPACK's table (RFC 7541 §A): h2 looks at nothing else.
_STAND_IN = b"\x82"


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
    preface_left = _PREFACE_LENGTH

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
        self.timeOut: Any = site.timeOut
        self._settings = settings
        self._carried = carried
        self._head_timer: IDelayedCall | None = None
        self._unread = UnreadAnswers(self.timeOut)
        self._is_draining = self._has_announced_end = False

    def begin(self) -> None:
        self.site.http2_connections.add(self)
        self.setTimeout(self.timeOut)
        if self._settings is None:
            self.machine.initiate_connection()
        else:
            self.machine.initiate_upgrade_connection(self._settings)
            self.machine.limit_table()

    def connectionMade(self) -> None:
        super().connectionMade()
        carried, self._carried = self._carried, None
        if carried is not None:
            self.last_opened = 1
            self._answer(1, _head_of(carried), True, carried)
            stream = self.streams.get(1)
            if stream is not None:
                stream.end_came = True
                stream.peer_ended()

    # Streams.

    def opened(self, message: Message) -> None:
        self.resetTimeout()
        stream_id, ends = message.stream_id, message.ends
        try:
            head = read_request_head(message.fields)
        except MalformedRequest:
            self.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if head.protocol is not None and not self.site.takes_http2_connect:
            # RFC 8441 §3: the client was not told that it may.
            self.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
        elif head.content_length and ends:
            # RFC 9113 §8.1.1.
            self.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            self._answer(stream_id, head, ends)

    def continued(self, stream: HTTP2Stream, message: Message) -> None:
        if stream.end_came:
            # RFC 9113 §5.1: half-closed (remote).
            self.refuse(stream.stream_id, ErrorCodes.STREAM_CLOSED)
            return
        try:
            if type(stream.protocol) is not StreamChannel:
                # RFC 9113 §8.5: there are only bytes in a tunnel.
                raise MalformedRequest("a CONNECT has no trailers")
            check_trailers(message.fields)
        except MalformedRequest:
            self.refuse(stream.stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            super().continued(stream, message)

    def _answer(
        self, stream_id: int, head: RequestHead, ends: bool, carried: CarriedRequest | None = None
    ) -> None:
        stream = self.add_stream(stream_id)
        make = ConnectChannel if head.method == b"CONNECT" else StreamChannel
        channel = make(self, stream, head)
        stream.protocol = channel
        channel.begin(ends, carried)
        self._unread.watch(self)

    def widen(self, stream: HTTP2Stream) -> None:
        """What comes on a stream is never kept waiting: let more be on its way."""
        self.turns.put(self.windows.widen(stream))

    def is_alive(self) -> None:
        """The client goes on: it is not idle."""
        self.resetTimeout()

    def resumeProducing(self) -> None:
        self.is_alive()
        super().resumeProducing()

    def emptied(self) -> None:
        self.resetTimeout()
        if self.state is ConnectionState.GOING_AWAY or self._is_draining:
            # Not now: a new request may follow the frame that has ended this stream.
            self.clock.callLater(0, self._close_if_empty)

    def _close_if_empty(self) -> None:
        if not self.streams:
            self.close()

    # Time-outs.

    def callLater(self, *args: Any, **kwargs: Any) -> IDelayedCall:
        """The clock of ``TimeoutMixin``."""
        return self.clock.callLater(*args, **kwargs)

    def dataReceived(self, data: bytes) -> None:
        before = self.reader.count
        super().dataReceived(data)
        if self._head_timer is not None and (not self.reader.is_in_head or self.reader.count != before):
            self._stop_head_timer()
        if self.reader.is_in_head and self._head_timer is None:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        seconds = self.site.head_timeout
        if seconds is not None and not self.is_closed:
            self._head_timer = self.clock.callLater(seconds, self._head_took_too_long)

    def _stop_head_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        # Slow, which is no flood.
        super().fail(ErrorCodes.ENHANCE_YOUR_CALM)

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
        if stream.unsent and self.turns.is_full:
            return False
        return not stream.unsent or self.windows.of(stream) > 0

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

    def fail(self, code: ErrorCodes) -> None:
        if code is ErrorCodes.ENHANCE_YOUR_CALM and not self.is_closed:
            notify_of_flood(self.site.observers, self.peer)
        super().fail(code)

    def _close(self, reason: Failure) -> None:
        self._stop_timers()
        super()._close(reason)

    def _stop_timers(self) -> None:
        self._stop_head_timer()
        self._unread.stop()
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
