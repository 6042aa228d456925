"""
How a connection with TLS has ended, since Twisted says no more than that it was lost; and that it ends.
"""

from __future__ import annotations

from OpenSSL.SSL import RECEIVED_SHUTDOWN, SENT_SHUTDOWN
from OpenSSL.SSL import Error as TLSError
from twisted.internet.error import ConnectionLost
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from ..interfaces import IStreamTransport
from .transports import bottom, tls_layer

__all__ = ["has_closed_tls", "let_end", "was_closed_first"]


def has_closed_tls(layer: TLSMemoryBIOProtocol, reason: Failure) -> bool:
    """
    Whether the other end has sent close_notify (RFC 8446 §6.1), whatever TCP said afterwards: a socket
    that is closed at once resets what we still say. To be asked within ``connectionLost``, since the
    layer forgets it then. (OpenSSL sets the same flag for a fatal alert, which is an error of its own.)
    """
    return bool(_said(layer) & RECEIVED_SHUTDOWN) and not reason.check(TLSError)


def was_closed_first(layer: TLSMemoryBIOProtocol, reason: Failure) -> bool:
    """
    Whether the other end has answered our close_notify by ending TCP, without one of its own. The alert
    also counts as sent when the connection was aborted, which only the private ``_aborted`` tells.
    """
    if layer._aborted or not reason.check(ConnectionLost):
        return False
    return bool(_said(layer) & SENT_SHUTDOWN)


def _said(layer: TLSMemoryBIOProtocol) -> int:
    handle = layer.getHandle()
    said: int = 0 if handle is None else handle.get_shutdown()
    return said


def let_end(transport: IStreamTransport) -> bool:
    """
    To be called by a push producer that is asked to go on. When TLS is over, since the other end has
    said so, Twisted closes TCP as soon as everything has been sent; but a producer that was paused is
    asked for more first, and if it has nothing, TCP is neither written to nor read, and never ends. So
    the producer is taken off.

    :return: whether TLS is over: nothing that is written goes out any more.
    """
    if tls_layer(transport) is None or not getattr(bottom(transport), "disconnecting", False):
        return False
    transport.unregisterProducer()
    return True
