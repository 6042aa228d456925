"""
Upgrades whose bytes travel in WebSocket's binary messages, as the options say.
"""

from __future__ import annotations

from twisted.internet.interfaces import IProtocolFactory
from twisted.python.usage import UsageError

from ...errors import InvalidUpgrades
from ...interfaces import Acceptor
from ..options import needs_extra_for
from .options import ServeOptions

__all__ = ["in_messages"]


def in_messages(acceptor: Acceptor | IProtocolFactory, options: ServeOptions) -> Acceptor:
    """
    An acceptor for the token ``websocket`` of what another one switches to.

    :raises UsageError: if the extra for WebSockets is not installed, or an origin is wrong.
    """
    with needs_extra_for("WebSockets need"):
        from ...protocols._handshake import SAME_ORIGIN
        from ...protocols._websocket import byte_stream
    try:
        return byte_stream(
            acceptor,
            options.origins or SAME_ORIGIN,
            heartbeat=options.tunnel_heartbeat,
            max_message_size=options.max_message_size or None,
        )
    except InvalidUpgrades as error:
        raise UsageError(f"--origin: {error}") from None
