"""
:func:`websocket`: an autobahn factory as the acceptor of the token ``websocket`` (RFC 6455 §4.2).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from autobahn.twisted.util import peer2str
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from ...errors import InvalidUpgrades, UpgradeError
from ...fields import is_token
from ...interfaces import Acceptor
from ...negotiation import UpgradeToken
from ...server.pages import StatusPage, service_unavailable
from ...server.request import UpgradeRequest
from . import _autobahn
from .origin import AllowedOrigins, is_same_origin

__all__ = ["SAME_ORIGIN", "HandshakeRequest", "Refused", "accept_key", "websocket"]

# RFC 6455 §4.1: 16 bytes in base64, whose last four bits are none of theirs.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==\Z")

_VERSION = b"13"

SAME_ORIGIN = ("same origin",)
"""For ``allowed_origins``: pages of the host and port that the request goes to."""


def websocket(factory: Any, allowed_origins: Iterable[str] | None = None) -> Acceptor:
    """
    An acceptor for ``UpgradeResource({"websocket": websocket(factory)})``.

    The request is checked as RFC 6455 §4.2 wants it; each refusal is an ordinary HTTP answer: 400, 405,
    403 for a foreign Origin, 426 with ``Sec-WebSocket-Version: 13`` for another version. Then the
    factory's protocol is asked (``onConnect``, with a
    :class:`~upgrade_switch.protocols.websocket.server.HandshakeRequest`: a subprotocol, headers, a
    Deferred or coroutine of those; a ``ConnectionDeny`` is the answer), and is open when it gets its
    connection. It is :class:`~upgrade_switch.IDrainable`, with close code 1001; while what it
    has sent waits to be written, nothing is read.

    :param factory: an ``autobahn.twisted.websocket.WebSocketServerFactory``, of WAMP too, with its
        options; those of them that are about listening and its own handshake do not matter.
    :param allowed_origins: the pages that may open it, as ``https://example.com``; ``*`` is any, and
        requests without Origin are no browser's. :data:`SAME_ORIGIN`: the site's own. None: what
        the factory's own option ``allowedOrigins`` says, which is any if nothing has been set.
    :raises InvalidUpgrades: for what is no such factory, or no origin.
    """
    if isinstance(factory, type) or not getattr(factory, "isServer", False):
        raise InvalidUpgrades(f"not an autobahn.twisted WebSocketServerFactory: {factory!r}")
    allowed: Any = allowed_origins
    if allowed is not None and allowed is not SAME_ORIGIN:
        allowed = AllowedOrigins(allowed)
    return _Acceptor(factory, allowed)


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept to a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _autobahn.MAGIC, usedforsecurity=False).digest())


class Refused(Exception):
    """A handshake is refused, with an answer."""

    def __init__(self, answer: IResource) -> None:
        super().__init__(answer)
        self.answer = answer


class HandshakeRequest(ConnectionRequest):
    """
    What ``onConnect`` gets.

    :ivar request: the :class:`~upgrade_switch.UpgradeRequest` itself: its session, user, cookies. It is
        over when the connection has switched.
    """

    __slots__ = ("request",)

    request: UpgradeRequest


class _Handshake(NamedTuple):
    """What a valid request says."""

    key: bytes
    origin: str | None
    protocols: list[str]
    extensions: list[tuple[str, dict[str, list[Any]]]]
    headers: dict[str, str]


class _Acceptor:
    def __init__(self, factory: Any, allowed: Any) -> None:
        self._factory = factory
        self._allowed = allowed

    def __call__(
        self, request: UpgradeRequest, token: UpgradeToken
    ) -> IProtocol | IResource | Deferred[IProtocol | IResource]:
        factory = self._factory
        request.site.start_factory(factory)
        try:
            key, origin, protocols = _checked(request, token)
            if self._allowed is not None:
                self._check_origin(request, None, origin)
            protocol = factory.buildProtocol(request.getClientAddress())
            if protocol is None:
                raise Refused(service_unavailable("No connection is taken now."))
            _autobahn.configure(protocol, factory)
            if self._allowed is None:
                self._check_origin(request, protocol, origin)
            _check_room(protocol)
            extensions = _extensions(request, protocol)
        except Refused as refused:
            return refused.answer
        handshake = _Handshake(key, origin, protocols, extensions, _headers(request))
        return _connect(request, protocol, handshake)

    def _check_origin(self, request: UpgradeRequest, protocol: Any, origin: str | None) -> None:
        if origin is None:
            return
        if self._allowed is None:
            allowed = _autobahn.is_origin_allowed_by(protocol, self._factory, origin)
        elif self._allowed is SAME_ORIGIN:
            (host,) = request.requestHeaders.getRawHeaders(b"host") or (b"",)
            allowed = is_same_origin(origin, host.decode("latin-1"))
        else:
            allowed = origin in self._allowed
        if not allowed:
            raise Refused(StatusPage(403, "Forbidden", "Not from this origin."))


def _check_room(protocol: Any) -> None:
    if 0 < protocol.maxConnections <= protocol.factory.countConnections:
        raise Refused(service_unavailable("No more WebSockets are taken now."))


def _checked(request: UpgradeRequest, token: UpgradeToken) -> tuple[bytes, str | None, list[str]]:
    """
    Key, origin and subprotocols of a request, checked (RFC 6455 §4.2.1). Method, Host, Upgrade and
    Connection have been looked at before, by who found the offer.
    """
    if request.method != b"GET":
        raise Refused(
            StatusPage(405, "Method Not Allowed", "A WebSocket begins with GET.", {b"allow": b"GET"})
        )
    header = request.requestHeaders.getRawHeaders
    if token.version is not None or header(b"sec-websocket-version") != [_VERSION]:
        fields = {
            b"sec-websocket-version": _VERSION,
            b"upgrade": b"websocket",
            b"connection": b"Upgrade",
        }
        raise Refused(StatusPage(426, "Upgrade Required", "WebSocket, version 13.", fields))
    keys = header(b"sec-websocket-key") or ()
    if len(keys) != 1 or not _KEY.match(keys[0]):
        raise _bad("A handshake has one Sec-WebSocket-Key, of 16 bytes in base64.")
    origins = header(b"origin") or ()
    if len(origins) > 1:
        raise _bad("A handshake has one Origin at most.")
    origin = origins[0].decode("latin-1") if origins else None
    return keys[0], origin, _subprotocols(header(b"sec-websocket-protocol") or ())


def _bad(detail: str) -> Refused:
    return Refused(StatusPage(400, "Bad Request", detail))


def _subprotocols(lines: Sequence[bytes]) -> list[str]:
    """RFC 6455 §4.1, item 10: tokens, none of them twice; the lines together are one list (§11.3.4)."""
    elements = [e.strip(" \t") for line in lines for e in line.decode("latin-1").split(",")]
    names = [element for element in elements if element]
    if not all(map(is_token, names)) or len(set(names)) != len(names):
        raise _bad("Sec-WebSocket-Protocol is a list of different tokens.")
    return names


def _extensions(request: UpgradeRequest, protocol: Any) -> list[tuple[str, dict[str, list[Any]]]]:
    lines = request.requestHeaders.getRawHeaders(b"sec-websocket-extensions")
    if not lines:
        return []
    # RFC 6455 §9.1: several lines are one list.
    return _autobahn.parse_extensions(protocol, b", ".join(lines).decode("latin-1"))


def _headers(request: UpgradeRequest) -> dict[str, str]:
    """The fields as autobahn has them: in lower case, several lines joined."""
    return {
        _key(name): (b", ".join(values) if len(values) > 1 else values[0]).decode("latin-1")
        for name, values in request.requestHeaders.getAllRawHeaders()
    }


@lru_cache(1000)
def _key(name: bytes) -> str:
    return name.decode("latin-1").lower()


def _connect(
    request: UpgradeRequest, protocol: Any, handshake: _Handshake
) -> IProtocol | IResource | Deferred[IProtocol | IResource]:
    """Ask the protocol, and do what it says."""
    path, _, query = request.uri.decode("latin-1").partition("?")
    headers = handshake.headers
    host = headers["host"]
    if ":" in host and not host.endswith("]"):
        host = host.rpartition(":")[0]
    parameters = parse_qs(query) if query else {}
    peer = _peer(request, protocol, headers)
    protocol.peer = peer
    known = {
        "peer": peer,
        "http_headers": headers,
        "http_request_uri": request.uri.decode("latin-1"),
        "http_request_path": path,
        "http_request_params": parameters,
        "http_request_host": host,
        "websocket_version": 13,
        "websocket_origin": handshake.origin or "",
        "websocket_protocols": handshake.protocols,
        "websocket_extensions": handshake.extensions,
    }
    vars(protocol).update(known)
    if not _autobahn.has_on_connect(protocol):
        return _opened(request, protocol, handshake, known, None)
    asked = HandshakeRequest(
        peer,
        headers,
        host,
        path,
        parameters,
        13,
        handshake.origin,
        handshake.protocols,
        handshake.extensions,
    )
    asked.request = request
    try:
        answer = protocol.onConnect(asked)
    except (ConnectionDeny, Refused) as denial:
        return _denied(denial)
    if not isinstance(answer, Deferred):
        if not hasattr(answer, "__await__"):
            return _opened(request, protocol, handshake, known, answer)
        answer = Deferred.fromCoroutine(answer)
    answer.addCallback(lambda said: _opened(request, protocol, handshake, known, said))
    return answer.addErrback(_deny)


def _peer(request: UpgradeRequest, protocol: Any, headers: dict[str, str]) -> str:
    """Who asks: the transport's peer, or what trusted proxies say (``trustXForwardedFor``)."""
    trusted = protocol.trustXForwardedFor
    if trusted and "x-forwarded-for" in headers:
        addresses = [address.strip() for address in headers["x-forwarded-for"].split(",")]
        return addresses[-trusted:][0]
    transport: Any = request.channel.transport
    peer: str = peer2str(transport)
    return peer


