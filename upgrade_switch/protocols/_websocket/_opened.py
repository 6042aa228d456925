"""
autobahn's protocols, open from the start: the classes that stand before and behind a user's, and the
state that autobahn gives to a connection that is made and to a handshake that is over. Used through
``_autobahn.py``.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from autobahn.twisted.util import create_transport_details, peer2str
from autobahn.twisted.websocket import WebSocketAdapterProtocol
from autobahn.wamp.types import TransportDetails
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ... import _twisted

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["Adapter", "Opened", "Opening"]

_CONNECTING = (WebSocketProtocol.STATE_CONNECTING, WebSocketProtocol.STATE_PROXY_CONNECTING)


class Opening(NamedTuple):
    """What a handshake has settled."""

    subprotocol: str | None
    compression: Any
    """autobahn's permessage-compress, made from offer and answer; None without."""
    attributes: dict[str, Any]
    """What autobahn's protocols keep of a handshake: ``http_headers``, ``websocket_version`` ..."""


# Bytes that are taken behind what broke the rules, until the other side's goodbye has come.
_MOST_BEHIND = 65536


class Opened:
    """
    Before the class of an autobahn protocol in its method resolution order.
    """

    _opening: Opening | None = None
    _patience: _twisted.WriteBackpressure | None = None
    _behind = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A user's hook for his classes is not for those that are made here."""

    @cached_property
    def _transport_details(self: Any) -> TransportDetails:
        """For who asks: most connections do without."""
        return _details(self.transport, self.is_server)

    def makeConnection(self: Any, transport: Any) -> None:
        super().makeConnection(transport)  # type: ignore[misc]
        opening, self._opening = self._opening, None
        if opening is not None and self.state in _CONNECTING:
            _open(self, opening)

    def dataReceived(self: Any, data: bytes) -> None:
        if self.failedByMe:
            # RFC 6455 §7.1.7: nothing is of interest any more but the other side's goodbye.
            self._behind += len(data)
            if self._behind > _MOST_BEHIND:
                self.dropConnection(abort=True)
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return
        super().dataReceived(data)  # type: ignore[misc]
        self._wait_for_room()

    def _wait_for_room(self: Any) -> None:
        """Who does not read what is sent is not read either."""
        patience = _twisted.wait_for_room(self.transport, self._read_on)
        if patience is not None:
            self._patience = patience

    def _read_on(self: Any) -> None:
        """There is room again."""
        self._patience = None
        if not self._is_paused():
            self.transport.resumeProducing()

    def _stop_waiting(self: Any) -> None:
        if self._patience is not None:
            self._patience.resumeProducing()

    def registerProducer(self: Any, producer: Any, streaming: bool) -> None:
        self._stop_waiting()
        super().registerProducer(producer, streaming)  # type: ignore[misc]

    def unregisterProducer(self: Any) -> None:
        self._stop_waiting()
        super().unregisterProducer()  # type: ignore[misc]

    def connectionLost(self: Any, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)  # type: ignore[misc]
        self._patience = None
        # The protocol is its own result there: a cycle, which would wait for a collection.
        self.is_closed.addCallback(lambda _: None)

    def startHandshake(self: Any) -> None:
        """A client's own handshake: it has been done."""

    startProxyConnect = startHandshake


# What autobahn's _connectionMade gives to every connection.
_GROUND = {
    "_perMessageCompress": None,
    "autoPingPending": None,
    "autoPingPendingCall": None,
    "autoPingPendingSent": None,
    "autoPingPendingSeq": 0,
    "autoPingTimeoutCall": None,
    "closeHandshakeTimeoutCall": None,
    "closedByMe": False,
    "data": b"",
    "droppedByMe": False,
    "failedByMe": False,
    "localCloseCode": None,
    "localCloseReason": None,
    "openHandshakeTimeoutCall": None,
    "remoteCloseCode": None,
    "remoteCloseReason": None,
    "send_state": WebSocketProtocol.SEND_STATE_GROUND,
    "state": WebSocketProtocol.STATE_CONNECTING,
    "trackedTimings": None,
    "triggered": False,
    "wasClean": False,
    "wasCloseHandshakeTimeout": False,
    "wasMaxFramePayloadSizeExceeded": False,
    "wasMaxMessagePayloadSizeExceeded": False,
    "wasNotCleanReason": None,
    "wasOpenHandshakeTimeout": False,
    "wasServerConnectionDropTimeout": False,
    "wasServingFlashSocketPolicyFile": False,
}

# Seconds until a goodbye that is not taken is none any more, and between two looks for room.
CLOSE_TIMEOUT, _SOON = 60, 0.1


