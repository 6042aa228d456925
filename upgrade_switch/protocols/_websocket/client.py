"""
:func:`connect_websocket`: autobahn's client protocol, its handshake done by a pool (RFC 6455 §4.1).
"""

from __future__ import annotations

import os
from base64 import b64encode
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from autobahn.twisted.util import peer2str
from autobahn.websocket.types import ConnectionResponse
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import ITransport
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import directlyProvides

from ...client.pool import UpgradePool, switched_connection
from ...connection import SwitchedConnection
from ...errors import InvalidResponse
from . import _autobahn
from .server import accept_key

__all__ = ["connect_websocket", "http_url"]

_HTTP = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


def http_url(url: str | bytes) -> bytes:
    """
    The ``http`` or ``https`` URL of a ``ws`` or ``wss`` one (RFC 6455 §3).

    :raises ValueError: for what is neither, has a fragment or a user, or is not ASCII.
    """
    text = url.decode("ascii") if isinstance(url, bytes) else url
    text.encode("ascii")
    parts = urlsplit(text)
    if parts.scheme not in _HTTP or not parts.hostname or "#" in text or "@" in parts.netloc:
        raise ValueError(f"not a ws or wss URL: {text!r}")
    return urlunsplit(parts._replace(scheme=_HTTP[parts.scheme])).encode("ascii")


def connect_websocket(
    pool: UpgradePool,
    url: str | bytes,
    factory: Any,
    headers: Headers | None = None,
    agent: IAgent | None = None,
) -> Deferred[Any]:
    """
    Open a WebSocket.

    The handshake is a request like any other of an agent over the pool; the answer's
    Sec-WebSocket-Accept, subprotocol and extensions are checked (RFC 6455 §4.1). Then the factory's
    protocol gets ``onConnect``, ``onOpen``, and what the server has sent behind its answer.

    :param pool: what connects.
    :param url: ``ws`` or ``wss``, or ``http`` or ``https``.
    :param factory: an ``autobahn.twisted.websocket.WebSocketClientFactory``; its URL and proxy do not
        matter, its ``protocols``, ``headers``, ``origin``, ``useragent`` and options do.
    :param headers: further fields of the request.
    :param agent: any agent over a pool of that kind, for cookies, auth, a proxy, redirects, a CA of
        one's own. Without one: a plain ``Agent``.
    :return: fires with the protocol, open; it owns the connection. Fails with
        :class:`~upgrade_switch.NotSwitched`, which has the response, where the server refuses; with
        :class:`~upgrade_switch.errors.InvalidResponse` where its answer breaks the rules; or with
        what the agent fails with. Cancelling it closes the connection.
    :raises ValueError: for what is no such URL, and for headers that are up to the factory.
    """
    target = http_url(url)
    asking: IAgent = Agent(pool.clock, pool=pool) if agent is None else agent
    protocol = factory.buildProtocol(None)
    _autobahn.configure(protocol, factory)
    key = b64encode(os.urandom(16))
    fields = _fields(protocol, factory, key, headers)
    opened: Deferred[Any] = maybeDeferred(asking.request, b"GET", target, fields)
    return opened.addCallback(_answered, protocol, factory, key)


def _fields(protocol: Any, factory: Any, key: bytes, headers: Headers | None) -> Headers:
    """What a handshake asks for (RFC 6455 §4.1)."""
    fields = Headers() if headers is None else headers.copy()
    for settled in (b"sec-websocket-protocol", b"sec-websocket-extensions"):
        if fields.hasHeader(settled):
            raise ValueError(f"{settled.decode()} is up to the factory")
    for name, value in factory.headers.items():
        fields.addRawHeader(name, value)
    fields.setRawHeaders(b"upgrade", [b"websocket"])
    fields.setRawHeaders(b"sec-websocket-version", [b"13"])
    fields.setRawHeaders(b"sec-websocket-key", [key])
    offers = ", ".join(o.get_extension_string() for o in protocol.perMessageCompressionOffers)
    optional = {
        b"sec-websocket-protocol": ", ".join(factory.protocols),
        b"sec-websocket-extensions": offers,
        b"origin": factory.origin,
        b"user-agent": factory.useragent,
    }
    for key_, said in optional.items():
        if said and not fields.hasHeader(key_):
            fields.setRawHeaders(key_, [said.encode("utf-8")])
    return fields


def _answered(response: IResponse, protocol: Any, factory: Any, key: bytes) -> Any:
    connection = switched_connection(response)
    try:
        opening = _checked(response, connection, protocol, factory, key)
    except InvalidResponse:
        connection.abort()
        raise
    _autobahn.open_when_connected(protocol, opening)
    asked: Any = SimpleNamespace(getPeer=lambda: connection.peer)
    # autobahn asks transports alone.
    directlyProvides(asked, ITransport)
    protocol.peer = peer2str(asked)
    told = _tell(response, connection, protocol, opening)
    if isinstance(told, Deferred) or hasattr(told, "__await__"):
        waiting = told if isinstance(told, Deferred) else Deferred.fromCoroutine(told)
        waiting.addErrback(_aborted, connection)
        return waiting.addCallback(lambda _: _install(connection, protocol))
    return _install(connection, protocol)


def _install(connection: SwitchedConnection, protocol: Any) -> Any:
    connection.install(protocol)
    return protocol


def _aborted(reason: Any, connection: SwitchedConnection) -> Any:
    connection.abort()
    return reason


def _tell(
    response: IResponse,
    connection: SwitchedConnection,
    protocol: Any,
    opening: _autobahn.Opening,
) -> Any:
    """Have the protocol look at what has been agreed on."""
    answer = ConnectionResponse(
        protocol.peer,
        opening.attributes["http_headers"],
        13,
        opening.subprotocol,
        [] if opening.compression is None else [opening.compression],
    )
    try:
        return protocol.onConnect(answer)
    except BaseException:
        connection.abort()
        raise


def _checked(
    response: IResponse,
    connection: SwitchedConnection,
    protocol: Any,
    factory: Any,
    key: bytes,
) -> _autobahn.Opening:
    """
    What a 101 has settled (RFC 6455 §4.1, from "If the status code").

    :raises InvalidResponse: where it breaks the rules.
    """
    header = response.headers.getRawHeaders
    if header(b"sec-websocket-accept") != [accept_key(key)]:
        raise InvalidResponse("a 101 without the Sec-WebSocket-Accept to this key")
    chosen = header(b"sec-websocket-protocol") or ()
    subprotocol = chosen[0].decode("latin-1") if chosen else None
    if len(chosen) > 1 or (chosen and subprotocol not in factory.protocols):
        raise InvalidResponse(f"the server chose the subprotocol {subprotocol!r}, not offered")
    lines = header(b"sec-websocket-extensions") or ()
    extensions = _autobahn.parse_extensions(protocol, b", ".join(lines).decode("latin-1"))
    compression, wrong = _autobahn.compression_in(protocol, extensions)
    if wrong is not None:
        raise InvalidResponse(wrong)
    attributes = {
        "websocket_version": 13,
        "websocket_key": key,
        "http_headers": {
            name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        },
    }
    return _autobahn.Opening(subprotocol, compression, attributes)
