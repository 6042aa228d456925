"""
What autobahn's public API does not give: a protocol that is open from the start, since its handshake
has been done by somebody else. This module and ``_opened.py``, which it uses, are the only ones that
name autobahn's internals; ``tests/test_autobahn.py`` fails when autobahn changes them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from autobahn.twisted.websocket import WebSocketClientProtocol, WebSocketServerProtocol
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION
from autobahn.websocket.protocol import WebSocketProtocol, _is_same_origin, _url_to_origin
from zope.interface import alsoProvides

from ...errors import UpgradeError
from ...interfaces import IDrainable
from ._opened import Adapter, Opened, Opening
from .goodbye import Drainable, Goodbye
from .origin import normal_origin

__all__ = [
    "MAGIC",
    "Opening",
    "accept_compression",
    "compression_in",
    "configure",
    "has_on_connect",
    "is_origin_allowed_by",
    "offered_compression",
    "open_when_connected",
    "parse_extensions",
]

_COMPRESSIONS: dict[str, dict[str, Any]] = PERMESSAGE_COMPRESSION_EXTENSION

# RFC 6455 §4.2.2.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_TAKES_EVERYBODY = WebSocketServerProtocol.onConnect


class _Kind(NamedTuple):
    """A class of autobahn's, or a user's, and what is made of it."""

    opened: type
    options: tuple[str, ...]
    """The options that a protocol has of its factory, since its class has none of its own."""


@lru_cache(128)
def _kind(kind: Any) -> _Kind:
    bases: tuple[type, ...] = (Opened, kind, Adapter)
    if not IDrainable.implementedBy(kind) and issubclass(kind, WebSocketServerProtocol):
        goodbye = Goodbye if hasattr(kind, "drain") else Drainable
        bases = (Opened, goodbye, kind, Adapter)
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


def has_on_connect(protocol: Any) -> bool:
    """
    Whether a server's protocol has an ``onConnect`` of its own. autobahn's takes everybody, without a
    subprotocol; what it writes to its log costs more than that.
    """
    return getattr(protocol.onConnect, "__func__", None) is not _TAKES_EVERYBODY


def open_when_connected(protocol: Any, opening: Opening) -> None:
    """
    Have a configured protocol open, in the state in which its own handshake would have left it, when
    it gets its transport.
    """
    # The handshake is over: no timer for it.
    attributes = vars(protocol)
    attributes["_opening"] = opening
    attributes["openHandshakeTimeout"] = 0


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