class Adapter(WebSocketAdapterProtocol):
    """
    Behind the classes of a user's and of autobahn's in the method resolution order, in front of
    autobahn's adapter to Twisted: its way to the TLS layer ends at every wrapper and knows no
    ``startTLS``; it describes each call for its log, whether that is written or not; and it logs the
    failures of TLS, which are strangers', as errors.
    """

    _late_pong: bytes | None = None
    _pong_call: IDelayedCall | None = None
    _end_call: IDelayedCall | None = None

    def connectionMade(self: Any) -> None:
        # autobahn has given an empty one to every instance.
        vars(self).pop("_transport_details", None)
        if not self.tcpNoDelay and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(False)
        self._connectionMade()

    @cached_property
    def utf8validator(self) -> Any:
        """For who gets text: most connections do without."""
        return Utf8Validator()

    def _connectionMade(self: Any) -> None:
        """
        As autobahn's, which looks for each of some thirty options whether the factory has to give it
        and formats them all for its log, as costly as all the rest of the handshake together.
        """
        attributes = vars(self)
        attributes.update(_GROUND)
        attributes["trafficStats"] = TrafficStats()
        attributes["send_queue"] = deque()
        self.setTrackTimings(self.trackTimings)
        if self.is_server:
            self.factory.countConnections += 1
        else:
            attributes["serverConnectionDropTimeoutCall"] = None

    def _connectionLost(self: Any, reason: Any) -> None:
        WebSocketProtocol._connectionLost(self, reason)
        if self.is_server:
            self.factory.countConnections -= 1

    def sendCloseFrame(self: Any, *args: Any, **kwargs: Any) -> None:
        before = self.closeHandshakeTimeoutCall
        super().sendCloseFrame(*args, **kwargs)  # type: ignore[misc]
        call = self.closeHandshakeTimeoutCall
        if call is not None and call is not before:
            # autobahn's timer goes by whole seconds of the clock: one second may be over at once, and
            # the connection aborted before the goodbye is on its way.
            call.cancel()
            self.closeHandshakeTimeoutCall = self.factory.reactor.callLater(
                self.closeHandshakeTimeout, self.onCloseHandshakeTimeout
            )

    def dataReceived(self: Any, data: bytes) -> None:
        self._dataReceived(data)

    def connectionLost(self: Any, reason: Failure = connectionDone) -> None:
        for name in ("_pong_call", "_end_call", "closeHandshakeTimeoutCall"):
            call = getattr(self, name, None)
            if call is not None:
                setattr(self, name, None)
                call.cancel()
        self._connectionLost(reason)
        self.data = b""
        vars(self)["control_frame_data"] = []

    def _is_paused(self: Any) -> bool:
        """Whether somebody else does not want to be given anything; for subclasses."""
        return False

    def _closeConnection(self: Any, abort: bool = False) -> None:
        if abort and not self.wasClean:
            _twisted.abort(self.transport)
            return
        # Where both have said goodbye, what is still to be written is not to be lost.
        self.transport.loseConnection()
        if self._end_call is None and not _twisted.bottom(self.transport).disconnected:
            self._end_call = self.factory.reactor.callLater(CLOSE_TIMEOUT, self._not_taken)

    def _not_taken(self: Any) -> None:
        self._end_call = None
        _twisted.abort(self.transport)

    def _onPing(self: Any, payload: bytes) -> None:
        if not _twisted.is_full(self.transport):
            self.onPing(payload)
            return
        # RFC 6455 §5.5.3: a pong to the latest is enough, for who does not read them.
        self._late_pong = payload
        if self._pong_call is None:
            self._pong_call = self.factory.reactor.callLater(_SOON, self._pong)

    def _pong(self: Any) -> None:
        self._pong_call = None
        payload, self._late_pong = self._late_pong, None
        if payload is not None and self.state == WebSocketProtocol.STATE_OPEN:
            self._onPing(payload)

    def _onOpen(self: Any) -> None:
        if _twisted.tls_layer(self.transport) is not None:
            # Only now, when the handshake of TLS is over, are they known.
            details = _details(self.transport, self.is_server)
            self._transport_details.channel_id = details.channel_id
            self._transport_details.peer_cert = details.peer_cert
        self.onOpen()


def _details(transport: Any, is_server: bool) -> TransportDetails:
    """What autobahn knows of a transport."""
    layer = _twisted.tls_layer(transport)
    if layer is not None and layer.getHandle() is None:
        # It has ended.
        kind = TransportDetails.CHANNEL_TYPE_TLS
        peer = peer2str(layer)
        details = TransportDetails(channel_type=kind, peer=peer, is_server=is_server, is_secure=True)
    else:
        details = create_transport_details(layer or transport, is_server)
    details.channel_framing = TransportDetails.CHANNEL_FRAMING_WEBSOCKET
    return details


def _open(protocol: Any, opening: Opening) -> None:
    """The end of autobahn's ``succeedHandshake`` and of its client's ``processHandshake``."""
    vars(protocol).update(opening.attributes)
    protocol.websocket_protocol_in_use = opening.subprotocol
    compression = opening.compression
    protocol._perMessageCompress = compression
    protocol.websocket_extensions_in_use = [] if compression is None else [compression]
    protocol.state = WebSocketProtocol.STATE_OPEN
    protocol.inside_message = False
    protocol.current_frame = None
    if protocol.autoPingInterval:
        protocol.autoPingPendingCall = protocol.factory._batched_timer.call_later(
            protocol.autoPingInterval, protocol._sendAutoPing
        )
    if protocol.trackedTimings:
        protocol.trackedTimings.track("onOpen")
    protocol._onOpen()
    if not protocol.is_open.called:
        protocol.is_open.callback(None)
