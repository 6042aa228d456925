"""
What autobahn's public API does not give: a protocol that is open from the start, since its handshake
has been done by somebody else. The only place that names autobahn's internals;
``tests/test_autobahn.py`` fails when autobahn changes them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from autobahn.twisted.util import create_transport_details, peer2str
from autobahn.twisted.websocket import (
    WebSocketAdapterProtocol,
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.wamp.types import TransportDetails
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION
from autobahn.websocket.protocol import WebSocketProtocol, _is_same_origin, _url_to_origin
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from ... import _twisted
from ...errors import UpgradeError
from ...site import IDrainable
from .goodbye import Drainable, Goodbye
from .origin import normal_origin

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = [
    "MAGIC",
    "Opening",
    "accept_compression",
    "compression_in",
    "configure",
    "is_origin_allowed_by",
    "offered_compression",
    "open_when_connected",
    "parse_extensions",
]

_COMPRESSIONS: dict[str, dict[str, Any]] = PERMESSAGE_COMPRESSION_EXTENSION

# RFC 6455 §4.2.2.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

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


class _Opened:
    """
    Before the class of an autobahn protocol in its method resolution order.

    autobahn copies the factory's options to each protocol when it is connected, and formats them all
    for its log each time, which costs as much as the rest of the handshake: :func:`configure` copies
    them.
    """

    CONFIG_ATTRS = ()
    _opening: Opening | None = None
    _patience: _twisted.Patience | None = None
    _behind = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A user's hook for his classes is not for those that are made here."""

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


# Seconds until a goodbye that is not taken is none any more, and between two looks for room.
_PATIENCE, _SOON = 60, 0.1


class _Adapter(WebSocketAdapterProtocol):
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
        details = _details(self.transport, self.is_server)
        details.channel_framing = TransportDetails.CHANNEL_FRAMING_WEBSOCKET
        self._transport_details = details
        self.peer = details.peer
        if not self.tcpNoDelay and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(False)
        self._connectionMade()

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
            self._end_call = self.factory.reactor.callLater(_PATIENCE, self._not_taken)

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
        if self._transport_details.is_secure:
            # Only now, when the handshake of TLS is over, are they known.
            details = _details(self.transport, self.is_server)
            self._transport_details.channel_id = details.channel_id
            self._transport_details.peer_cert = details.peer_cert
        self.onOpen()


def _details(transport: Any, is_server: bool) -> TransportDetails:
    """What autobahn knows of a transport."""
    layer = _twisted.tls_layer(transport)
    if layer is None:
        return create_transport_details(transport, is_server)
    if layer.getHandle() is None:
        # It has ended.
        kind = TransportDetails.CHANNEL_TYPE_TLS
        peer = peer2str(layer)
        return TransportDetails(channel_type=kind, peer=peer, is_server=is_server, is_secure=True)
    return create_transport_details(layer, is_server)


class _Kind(NamedTuple):
    """A class of autobahn's, or a user's, and what is made of it."""

    opened: type
    options: tuple[str, ...]
    """The options that a protocol has of its factory, since its class has none of its own."""


@lru_cache(128)
def _kind(kind: Any) -> _Kind:
    bases: tuple[type, ...] = (_Opened, kind, _Adapter)
    if not IDrainable.implementedBy(kind) and issubclass(kind, WebSocketServerProtocol):
        goodbye = Goodbye if hasattr(kind, "drain") else Drainable
        bases = (_Opened, goodbye, kind, _Adapter)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    opened = type(kind.__name__, bases, names)
    return _Kind(opened, tuple(name for name in kind.CONFIG_ATTRS if not hasattr(kind, name)))


