"""
What is private in Twisted's HTTP/2, whose only public way in is ALPN. ``_twisted/__init__.py`` does not
import this module, since it needs what the extra ``http2`` brings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from h2.config import H2Configuration
from h2.connection import ConnectionState
from h2.connection import H2Connection as StateMachine
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from priority import PriorityTree  # type: ignore[import-untyped]  # has no types
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..fields import one_line
from .check import HTTP2, check

check(HTTP2)

from twisted.web._http2 import H2Connection, H2Stream  # noqa: E402

if TYPE_CHECKING:
    from h2.events import DataReceived, PriorityUpdated, RequestReceived, StreamEnded, StreamReset

    from ..interfaces import CarriedRequest, IStreamTransport, IUpgradeSite

__all__ = ["HTTP2Connection", "are_settings", "cut_off", "missing_window"]

_log = Logger()


def are_settings(value: bytes) -> bool:
    """
    Whether a base64url string is the payload of a SETTINGS frame with valid settings. A connection that
    is made for this alone tries it out.
    """
    machine = StateMachine(H2Configuration(client_side=False))
    try:
        machine.initiate_upgrade_connection(value)
    except (H2Error, ValueError):
        return False
    return True


# How many bytes of answers are sent before the client has begun to speak HTTP/2: one DATA frame (RFC
# 9113 §4.2). curl has a buffer of 32 KiB for everything that comes with the 101, and fails when it is
# full.
_MOST_BEFORE_PREFACE = 2**14

# How many bytes an answer's producer may be ahead of what has been sent, however wide the window is.
_MOST_AHEAD = 2**16


def _is_over(conn: StateMachine, stream_id: int) -> bool:
    """
    Whether nothing can be sent on a stream any more. When Twisted hears of the first event in a
    segment, h2 has read the whole segment: a reset, or the connection's end, may be in the rest.
    """
    stream = conn.streams.get(stream_id)
    return conn.state_machine.state is ConnectionState.CLOSED or stream is None or stream.closed


def cut_off(stream: H2Stream) -> None:
    """
    Reset a stream because its answer ends too early. Twisted's ``abortConnection`` does all of this,
    but with NO_ERROR, which says that nothing more is wanted of the client (RFC 9113 §8.1): curl takes
    what it has got for the whole then.
    """
    connection, stream_id = stream._conn, stream.streamID
    if not _is_over(connection.conn, stream_id):
        connection.conn.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        if connection._tryToWriteControlData():
            connection._requestDone(stream_id)


def missing_window(stream: object) -> int:
    """
    How many bytes more the client has to make room for before a producer that its stream has paused
    goes on. It becomes less with all that the client takes.
    """
    assert isinstance(stream, H2Stream)
    connection, stream_id = stream._conn, stream.streamID
    if stream_id not in connection.streams:
        return 0
    room: int = connection.remainingOutboundWindow(stream_id)
    # A producer goes on when there is room for one byte.
    return 1 - room


class _SendableStreams(PriorityTree):
    """
    Says which stream sends next, among those that may send. If Twisted's loop were given one whose
    window is closed, it would go round for ever and keep the idle timer from firing; if the window is
    negative, it would fail.

    :ivar client_has_begun: whether the client has sent anything in HTTP/2.
    :ivar latest: the stream that was named last.
    """

    def __init__(self, conn: StateMachine, queues: dict[int, deque[object]]) -> None:
        super().__init__()
        self._conn = conn
        self._queues = queues
        self._sent = 0
        self.client_has_begun = False
        self.latest = 0

    def __next__(self) -> int:
        while True:
            stream: int = super().__next__()
            if self._may_send(stream):
                self.latest = stream
                return stream
            self.block(stream)

    def _may_send(self, stream: int) -> bool:
        if _is_over(self._conn, stream):
            return False
        first = self._queues[stream][0]
        if not isinstance(first, bytes) or not first:
            # The end of the stream, which needs no window.
            return True
        size = min(len(first), _MOST_BEFORE_PREFACE, self._conn.local_flow_control_window(stream))
        if size <= 0:
            return False
        if self.client_has_begun:
            return True
        self._sent += size
        return self._sent <= _MOST_BEFORE_PREFACE


class _UpgradedRequest(NamedTuple):
    """The upgraded request, in place of the event (h2's ``RequestReceived``) of one that has come."""

    stream_id: int
    headers: Sequence[tuple[bytes, bytes]]


class HTTP2Connection(H2Connection):
    """
    Twisted's HTTP/2 for a site, on a connection without ALPN: it has begun with prior knowledge, or
    with a request that was upgraded.
    """

    transport: IStreamTransport

    def __init__(
        self,
        site: IUpgradeSite,
        settings: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] | None = None,
        carried: CarriedRequest | None = None,
    ) -> None:
        """
        :param site: answers the requests, and has the clock.
        :param settings: the value of the request's HTTP2-Settings field.
        :param headers: the upgraded request's pseudo-header fields and fields (RFC 9113 §8.3).
        :param carried: that request, to be answered on stream 1.
        """
        super().__init__(site.reactor)
        # What Twisted's proxy sets on the connection that it makes, and declares but in part.
        given: Any = self
        given.site = given.factory = site
        given.requestFactory = site.requestFactory
        given.timeOut = site.timeOut
        given.callLater = site.reactor.callLater
        given.priority = _SendableStreams(self.conn, self._outboundStreamQueues)
        self._settings = settings
        self._headers = headers
        self._carried = carried
        self._draining = self._gone_away = False

    def logPrefix(self) -> str:
        return "HTTP/2"

    def connectionMade(self) -> None:
        self.setTimeout(self.timeOut)
        if self._headers is None:
            self.conn.initiate_connection()
        else:
            self.conn.initiate_upgrade_connection(self._settings)
        self.transport.write(self.conn.data_to_send())
        # As Twisted's proxy does when ALPN has chosen HTTP/2.
        self.transport.registerProducer(self, True)
        headers, self._headers = self._headers, None
        carried, self._carried = self._carried, None
        if headers is not None and carried is not None:
            self._requestReceived(_UpgradedRequest(1, headers))
            stream = self.streams[1]
            stream._request.content.close()
            stream._request.content = carried.content
            stream.requestComplete()

    def dataReceived(self, data: bytes) -> None:
        self.priority.client_has_begun = True
        try:
            super().dataReceived(data)
        except H2Error:
            # Twisted does not expect it, and would log a traceback whenever a stranger wants it to.
            self.transport.abortConnection()
        if self._stillProducing:
            self._go_on()

    def _go_on(self) -> None:
        """Windows may have been opened, also by SETTINGS: send what has waited for that."""
        for stream in tuple(self.streams.values()):
            stream.windowUpdated()
        waiting = [stream_id for stream_id, queue in self._outboundStreamQueues.items() if queue]
        for stream_id in waiting:
            self.priority.unblock(stream_id)
        if waiting and self._sendingDeferred is not None:
            d, self._sendingDeferred = self._sendingDeferred, None
            d.callback(None)

    def _sendPrioritisedData(self, *args: object) -> None:
        super()._sendPrioritisedData(*args)
        stream = self.streams.get(self.priority.latest)
        if stream is not None:
            stream.windowUpdated()

    def remainingOutboundWindow(self, streamID: int) -> int:
        if self._is_over(streamID):
            return 0
        # Twisted asks this to pause and resume producers. It would look at the window alone, which may
        # be gigabytes wide although the client reads nothing.
        room: int = super().remainingOutboundWindow(streamID)
        return room - max(self.conn.local_flow_control_window(streamID) - _MOST_AHEAD, 0)

    def _handlePriorityUpdate(self, event: PriorityUpdated) -> None:
        # RFC 9113 §5.3.2 deprecates them; and strangers could make the tree as deep as they like.
        pass

    def _requestReceived(self, event: RequestReceived | _UpgradedRequest) -> None:
        names = [name for name, _ in event.headers]
        if b":path" in names:
            super()._requestReceived(event)
        elif not self._is_over(event.stream_id):
            # A CONNECT, which no resource answers (RFC 9113 §8.5).
            self.conn.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)

    # If a stream is over already, Twisted hears of that next; until then, it goes on as if it were not.

    def _is_over(self, streamID: int) -> bool:
        return _is_over(self.conn, streamID)

    def writeDataToStream(self, streamID: int, data: bytes) -> None:
        if not self._is_over(streamID):
            super().writeDataToStream(streamID, data)

    def endRequest(self, streamID: int) -> None:
        if not self._is_over(streamID):
            super().endRequest(streamID)

    def abortRequest(self, streamID: int) -> None:
        if not self._is_over(streamID):
            super().abortRequest(streamID)

    def _requestDataReceived(self, event: DataReceived) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)
        else:
            self.openStreamWindow(event.stream_id, event.flow_controlled_length)

    def _requestEnded(self, event: StreamEnded) -> None:
        if not self._is_over(event.stream_id):
            super()._requestEnded(event)

    def _requestAborted(self, event: StreamReset) -> None:
        self._stop_producer(event.stream_id)
        if event.stream_id in self.streams:
            super()._requestAborted(event)

    def _send100Continue(self, streamID: int) -> None:
        if not self._is_over(streamID):
            super()._send100Continue(streamID)

    def _stop_producer(self, streamID: int) -> None:
        """
        Tell an answer's producer that nobody wants the answer any more, as transports do. The producer
        may end other streams when it hears of it.
        """
        stream = self.streams.get(streamID)
        producer = None if stream is None else stream.producer
        if producer is None:
            return
        try:
            producer.stopProducing()
        except Exception:
            _log.failure("{producer} failed to stop", producer=producer)

    def writeHeaders(
        self,
        version: bytes,
        code: bytes,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        streamID: int,
    ) -> None:
        if self._is_over(streamID):
            return
        # RFC 9113 §8.2.1: a single field with a CR, LF or NUL would end the whole connection.
        clean = [(name, one_line(value)) for name, value in headers]
        super().writeHeaders(version, code, reason, clean, streamID)

    def timeoutConnection(self) -> None:
        # As with HTTP/1.1, whose idle timer stands still while a request is being answered.
        if any(map(self._is_being_answered, self.streams)):
            self.setTimeout(self.timeOut)
        else:
            super().timeoutConnection()

    def _is_being_answered(self, streamID: int) -> bool:
        """Whether the request is complete, and more of its answer could be sent."""
        request = self.streams[streamID]._request
        complete = request.path is not None and not request.finished
        return complete and self.conn.local_flow_control_window(streamID) > 0

    def drain(self) -> None:
        """Send GOAWAY and close (RFC 9113 §6.8) as soon as all requests that have come are answered."""
        if not self._draining:
            self._draining = True
            self._go_away_if_idle()

    def _requestDone(self, streamID: int) -> None:
        super()._requestDone(streamID)
        if self._draining:
            # Not now: a new request may follow the frame that has ended this stream.
            self._reactor.callLater(0, self._go_away_if_idle)

    def _go_away_if_idle(self) -> None:
        if self.streams or not self._stillProducing or self._gone_away:
            return
        self._gone_away = True
        with suppress(H2Error):
            self.conn.close_connection(ErrorCodes.NO_ERROR)
        self._send_the_rest()
        self.transport.loseConnection()

    def _send_the_rest(self) -> None:
        """
        Write what waits because the transport is full: nothing is sent after this. The producer is
        taken off, since a transport that has one does not close before the producer is done.
        """
        waiting = b"".join(self._bufferedControlFrames)
        self._bufferedControlFrames.clear()
        self._bufferedControlFrameBytes = 0
        self.transport.write(waiting + self.conn.data_to_send())
        self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone, _cancelTimeouts: bool = True) -> None:
        for stream_id in tuple(self.streams):
            self._stop_producer(stream_id)
        super().connectionLost(reason, _cancelTimeouts)
        if not _cancelTimeouts:
            # The connection is not lost yet: it is being closed.
            self._send_the_rest()
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.content.close()
        # These wait for more to send, or for room; they refer to this object, and would keep it until
        # the garbage collector runs.
        self._sendingDeferred = None
        if _cancelTimeouts:
            self._consumerBlocked = None
