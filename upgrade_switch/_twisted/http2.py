"""
What is private in Twisted's HTTP/2, which has no public way in but ALPN's. Not imported by the package
itself: it needs what the extra ``http2`` brings.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection as StateMachine
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from priority.priority import PriorityError  # type: ignore[import-untyped]
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ..channel import one_line
from .check import HTTP2, check

check(HTTP2)

from twisted.web._http2 import H2Connection  # noqa: E402

if TYPE_CHECKING:
    from ..request import CarriedRequest
    from ..site import UpgradeSite

__all__ = ["HTTP2Connection", "are_settings"]


def are_settings(value: bytes) -> bool:
    """
    Whether a base64url text is the payload of a SETTINGS frame with valid settings: what a
    connection's first minute would make of it is tried out.
    """
    machine = StateMachine(H2Configuration(client_side=False))
    try:
        machine.initiate_upgrade_connection(value)
    except (H2Error, ValueError):
        return False
    return True


class _Opened(NamedTuple):
    """What Twisted's connection wants to know of a new stream."""

    stream_id: int
    headers: list[tuple[bytes, bytes]]


class HTTP2Connection(H2Connection):
    """
    Twisted's HTTP/2 for a site, on a connection that ALPN has not named: begun with prior knowledge,
    or with a request that was upgraded.
    """

    transport: Any

    def __init__(
        self,
        site: UpgradeSite,
        settings: bytes = b"",
        headers: list[tuple[bytes, bytes]] | None = None,
        carried: CarriedRequest | None = None,
    ) -> None:
        """
        :param settings: the value of the request's HTTP2-Settings field.
        :param headers: the upgraded request's pseudo-header fields and fields (RFC 9113 §8.3).
        :param carried: that request, to be answered on stream 1.
        """
        super().__init__(site.reactor)
        # What Twisted's proxy sets on the connection that it makes.
        given: Any = self
        given.site = given.factory = site
        given.requestFactory = site.requestFactory
        given.timeOut = site.timeOut
        given.callLater = site.reactor.callLater
        self._settings = settings
        self._headers = headers
        self._carried = carried
        self._draining = self._gone_away = False

    def logPrefix(self) -> str:
        return "HTTP/2"

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.setTimeout(self.timeOut)
        if self._headers is None:
            self.conn.initiate_connection()
        else:
            self.conn.initiate_upgrade_connection(self._settings)
        transport.write(self.conn.data_to_send())
        # As Twisted's proxy does it for a connection of ALPN's.
        transport.registerProducer(self, True)
        headers, self._headers = self._headers, None
        carried, self._carried = self._carried, None
        if headers is not None and carried is not None:
            self._requestReceived(_Opened(1, headers))
            stream = self.streams[1]
            stream._request.content.close()
            stream._request.content = carried.content
            stream.requestComplete()

    def dataReceived(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        except (H2Error, PriorityError):
            # What Twisted does not see coming is no reason for a traceback that strangers can order.
            self.transport.abortConnection()

    def _requestReceived(self, event: Any) -> None:
        names = [name for name, _ in event.headers]
        if b":path" in names:
            super()._requestReceived(event)
        else:
            # CONNECT, which no resource answers (RFC 9113 §8.5).
            self.conn.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)

    # Of a stream that has been refused, more may be in the same bytes.

    def _requestDataReceived(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestDataReceived(event)

    def _requestEnded(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestEnded(event)

    def _requestAborted(self, event: Any) -> None:
        if event.stream_id in self.streams:
            super()._requestAborted(event)

    def writeHeaders(
        self, version: bytes, code: bytes, reason: bytes, headers: Any, streamID: int
    ) -> None:
        # RFC 9113 §8.2.1: one such field, and the whole connection would end.
        clean = [(name, one_line(value)) for name, value in headers]
        super().writeHeaders(version, code, reason, clean, streamID)

    def timeoutConnection(self) -> None:
        # HTTP/1.1's idle timer stands still while a request is being answered.
        if any(map(self._is_being_answered, self.streams)):
            self.setTimeout(self.timeOut)
        else:
            super().timeoutConnection()

    def _is_being_answered(self, streamID: int) -> bool:
        """Whether it is this side's turn: the request is complete, and its answer could be sent."""
        request = self.streams[streamID]._request
        complete = request.path is not None and not request.finished
        return complete and self.conn.local_flow_control_window(streamID) > 0

    def drain(self) -> None:
        """Say goodbye (RFC 9113 §6.8), now or when the last of the requests at hand is answered."""
        if not self._draining:
            self._draining = True
            self._go_away_if_idle()

    def _requestDone(self, streamID: int) -> None:
        super()._requestDone(streamID)
        if self._draining:
            # Not now: the frame that ended a stream may have a new request behind it.
            self._reactor.callLater(0, self._go_away_if_idle)

    def _go_away_if_idle(self) -> None:
        if self.streams or not self._stillProducing or self._gone_away:
            return
        self._gone_away = True
        transport: Any = self.transport
        with suppress(H2Error):
            self.conn.close_connection(ErrorCodes.NO_ERROR)
        # Past what waits for a transport that is full: nobody will tell when it is not any more.
        waiting = b"".join(self._bufferedControlFrames)
        self._bufferedControlFrames.clear()
        self._bufferedControlFrameBytes = 0
        transport.write(waiting + self.conn.data_to_send())
        transport.unregisterProducer()
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone, _cancelTimeouts: bool = True) -> None:
        super().connectionLost(reason, _cancelTimeouts)
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.content.close()
        # What waits for more to send, or for room, would keep the connection until a collection.
        self._sendingDeferred = None
        if _cancelTimeouts:
            self._consumerBlocked = None
