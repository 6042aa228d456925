"""
How a connection with TLS has ended, since Twisted says no more than that it was lost; and that it ends.
"""

from __future__ import annotations

from typing import cast
from weakref import ref

from OpenSSL.SSL import RECEIVED_SHUTDOWN, SENT_SHUTDOWN
from OpenSSL.SSL import Error as TLSError
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProducer, IPushProducer
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..interfaces import IStreamTransport
from .transports import bottom, tls_layer

__all__ = ["has_closed_tls", "register_producer", "was_closed_first"]


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


def register_producer(transport: IStreamTransport, producer: IProducer, streaming: bool = True) -> None:
    """
    Register a producer with a transport. It is taken off when TLS is over, since the other end has said
    so: Twisted closes TCP as soon as everything has been sent, but a push producer that was paused is
    asked for more first, and if it has nothing, TCP is neither written to nor read, and never ends.

    :param streaming: whether it is a push producer.
    """
    if streaming and tls_layer(transport) is not None:
        producer = _OverTLS(cast(IPushProducer, producer), transport)
    transport.registerProducer(producer, streaming)


@implementer(IPushProducer)
class _OverTLS:
    """A push producer whose transport has TLS."""

    def __init__(self, producer: IPushProducer, transport: IStreamTransport) -> None:
        self._producer = producer
        # TLS keeps this: together they would be a cycle.
        self._transport = ref(transport)

    def pauseProducing(self) -> None:
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        transport = self._transport()
        if transport is not None and getattr(bottom(transport), "disconnecting", False):
            transport.unregisterProducer()
        else:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()
