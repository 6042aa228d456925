"""
:class:`Echo`: the target of the default site's ``/echo``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from zope.interface import implementer

__all__ = ["Echo"]


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """
    Sends back what it gets: the target of the default site's ``/echo``. It takes half-closes, since
    for a protocol that does not, Twisted drops what is still to be sent when the client's FIN comes.
    """

    transport: Any

    def connectionMade(self) -> None:
        # A client that sends without reading is not read any more, either.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass
