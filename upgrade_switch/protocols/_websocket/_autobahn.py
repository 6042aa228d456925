"""
What autobahn's public API does not have: a protocol that is open as soon as it is connected, since this
package has done the handshake. What is private in autobahn stands in ``_internals.py``.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from autobahn.twisted.websocket import (
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION
from autobahn.websocket.compress_base import PerMessageCompress, PerMessageCompressOffer
from autobahn.websocket.protocol import WebSocketProtocol
from zope.interface import alsoProvides

from ...errors import UpgradeError
from ...interfaces import ICountsBytes, IDrainable
from .._origin import normal_origin
from ._internals import (
    AutobahnProtocol,
    Extensions,
    HandshakeResult,
    is_same_origin,
    parse_extensions,
    url_to_origin,
)
from ._opened import (
    CLOSE_TIMEOUT,
    OpensWhenConnected,
    TwistedAdapter,
    forget_protocol,
)
from .draining import AdaptsToDrainable, ClosesWhenDrained

__all__ = [
    "CLOSE_TIMEOUT",
    "AutobahnProtocol",
    "Extensions",
    "HandshakeResult",
    "accept_compression",
    "close_unopened",
    "compression_in",
    "configure",
    "has_on_connect",
    "is_origin_allowed_by",
    "offered_compression",
    "open_when_connected",
    "parse_extensions",
]

_COMPRESSIONS: dict[str, dict[str, Any]] = PERMESSAGE_COMPRESSION_EXTENSION

# What a list of origins may name though no host is in it.
_NO_PLACES = ("null", "file://")

_ACCEPTS_ALL = WebSocketServerProtocol.onConnect


class _Derived(NamedTuple):
    """A class that is made of autobahn's, or of a user's."""

    cls: type
    options: tuple[str, ...]
    """The options that a protocol takes from its factory, since its class does not set them."""


@lru_cache(128)
def _derived(cls: Any) -> _Derived:
    bases: tuple[type, ...] = (OpensWhenConnected, cls, TwistedAdapter)
    if not IDrainable.implementedBy(cls) and issubclass(cls, WebSocketServerProtocol):
        draining = AdaptsToDrainable if hasattr(cls, "drain") else ClosesWhenDrained
        bases = (OpensWhenConnected, draining, cls, TwistedAdapter)
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    derived = type(cls.__name__, bases, names)
    return _Derived(derived, tuple(name for name in cls.CONFIG_ATTRS if not hasattr(cls, name)))


def configure(
    protocol: object, factory: object, max_message_size: int | None = None
) -> AutobahnProtocol:
    """
    Make a protocol that a factory has built ready for a handshake that this package does.

    :param max_message_size: the most bytes of a message that is received, decompressed, where the
        protocol's own options say nothing; None: no limit.
    :return: the protocol.
    :raises UpgradeError: if it is not a WebSocket protocol of autobahn's on Twisted.
    """
    if not isinstance(protocol, WebSocketServerProtocol | WebSocketClientProtocol):
        raise UpgradeError(f"not a WebSocket protocol of autobahn.twisted's: {protocol!r}")
    configured: Any = protocol
    derived = _derived(configured.__class__)
    attributes = configured.__dict__
    options = {name: getattr(factory, name) for name in derived.options if name not in attributes}
    attributes.update(options)
    attributes["state"] = WebSocketProtocol.STATE_CONNECTING
    configured.__class__ = derived.cls
    if "__provides__" in attributes:
        # An instance that provides interfaces of its own has kept what its class provided before.
        ours = [i for i in (IDrainable, ICountsBytes) if i.implementedBy(derived.cls)]
        alsoProvides(configured, *ours)
    limit = configured.maxMessagePayloadSize
    if not limit and max_message_size is not None:
        # A frame that the factory allows is a message, too.
        limit = max(max_message_size, configured.maxFramePayloadSize)
    if limit:
        attributes["_most_received"] = limit
    ready: AutobahnProtocol = configured
    return ready


def has_on_connect(protocol: AutobahnProtocol) -> bool:
    """
    Whether a server's protocol has an ``onConnect`` of its own. autobahn's accepts every client,
    without a subprotocol; calling it costs more than that, since it writes to a log.
    """
    return getattr(protocol.onConnect, "__func__", None) is not _ACCEPTS_ALL


def open_when_connected(protocol: AutobahnProtocol, handshake: HandshakeResult) -> None:
    """
    Have a configured protocol open when it gets its transport, in the state in which its own handshake
    would have left it.
    """
    attributes = protocol.__dict__
    attributes["_handshake"] = handshake
    # The handshake is over, and needs no timer.
    attributes["openHandshakeTimeout"] = 0


def close_unopened(protocol: AutobahnProtocol) -> None:
    """
    Close a configured protocol that has denied the connection, and so never gets a transport. As with
    autobahn's own handshake, ``onClose`` is called.
    """
    protocol.state = WebSocketProtocol.STATE_CLOSED
    protocol.wasClean = False
    if not protocol.is_closed.called:
        protocol.is_closed.callback(protocol)
        forget_protocol(protocol)
    code = WebSocketProtocol.CLOSE_STATUS_CODE_ABNORMAL_CLOSE
    protocol.onClose(False, code, "the WebSocket was not opened")


def offered_compression(extensions: Extensions) -> list[PerMessageCompressOffer]:
    """
    The offers among a client's extensions that are for a compression that autobahn knows. If autobahn
    does not accept an offer's parameters, that one is left out, not the others (RFC 7692 §7.1).
    """
    offers: list[PerMessageCompressOffer] = []
    for name, parameters in extensions:
        if name in _COMPRESSIONS:
            with suppress(Exception):
                offers.append(_COMPRESSIONS[name]["Offer"].parse(parameters))
    return offers


def accept_compression(
    protocol: AutobahnProtocol, offers: list[PerMessageCompressOffer]
) -> tuple[PerMessageCompress | None, str | None]:
    """
    Have a server's protocol choose among offers (its option ``perMessageCompressionAccept``).

    :return: what compresses, and the answer's field; None and None without compression.
    """
    accepted = protocol.perMessageCompressionAccept(offers) if offers else None
    if accepted is None:
        return None, None
    kind = _COMPRESSIONS[accepted.EXTENSION_NAME]["PMCE"]
    return kind.create_from_offer_accept(True, accepted), accepted.get_extension_string()


def compression_in(
    protocol: AutobahnProtocol, extensions: Extensions
) -> tuple[PerMessageCompress | None, str | None]:
    """
    What a client's protocol makes of the extensions that a server has chosen.

    :return: what compresses, None without compression; and what is wrong, None if nothing is.
    """
    compression: PerMessageCompress | None = None
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
            return None, f"the server's {name} is invalid: {error}"
        if accepted is None:
            return None, f"the server's {name} is not acceptable"
        compression = kinds["PMCE"].create_from_response_accept(False, accepted)
    return compression, None


def is_origin_allowed_by(protocol: AutobahnProtocol, origin: str) -> bool:
    """
    Whether the options ``allowedOrigins`` and ``allowNullOrigin`` of a configured protocol, which may
    be its factory's, allow an origin.

    Where any origin is allowed (``*``), ``allowNullOrigin`` does not matter: ``setProtocolOptions``
    turns it off whenever it is called without it, about whatever it is called.
    """
    factory = protocol.factory
    patterns = protocol.allowedOriginsPatterns
    if patterns is factory.allowedOriginsPatterns:
        if "*" in factory.allowedOrigins:
            return True
        normal = normal_origin(origin)
        if normal in _NO_PLACES and normal in factory.allowedOrigins:
            return True
    try:
        parsed = url_to_origin(origin)
    except ValueError:
        return False
    if parsed == "null":
        return bool(protocol.allowNullOrigin)
    scheme = "https" if factory.isSecure else "http"
    port = factory.externalPort or factory.port
    return bool(is_same_origin(parsed, scheme, port, patterns))
