"""
What is at the default site's ``/echo``: :class:`Echo`, by its own token and for browsers.
"""

from __future__ import annotations

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from ...errors import MissingExtra
from ...interfaces import Acceptor
from .messages import in_messages
from .options import ServeOptions

__all__ = ["Echo", "echo_upgrades"]


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


def echo_upgrades(options: ServeOptions) -> dict[str, Acceptor | IProtocolFactory]:
    """
    The echo by token: ``echo``, and ``websocket`` in binary messages, which pages can speak, where the
    extra for that is installed.

    :raises UsageError: if an origin is wrong.
    """
    factory = Factory.forProtocol(Echo)
    try:
        from ...protocols import _websocket  # noqa: F401 - whether it is there
    except MissingExtra:
        return {"echo": factory}
    return {"echo": factory, "websocket": in_messages(factory, options)}