def _deny(reason: Failure) -> IResource:
    reason.trap(ConnectionDeny, Refused)
    return _denied(reason.value)


def _denied(denial: Any) -> IResource:
    """What ``onConnect`` denies with is the answer."""
    if isinstance(denial, Refused):
        return denial.answer
    code = int(denial.code)
    if not 300 <= code < 600 or code == 304:
        raise UpgradeError(f"onConnect denies with {code}, which is no refusal")
    phrase = str(denial.reason or "").encode("ascii", "replace").decode("ascii")
    return StatusPage(code, phrase or "Denied", str(denial.reason or ""))


def _lines_of(values: Any) -> list[str | bytes]:
    """The values of one field, as autobahn takes them: one, or several, of any type."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        values = [values]
    return [value if isinstance(value, str | bytes) else str(value) for value in values]


def _opened(
    request: UpgradeRequest,
    protocol: Any,
    handshake: _Handshake,
    known: dict[str, Any],
    answer: Any,
) -> IProtocol | IResource:
    """Write what ``onConnect`` has answered to the request; the protocol is open when it connects."""
    subprotocol, headers = (*answer, None, None)[:2] if isinstance(answer, tuple) else (answer, None)
    if subprotocol is not None and subprotocol not in handshake.protocols:
        raise UpgradeError(f"onConnect chose {subprotocol!r}, which the client does not offer")
    offers = _autobahn.offered_compression(handshake.extensions)
    try:
        # Others may have come while onConnect was deciding.
        _check_room(protocol)
    except Refused as refused:
        return refused.answer
    compression, extension = _autobahn.accept_compression(protocol, offers)
    add = request.responseHeaders.addRawHeader
    for source in (protocol.factory.headers, headers or {}):
        for name, values in source.items():
            for value in _lines_of(values):
                add(name, value)
    add(b"Sec-WebSocket-Accept", accept_key(handshake.key))
    if subprotocol is not None:
        add(b"Sec-WebSocket-Protocol", subprotocol.encode("ascii"))
    if extension is not None:
        add(b"Sec-WebSocket-Extensions", extension.encode("ascii"))
    _autobahn.open_when_connected(protocol, _autobahn.Opening(subprotocol, compression, known))
    result: IProtocol = protocol
    return result
