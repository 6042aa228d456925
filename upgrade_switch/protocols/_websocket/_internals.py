"""
What is private in autobahn: the only module that names it. autobahn does its own handshake on a
connection of its own; that a connection is given to its protocols by somebody else, who has done the
handshake and holds messages to a size, is what its public API does not have.

:func:`check` looks for all these names; ``tests/protocols/websocket/test_autobahn.py`` fails when
autobahn changes what they do.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import version
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from autobahn.exception import PayloadExceededError
from autobahn.twisted.util import create_transport_details, peer2str
from autobahn.twisted.websocket import WebSocketAdapterProtocol
from autobahn.wamp.types import TransportDetails
from autobahn.websocket import protocol as internals
from autobahn.websocket.compress_base import PerMessageCompress
from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import PreparedMessage, TrafficStats, WebSocketProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ... import _twisted
from ..._twisted.check import Need, missing
from ...errors import MissingExtra
from ...interfaces import IStreamTransport
from ...sending import QuietTimeout

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = [
    "CONNECTING",
    "NEEDED",
    "AutobahnProtocol",
    "BoundsMessages",
    "Extensions",
    "HandshakeResult",
    "check",
    "enter_open_state",
    "is_same_origin",
    "parse_extensions",
    "url_to_origin",
]

_TESTED = "which is tested with autobahn 24.4 to 26.10"

_PROTOCOLS, _ADAPTERS = "autobahn.websocket.protocol", "autobahn.twisted.websocket"

NEEDED = (
    # Of an Origin field, and whether it is allowed.
    Need(_PROTOCOLS, "_is_same_origin"),
    Need(_PROTOCOLS, "_url_to_origin"),
    # What a connection begins and ends with.
    Need(_PROTOCOLS, "WebSocketProtocol._connectionMade", ("_perMessageCompress",)),
    Need(_PROTOCOLS, "WebSocketProtocol", ("_connectionLost", "_dataReceived", "_transport_details")),
    # What its own handshake ends with.
    Need(_PROTOCOLS, "WebSocketProtocol", ("_parseExtensionsHeader", "_sendAutoPing")),
    Need(_PROTOCOLS, "WebSocketServerProtocol.succeedHandshake", ("_onOpen", "_perMessageCompress")),
    Need(_PROTOCOLS, "WebSocketServerFactory", ("_batched_timer",)),
    Need(_PROTOCOLS, "WebSocketClientFactory", ("_batched_timer",)),
    # What it tells its adapter, which is replaced.
    Need(_ADAPTERS, "WebSocketAdapterProtocol", ("_closeConnection", "_onClose", "_onOpen", "_onPing")),
    # How messages are received.
    Need(_PROTOCOLS, "WebSocketProtocol.onFrameData", ("_isMessageCompressed", "_perMessageCompress")),
    Need(_PROTOCOLS, "WebSocketProtocol", ("_invalid_payload", "_max_message_size_exceeded")),
    Need(_PROTOCOLS, "WebSocketProtocol.onMessageEnd", ("_onMessage", "fire", "message_data")),
    Need("autobahn.util", "ObservableMixin.fire", ("_listeners",)),
)


def check(needs: Iterable[Need] = NEEDED) -> None:
    """
    Look for everything that is needed of autobahn.

    :raises MissingExtra: if some of it is not there.
    """
    names = missing(needs)
    if names:
        raise MissingExtra(
            f"autobahn {version('autobahn')} does not fit upgrade_switch, {_TESTED}; "
            f"this one has no {', '.join(names)}"
        )


# First: what follows would fail with less helpful messages.
check()

is_same_origin, url_to_origin = internals._is_same_origin, internals._url_to_origin

_OPEN = WebSocketProtocol.STATE_OPEN
CONNECTING = (WebSocketProtocol.STATE_CONNECTING, WebSocketProtocol.STATE_PROXY_CONNECTING)

# autobahn's compressions can be told how much they may produce, from 26.10 on; older ones are given so
# many bytes at a time, of which they cannot make much.
_IS_BOUNDED = "max_output_len" in signature(PerMessageDeflate.decompress_message_data).parameters
_SLICE = 256

# Untyped: autobahn's annotations differ from version to version, and contradict one another.
_ADAPTER: Any = WebSocketAdapterProtocol
_PROTOCOL: Any = WebSocketProtocol

# What autobahn's _connectionMade gives to every connection.
_INITIAL_STATE = {
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


class HandshakeResult(NamedTuple):
    """What a handshake has settled."""

    subprotocol: str | None
    compression: PerMessageCompress | None
    """autobahn's permessage-compress, made from offer and answer; None without."""
    attributes: dict[str, object]
    """What autobahn's protocols keep of a handshake: ``http_headers``, ``websocket_version`` ..."""


