"""
The protocols that connections are switched to.

Each name is imported when it is asked for (PEP 562), since some need an extra; if that is not
installed, :class:`~upgrade_switch.errors.MissingExtra` says which.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

__all__ = [
    "SAME_ORIGIN",
    "Destinations",
    "MessageEndpoint",
    "MessageFactory",
    "MessageStream",
    "TLSUpgradePool",
    "TunnelFactory",
    "WebSocketEndpoint",
    "broadcast",
    "byte_stream",
    "connect_to",
    "connect_udp",
    "connect_websocket",
    "h2c",
    "message_stream",
    "open_udp",
    "tls",
    "tls_required",
    "tunnel",
    "tunnel_by_name",
    "websocket",
]

if TYPE_CHECKING:
    from ._connect import Destinations, connect_to
    from ._h2c import h2c
    from ._handshake import SAME_ORIGIN
    from ._messages import MessageEndpoint, MessageFactory, MessageStream, broadcast, message_stream
    from ._targets import tunnel_by_name
    from ._tls import TLSUpgradePool, tls, tls_required
    from ._tunnel import TunnelFactory, tunnel
    from ._udp import connect_udp, open_udp
    from ._websocket import (
        WebSocketEndpoint,
        byte_stream,
        connect_websocket,
        websocket,
    )

_MODULES = {
    "Destinations": "_connect",
    "connect_to": "_connect",
    "h2c": "_h2c",
    "MessageEndpoint": "_messages",
    "MessageFactory": "_messages",
    "MessageStream": "_messages",
    "broadcast": "_messages",
    "message_stream": "_messages",
    "tunnel_by_name": "_targets",
    "TLSUpgradePool": "_tls",
    "tls": "_tls",
    "tls_required": "_tls",
    "TunnelFactory": "_tunnel",
    "tunnel": "_tunnel",
    "connect_udp": "_udp",
    "open_udp": "_udp",
    "SAME_ORIGIN": "_handshake",
    "WebSocketEndpoint": "_websocket",
    "byte_stream": "_websocket",
    "connect_websocket": "_websocket",
    "websocket": "_websocket",
}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
