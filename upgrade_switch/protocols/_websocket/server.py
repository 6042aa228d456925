"""
:func:`websocket`: an autobahn factory as the acceptor of the token ``websocket`` (RFC 6455 §4.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs

from autobahn.twisted.util import peer2str
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from ...errors import InvalidUpgrades, UpgradeError
from ...fields import accept_key
from ...interfaces import Acceptor, Answer
from ...negotiation import UpgradeToken
from ...server.pages import StatusPage, service_unavailable
from ...server.request import UpgradeRequest
from ...server.upgrades import build_or_decline
from .._handshake import (
    MAX_MESSAGE_SIZE,
    SAME_ORIGIN,
    HandshakeRefused,
    OriginCheck,
    check_origin,
    check_request,
    check_size,
    origin_check,
    refuse,
    shown,
)
from . import _autobahn

__all__ = ["MAX_MESSAGE_SIZE", "SAME_ORIGIN", "HandshakeRequest", "websocket"]

_log = Logger()


def websocket(
    factory: WebSocketServerFactory,
    allowed_origins: Iterable[str] | None = None,
    max_message_size: int | None = MAX_MESSAGE_SIZE,
) -> Acceptor:
    """
    An acceptor that opens WebSockets for an autobahn factory::

        UpgradeResource({"websocket": websocket(factory)})

    The request is checked as RFC 6455 §4.2 demands. A refusal is an ordinary HTTP answer: 400, 405, 403
    for an Origin that is not allowed, 426 with ``Sec-WebSocket-Version: 13`` for another version.

    Then the ``onConnect`` of the factory's protocol is called with autobahn's ``ConnectionRequest``,
    which has the :class:`~upgrade_switch.UpgradeRequest` as its attribute ``request``. It returns a
    subprotocol, or headers too, or a Deferred or coroutine of these; if it raises ``ConnectionDeny``,
    that is the answer, and then the protocol gets ``onClose``. The protocol is open when it gets its
    connection.

    The protocol is :class:`~upgrade_switch.IDrainable`: it closes with code 1001. While what it has
    sent waits to be written, nothing is read.

    :param factory: an ``autobahn.twisted.websocket.WebSocketServerFactory``, also one of WAMP's. Its
        options hold, except for those about listening and about its own handshake.
    :param allowed_origins: the pages that may open a WebSocket, such as ``https://example.com``,
        ``file://`` or ``null``; ``*`` allows any. :data:`SAME_ORIGIN` allows the site's own. None: the
        factory's own option ``allowedOrigins`` decides, which allows any unless it is set. (Where that
        one is a list, ``null`` and ``file://`` need an entry, or ``allowNullOrigin=True``, which every
        call of ``setProtocolOptions`` without it turns off.) Requests without Origin do not come from
        browsers, and are always allowed.
    :param max_message_size: the most bytes that a message from a client may have, decompressed: at one
        more, the connection is closed with code 1009. It holds where the factory's own option
        ``maxMessagePayloadSize`` is not set, and a single frame may have as many as its
        ``maxFramePayloadSize``. None: no limit.
    :return: the acceptor.
    :raises InvalidUpgrades: if ``factory`` is not such a factory, or an origin is invalid.
    :raises InvalidArgument: if ``max_message_size`` is neither None nor a whole number above 0.
    """
    check_size(max_message_size)
    if isinstance(factory, type) or not getattr(factory, "isServer", False):
        raise InvalidUpgrades(f"not an autobahn.twisted WebSocketServerFactory: {factory!r}")
    is_allowed = None if allowed_origins is None else origin_check(allowed_origins)
    return _Acceptor(factory, is_allowed, max_message_size)


class HandshakeRequest(ConnectionRequest):
    """
    The argument of ``onConnect``.

    :ivar request: the :class:`~upgrade_switch.UpgradeRequest` itself, with its session, user and
        cookies. It is finished when the connection has switched.
    """

    __slots__ = ("request",)

    request: UpgradeRequest


class _Handshake(NamedTuple):
    """What a valid request says."""

    key: bytes | None
    """None over HTTP/2 (RFC 8441 §5)."""
    origin: str | None
    subprotocols: list[str]
    extensions: _autobahn.Extensions
    headers: dict[str, str]


class _Acceptor:
    def __init__(
        self,
        factory: WebSocketServerFactory,
        is_allowed: OriginCheck | None,
        max_message_size: int | None,
    ) -> None:
        """
        :param is_allowed: None if the protocol's own option decides, or its factory's.
        """
        self._factory = factory
        self._is_allowed = is_allowed
        self._max_message_size = max_message_size

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> Answer | Deferred[Answer]:
        try:
            key, origin, subprotocols = check_request(request, token)
            if origin is not None and self._is_allowed is not None:
                check_origin(origin, self._is_allowed(origin, request))
            built = build_or_decline(self._factory, request)
            if IResource.providedBy(built):
                return built
            protocol = _autobahn.configure(built, self._factory, self._max_message_size)
            if origin is not None and self._is_allowed is None:
                check_origin(origin, _autobahn.is_origin_allowed_by(protocol, origin))
            _check_room(protocol)
            extensions = _extensions(request, protocol)
        except HandshakeRefused as refused:
            return refuse(request, refused)
        handshake = _Handshake(key, origin, subprotocols, extensions, _headers(request))
        return _ask_protocol(request, protocol, handshake)


def _check_room(protocol: _autobahn.AutobahnProtocol) -> None:
    most, count = protocol.maxConnections, protocol.factory.countConnections
    if 0 < most <= count:
        page = service_unavailable("No more WebSockets are taken now.")
        raise HandshakeRefused(page, f"max connections: the factory's maxConnections is {most}")


def _extensions(request: UpgradeRequest, protocol: _autobahn.AutobahnProtocol) -> _autobahn.Extensions:
    lines = request.requestHeaders.getRawHeaders(b"sec-websocket-extensions")
    if not lines:
        return []
    # RFC 6455 §9.1: all lines together are one list.
    return _autobahn.parse_extensions(protocol, b", ".join(lines).decode("latin-1"))


def _headers(request: UpgradeRequest) -> dict[str, str]:
    """The fields as autobahn has them: names in lower case, the lines of one name joined."""
    return {
        _lower(name): (b", ".join(values) if len(values) > 1 else values[0]).decode("latin-1")
        for name, values in request.requestHeaders.getAllRawHeaders()
    }


@lru_cache(1000)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _ask_protocol(
    request: UpgradeRequest, protocol: _autobahn.AutobahnProtocol, handshake: _Handshake
) -> Answer | Deferred[Answer]:
    """Ask the protocol's ``onConnect``, and do what it says."""
    path, _, query = request.uri.decode("latin-1").partition("?")
    headers = handshake.headers
    host = headers["host"]
    if ":" in host and not host.endswith("]"):
        host = host.rpartition(":")[0]
    parameters = parse_qs(query) if query else {}
    peer = _peer(request, protocol, headers)
    protocol.peer = peer
    attributes = {
        "peer": peer,
        "http_headers": headers,
        "http_request_uri": request.uri.decode("latin-1"),
        "http_request_path": path,
        "http_request_params": parameters,
        "http_request_host": host,
        "websocket_version": 13,
        "websocket_origin": handshake.origin or "",
        "websocket_protocols": handshake.subprotocols,
        "websocket_extensions": handshake.extensions,
    }
    protocol.__dict__.update(attributes)
    if not _autobahn.has_on_connect(protocol):
        return _accept(request, protocol, handshake, attributes, None)
    asked = HandshakeRequest(
        peer,
        headers,
        host,
        path,
        parameters,
        13,
        handshake.origin,
        handshake.subprotocols,
        handshake.extensions,
    )
    asked.request = request
    deciding = maybeDeferred(protocol.onConnect, asked)
    deciding.addCallback(lambda chosen: _accept(request, protocol, handshake, attributes, chosen))
    return deciding.addErrback(_answer_to_denial, request, protocol)