class AutobahnProtocol(_ADAPTER, _PROTOCOL):
    """
    What all of autobahn's protocols on Twisted are. It stands in front of autobahn's own adapter to
    Twisted, and behind a user's class. What autobahn calls by private names has names of our own here.
    """

    transport: IStreamTransport
    closeHandshakeTimeoutCall: IDelayedCall | QuietTimeout | None
    message_data: list[bytes] | None
    # Whether the other end did not answer a ping.
    _has_timed_out = False
    # Whether the factory's connections are one more.
    _is_counted = False

    def connectionMade(self) -> None:
        """
        In place of autobahn's, which looks up some thirty options in the factory and formats them for
        its log: that costs as much as the rest of the handshake together.
        """
        attributes = self.__dict__
        # autobahn has given an empty one to every instance.
        attributes.pop("_transport_details", None)
        attributes.update(_INITIAL_STATE)
        attributes["trafficStats"] = TrafficStats()
        attributes["send_queue"] = deque()
        self.setTrackTimings(self.trackTimings)
        if self.is_server:
            self.factory.countConnections += 1
            self._is_counted = True
        else:
            attributes["serverConnectionDropTimeoutCall"] = None

    def dataReceived(self, data: bytes) -> None:
        # autobahn's describes each call for its log, even if the log is not written.
        self._dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Not autobahn's for servers, which counts connections.
        _PROTOCOL._connectionLost(self, reason)

    def sendPreparedMessage(self, preparedMsg: PreparedMessage) -> None:
        if self._perMessageCompress is None or preparedMsg.doNotCompress:
            # autobahn counts the frame only, not what is in it.
            self.trafficStats.outgoingOctetsAppLevel += len(preparedMsg.payload)
        super().sendPreparedMessage(preparedMsg)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if sync or chopsize or self.send_queue or self.logOctets or self.state != _OPEN:
            super().sendData(data, sync, chopsize)
            return
        # What autobahn's does, which besides describes each frame for its log, written or not: that
        # costs a fifth of an echo.
        self.transport.write(data)
        self.trafficStats.outgoingOctetsWireLevel += len(data)

    def onMessageEnd(self) -> None:
        if self._listeners is not None or self.trackedTimings:
            super().onMessageEnd()
            return
        # What autobahn's does, which besides makes two Deferreds to tell of the message who listens to
        # the signal "message": nobody.
        if not self.failedByMe:
            self._onMessage(b"".join(self.message_data or ()), self.message_is_binary)
        self.message_data = None

    def onAutoPingTimeout(self) -> None:
        self._has_timed_out = True
        super().onAutoPingTimeout()

    def _onOpen(self) -> None:
        if _twisted.tls_layer(self.transport) is not None:
            # These are known only now, since the TLS handshake is over.
            details = _details(self.transport, self.is_server)
            self._transport_details.channel_id = details.channel_id
            self._transport_details.peer_cert = details.peer_cert
        self.onOpen()

    def _onPing(self, payload: bytes) -> None:
        self._ping_came(payload)

    def _ping_came(self, payload: bytes) -> None:
        """A ping has come; to be overridden."""

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        super()._onClose(wasClean, self._true_close_code(code), reason)

    def _true_close_code(self, code: int | None) -> int | None:
        """The code that ``onClose`` is told; to be overridden."""
        return code

    def _closeConnection(self, abort: bool = False) -> None:
        self._end_connection(abort)

    def _end_connection(self, abort: bool) -> None:
        """Close the transport, or abort it; to be overridden."""


