"""
WebSocket (RFC 6455) on autobahn's protocols. Needs the extra ``websocket``.
"""

from ...errors import needs_extra
from .. import make_callable

with needs_extra("websocket"):
    from .client import connect_websocket
    from .server import SAME_ORIGIN, websocket
    from .stream import WebSocketEndpoint, byte_stream

__all__ = ["SAME_ORIGIN", "WebSocketEndpoint", "byte_stream", "connect_websocket", "websocket"]

make_callable(__name__)