def _peer(
    request: UpgradeRequest, protocol: _autobahn.AutobahnProtocol, headers: dict[str, str]
) -> str:
    """
    The client's address as autobahn writes it: the transport's peer, or what trusted proxies say
    (``trustXForwardedFor``).
    """
    trusted = protocol.trustXForwardedFor
    if trusted and "x-forwarded-for" in headers:
        addresses = [address.strip() for address in headers["x-forwarded-for"].split(",")]
        return addresses[-trusted:][0]
    transport: ITransport = request.channel.transport
    peer: str = peer2str(transport)
    return peer


def _answer_to_denial(
    reason: Failure, request: UpgradeRequest, protocol: _autobahn.AutobahnProtocol
) -> IResource:
    """The answer that ``onConnect`` has denied with. The protocol is closed when it has been sent."""
    reason.trap(ConnectionDeny, HandshakeRefused)
    denial = reason.value
    if isinstance(denial, HandshakeRefused):
        return refuse(request, denial)
    assert isinstance(denial, ConnectionDeny)
    finished = request.notifyFinish().addBoth(lambda _: _autobahn.close_unopened(protocol))
    finished.addErrback(
        lambda reason: _log.failure("{protocol}.onClose failed", reason, protocol=protocol)
    )
    code = int(denial.code)
    if not 300 <= code < 600 or code == 304:
        raise UpgradeError(f"onConnect denies with {code}, which is not a status that refuses")
    request.decline_detail = f"onConnect denies: {code} {shown(str(denial.reason or ''))}".rstrip()
    phrase = str(denial.reason or "").encode("ascii", "replace").decode("ascii")
    return StatusPage(code, phrase or "Denied", str(denial.reason or ""))


def _lines_of(values: object) -> list[str | bytes]:
    """The values of one field, as autobahn accepts them: one or several, of any type."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        values = [values]
    return [value if isinstance(value, str | bytes) else str(value) for value in values]


def _accept(
    request: UpgradeRequest,
    protocol: _autobahn.AutobahnProtocol,
    handshake: _Handshake,
    attributes: dict[str, object],
    chosen: object,
) -> Answer:
    """
    Set the fields of the 101, and have the protocol open when it is connected.

    :param attributes: what autobahn's protocols keep of a handshake.
    :param chosen: what ``onConnect`` resulted in.
    """
    subprotocol, headers = (*chosen, None, None)[:2] if isinstance(chosen, tuple) else (chosen, None)
    if subprotocol is not None and subprotocol not in handshake.subprotocols:
        raise UpgradeError(f"onConnect chose {subprotocol!r}, which the client does not offer")
    offers = _autobahn.offered_compression(handshake.extensions)
    try:
        # Again, since others may have come while onConnect was deciding.
        _check_room(protocol)
    except HandshakeRefused as refused:
        return refuse(request, refused)
    compression, extension = _autobahn.accept_compression(protocol, offers)
    add = request.responseHeaders.addRawHeader
    for source in (protocol.factory.headers, headers or {}):
        for name, values in source.items():
            for value in _lines_of(values):
                add(name, value)
    if handshake.key is not None:
        add(b"Sec-WebSocket-Accept", accept_key(handshake.key))
    if subprotocol is not None:
        add(b"Sec-WebSocket-Protocol", subprotocol.encode("ascii"))
    if extension is not None:
        add(b"Sec-WebSocket-Extensions", extension.encode("ascii"))
    result = _autobahn.HandshakeResult(subprotocol, compression, attributes)
    _autobahn.open_when_connected(protocol, result)
    return protocol
