"""
:class:`Echo`: the target of the default site's ``/echo``.
"""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

__all__ = ["Echo"]


class _ITransport(ITCPTransport, IConsumer, IPushProducer):
    """A connection that can be paused."""


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """
    Sends back what it receives. It supports half-close: without that, Twisted would drop what is still
    to be sent when the client's FIN arrives.
    """

    transport: _ITransport

    def connectionMade(self) -> None:
        # While a client does not read what it gets back, it is not read either.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass
