"""
WebSocket (RFC 6455) on autobahn's protocols. Needs the extra ``websocket``.
"""

from ..._extras import needs_extra

with needs_extra("websocket"):
    from .client import connect_websocket
    from .server import websocket
    from .stream import WebSocketEndpoint, byte_stream

__all__ = ["WebSocketEndpoint", "byte_stream", "connect_websocket", "websocket"]