def configure(protocol: Any, factory: Any) -> None:
    """
    Make a protocol that a factory has built ready for a handshake that is somebody else's.

    :raises UpgradeError: for what is no WebSocket protocol of autobahn's on Twisted.
    """
    if not isinstance(protocol, WebSocketServerProtocol | WebSocketClientProtocol):
        raise UpgradeError(f"not a WebSocket protocol of autobahn.twisted's: {protocol!r}")
    built: Any = type(protocol)
    kind = _kind(built)
    attributes = vars(protocol)
    attributes.update({name: getattr(factory, name) for name in kind.options if name not in attributes})
    attributes["state"] = WebSocketProtocol.STATE_CONNECTING
    protocol.__class__ = kind.opened
    if "__provides__" in attributes and IDrainable.implementedBy(kind.opened):
        # What an instance has been given to provide is kept together with what its class had.
        alsoProvides(protocol, IDrainable)


def open_when_connected(protocol: Any, opening: Opening) -> None:
    """
    Have a configured protocol open, in the state in which its own handshake would have left it, when
    it gets its transport.
    """
    # The handshake is over: no timer for it.
    attributes = vars(protocol)
    attributes["_opening"] = opening
    attributes["openHandshakeTimeout"] = 0


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


def parse_extensions(protocol: Any, value: str) -> list[tuple[str, dict[str, list[Any]]]]:
    """A Sec-WebSocket-Extensions field (RFC 6455 §9.1): names and their parameters."""
    parsed: list[tuple[str, dict[str, list[Any]]]] = protocol._parseExtensionsHeader(value)
    return parsed


def offered_compression(extensions: list[tuple[str, dict[str, list[Any]]]]) -> list[Any]:
    """
    The offers of permessage-compress extensions that autobahn knows among all. One whose parameters it
    does not like is declined, not the others (RFC 7692 §7.1).
    """
    offers = []
    for name, parameters in extensions:
        if name in _COMPRESSIONS:
            with suppress(Exception):
                offers.append(_COMPRESSIONS[name]["Offer"].parse(parameters))
    return offers


def accept_compression(protocol: Any, offers: list[Any]) -> tuple[Any, str | None]:
    """
    Have a server's protocol choose among offers (its option ``perMessageCompressionAccept``).

    :return: what it will compress with, and the answer's field; None and None without.
    """
    accepted = protocol.perMessageCompressionAccept(offers) if offers else None
    if accepted is None:
        return None, None
    kind = _COMPRESSIONS[accepted.EXTENSION_NAME]["PMCE"]
    return kind.create_from_offer_accept(True, accepted), accepted.get_extension_string()


def compression_in(
    protocol: Any, extensions: list[tuple[str, dict[str, list[Any]]]]
) -> tuple[Any, str | None]:
    """
    What a client's protocol makes of the extensions that a server has chosen.

    :return: what it will compress with, None without; and what is wrong, None where nothing is.
    """
    compression = None
    offered = {offer.EXTENSION_NAME for offer in protocol.perMessageCompressionOffers}
    for name, parameters in extensions:
        if name not in offered:
            return None, f"the server chose the extension {name!r}, which was not offered"
        if compression is not None:
            return None, "the server chose two compressions"
        kinds = _COMPRESSIONS[name]
        try:
            accepted = protocol.perMessageCompressionAccept(kinds["Response"].parse(parameters))
        except Exception as error:
            return None, f"the server's {name} makes no sense: {error}"
        if accepted is None:
            return None, f"the server's {name} is not acceptable"
        compression = kinds["PMCE"].create_from_response_accept(False, accepted)
    return compression, None


def is_origin_allowed_by(protocol: Any, factory: Any, origin: str) -> bool:
    """
    What the options ``allowedOrigins`` and ``allowNullOrigin`` of a configured protocol say, its own or
    its factory's.
    """
    patterns = protocol.allowedOriginsPatterns
    if factory.allowedOrigins == ["*"] and patterns is factory.allowedOriginsPatterns:
        # As below, without the way through a regular expression for each handshake.
        normal = normal_origin(origin)
        if normal is None or normal == "null" or normal.startswith("file:"):
            return normal is not None and bool(protocol.allowNullOrigin)
        return True
    try:
        parsed = _url_to_origin(origin)
    except ValueError:
        return False
    if parsed == "null":
        return bool(protocol.allowNullOrigin)
    scheme = "https" if factory.isSecure else "http"
    port = factory.externalPort or factory.port
    return bool(_is_same_origin(parsed, scheme, port, patterns))