class BoundsMessages(AutobahnProtocol):
    """
    A mixin in front of a protocol's class: ends a connection on which a message becomes too large.
    """

    @cached_property
    def _transport_details(self) -> TransportDetails:
        """Made when they are asked for, since most connections never are."""
        return _details(self.transport, self.is_server)

    # How many bytes a message that is received may have, decompressed; 0: any. autobahn's option
    # maxMessagePayloadSize would hold for those that are sent, too.
    _most_received = 0
    # Those of the message that is being received.
    _received = 0

    def onMessageBegin(self, isBinary: bool) -> None:
        self._received = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        if self._most_received and not self._isMessageCompressed:
            self._received += length
            self._check_size()
        super().onMessageFrameBegin(length)

    def onFrameData(self, payload: bytes) -> bool | None:
        if self._most_received and self.current_frame.opcode <= 7 and self._isMessageCompressed:
            return self._on_compressed(payload)
        result: bool | None = super().onFrameData(payload)
        return result

    def _on_compressed(self, payload: bytes) -> bool | None:
        """
        Decompress no more than what a message may have: a few kilobytes can become gigabytes.

        :return: False if the connection has failed.
        """
        if self.failedByMe:
            return None
        try:
            data = self._decompress(payload)
        except PayloadExceededError:
            self._received = self._most_received + 1
            self._check_size()
            return False
        except Exception as error:
            # zlib's, bz2's, or autobahn's own.
            self._invalid_payload(f"a message cannot be decompressed: {error}")
            return False
        self.trafficStats.incomingOctetsWebSocketLevel += len(payload) - len(data)
        # autobahn would decompress it, if it knew.
        self._isMessageCompressed = False
        try:
            result: bool | None = super().onFrameData(data)
        finally:
            self._isMessageCompressed = True
        return result

    def _decompress(self, payload: bytes) -> bytes:
        """
        :raises PayloadExceededError: if it would become more than the message may have.
        """
        if not payload:
            return b""
        decompress = self._perMessageCompress.decompress_message_data
        pieces: list[bytes] = []
        for start in range(0, len(payload), len(payload) if _IS_BOUNDED else _SLICE):
            if _IS_BOUNDED:
                room = self._most_received - self._received
                pieces.append(decompress(payload, max_output_len=room))
            else:
                pieces.append(decompress(payload[start : start + _SLICE]))
            self._received += len(pieces[-1])
            if self._received > self._most_received:
                raise PayloadExceededError
        return b"".join(pieces)

    def onFrameEnd(self) -> bool | None:
        try:
            result: bool | None = super().onFrameEnd()
        except zlib.error as error:
            if _IS_BOUNDED:
                # A user's, then.
                raise
            self._invalid_payload(f"a message cannot be decompressed: {error}")
            return False
        return result

    def _check_size(self) -> None:
        if self._received <= self._most_received or self.failedByMe:
            return
        self.wasMaxMessagePayloadSizeExceeded = True
        if not self.maxMessagePayloadSize:
            # It is not autobahn's limit, so its option does not count: the client is told.
            self.failByDrop = False
        self._max_message_size_exceeded(
            self._received,
            self._most_received,
            f"the message has more than {self._most_received} bytes",
        )


def _details(transport: IStreamTransport, is_server: bool) -> TransportDetails:
    """What autobahn's protocols say about a transport."""
    layer = _twisted.tls_layer(transport)
    if layer is not None and layer.getHandle() is None:
        # TLS has ended.
        kind = TransportDetails.CHANNEL_TYPE_TLS
        peer = peer2str(layer)
        details = TransportDetails(channel_type=kind, peer=peer, is_server=is_server, is_secure=True)
    else:
        details = create_transport_details(layer or transport, is_server)
    details.channel_framing = TransportDetails.CHANNEL_FRAMING_WEBSOCKET
    return details


def enter_open_state(protocol: AutobahnProtocol, handshake: HandshakeResult) -> None:
    """Do what autobahn's server does at the end of ``succeedHandshake``, and its client alike."""
    protocol.__dict__.update(handshake.attributes)
    protocol.websocket_protocol_in_use = handshake.subprotocol
    compression = handshake.compression
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


Extensions: TypeAlias = list[tuple[str, dict[str, list[str | bool]]]]
"""The extensions in a Sec-WebSocket-Extensions field: their names and parameters."""


def parse_extensions(protocol: AutobahnProtocol, value: str) -> Extensions:
    """Parse a Sec-WebSocket-Extensions field (RFC 6455 §9.1)."""
    parsed: Extensions = protocol._parseExtensionsHeader(value)
    return parsed
