"""
:func:`connect_websocket`: autobahn's client protocol, its handshake done by a pool (RFC 6455 §4.1).
"""

from __future__ import annotations

import os
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

from autobahn.twisted.util import peer2str
from autobahn.twisted.websocket import WebSocketClientFactory
from autobahn.websocket.types import ConnectionResponse
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, ITransport
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import directlyProvides

from ...client.pool import UpgradePool, switched_connection
from ...client.urls import http_url
from ...errors import InvalidArgument, InvalidResponse, connect_timed_out
from .._client_handshake import chosen_subprotocol
from . import _autobahn

__all__ = ["connect_websocket"]


def connect_websocket(
    pool: UpgradePool,
    url: str | bytes,
    factory: WebSocketClientFactory,
    headers: Headers | None = None,
    agent: IAgent | None = None,
    timeout: float | None = None,
) -> Deferred[Any]:
    """
    Open a WebSocket.

    The handshake is a request of an agent over the pool. Of its answer, Sec-WebSocket-Accept, the
    subprotocol and the extensions are checked (RFC 6455 §4.1). Then the factory's protocol gets
    ``onConnect``, ``onOpen``, and what the server has sent right behind its answer. Over HTTP/2 (a pool
    with ``http2``) there is neither Sec-WebSocket-Key nor Sec-WebSocket-Accept (RFC 8441 §5).

    :param pool: makes the connection.
    :param url: ``ws`` or ``wss``, or ``http`` or ``https``.
    :param factory: an ``autobahn.twisted.websocket.WebSocketClientFactory``. Its ``protocols``,
        ``headers``, ``origin``, ``useragent`` and options hold; its URL and proxy do not matter. Of
        messages that are received, ``maxMessagePayloadSize`` counts the bytes after decompression.
    :param headers: further fields of the request.
    :param agent: any agent over an :class:`~upgrade_switch.UpgradePool`, for cookies, authentication, a
        proxy, redirects, or a private CA. None: a plain ``Agent`` over ``pool``.
    :param timeout: how many seconds it may take, from this call until the WebSocket is open; 0: any
        number. None: as many as the option ``openHandshakeTimeout`` says, which is 5 unless it is set.
    :return: fires with the factory's protocol when it is open; the protocol owns the connection. Fails
        with :class:`~upgrade_switch.NotSwitched`, which has the response, if the server refuses; with
        :class:`~upgrade_switch.errors.InvalidResponse` if its answer breaks the rules; with
        ``twisted.internet.error.TimeoutError``; or with what the agent fails with. Cancelling it closes
        the connection.
    :raises ValueError: if the URL is not one of these, or if ``headers`` has a field that the factory
        sets.
    :raises InvalidArgument: if ``timeout`` is below 0.
    """
    if timeout is not None and timeout < 0:
        raise InvalidArgument(f"a timeout of {timeout} seconds is below 0")
    target = http_url(url, websocket=True)
    asking: IAgent = Agent(pool.clock, pool=pool) if agent is None else agent
    protocol = _autobahn.configure(factory.buildProtocol(None), factory)
    key = b64encode(os.urandom(16))
    fields = _fields(protocol, key, headers)
    seconds = protocol.openHandshakeTimeout if timeout is None else timeout
    opening = Deferred.fromCoroutine(_open(asking, target, fields, protocol, key))
    if seconds:
        opening.addTimeout(seconds, pool.clock, connect_timed_out("no WebSocket"))
    return opening


def _fields(protocol: _autobahn.AutobahnProtocol, key: bytes, headers: Headers | None) -> Headers:
    """The fields of a handshake (RFC 6455 §4.1)."""
    factory = protocol.factory
    fields = Headers() if headers is None else headers.copy()
    for name_ in (b"sec-websocket-protocol", b"sec-websocket-extensions"):
        if fields.hasHeader(name_):
            raise ValueError(f"the factory sets {name_.decode()}")
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
    for name_, value_ in optional.items():
        if value_ and not fields.hasHeader(name_):
            fields.setRawHeaders(name_, [value_.encode("utf-8")])
    return fields


async def _open(
    agent: IAgent, url: bytes, fields: Headers, protocol: _autobahn.AutobahnProtocol, key: bytes
) -> _autobahn.AutobahnProtocol:
    """Ask the server, check its answer, ask the protocol, and give it the connection."""
    response = await agent.request(b"GET", url, fields)
    connection = switched_connection(response)
    try:
        handshake = _checked(response, protocol, key)
        _autobahn.open_when_connected(protocol, handshake)
        protocol.peer = _peer_text(connection.peer)
        await maybeDeferred(protocol.onConnect, _connection_response(protocol, handshake))
    except BaseException:
        connection.abort()
        raise
    connection.install(protocol)
    return protocol


def _peer_text(address: IAddress) -> str:
    """A peer's address as autobahn writes it. It asks transports for the address, and nothing else."""
    transport: Any = SimpleNamespace(getPeer=lambda: address)
    directlyProvides(transport, ITransport)
    text: str = peer2str(transport)
    return text


def _connection_response(
    protocol: _autobahn.AutobahnProtocol, handshake: _autobahn.HandshakeResult
) -> ConnectionResponse:
    """The argument of a client's ``onConnect``: what has been agreed on."""
    compression = handshake.compression
    return ConnectionResponse(
        protocol.peer,
        handshake.attributes["http_headers"],
        13,
        handshake.subprotocol,
        [] if compression is None else [compression],
    )


def _checked(
    response: IResponse, protocol: _autobahn.AutobahnProtocol, key: bytes
) -> _autobahn.HandshakeResult:
    """
    What a switch has settled (RFC 6455 §4.1).

    :raises InvalidResponse: if it breaks the rules.
    """
    subprotocol = chosen_subprotocol(response, key, protocol.factory.protocols)
    lines = response.headers.getRawHeaders(b"sec-websocket-extensions") or ()
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
    return _autobahn.HandshakeResult(subprotocol, compression, attributes)
