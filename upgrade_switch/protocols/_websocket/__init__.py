"""
WebSocket (RFC 6455) on autobahn's protocols. Needs the extra ``websocket``.
"""

from ..._extras import needs_extra

with needs_extra("websocket"):
    from .client import connect_websocket
    from .server import SAME_ORIGIN, websocket
    from .stream import WebSocketEndpoint, byte_stream

__all__ = ["SAME_ORIGIN", "WebSocketEndpoint", "byte_stream", "connect_websocket", "websocket"]
