"""
WebSocket (RFC 6455) as messages, for coroutines; on the sans-I/O half of the ``websockets`` library.
Needs the extra ``messages``.
"""

from ..._extras import needs_extra

with needs_extra("messages"):
    from .client import MessageEndpoint, MessageFactory
    from .server import message_stream
    from .stream import MessageStream, broadcast

__all__ = ["MessageEndpoint", "MessageFactory", "MessageStream", "broadcast", "message_stream"]
