"""
:class:`MemoryEndpoint`: a place in memory where a server listens and clients connect.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from .wire import Cut, Wire

__all__ = ["MemoryEndpoint"]


@implementer(IStreamClientEndpoint, IStreamServerEndpoint)
class MemoryEndpoint:
    """
    A place in memory where a server listens and clients connect.

    :ivar wires: the connections that have been made.
    """

    def __init__(self, clock: IReactorTime, cut: Cut = None, seed: int | None = None) -> None:
        """
        :param clock: what moves the bytes: a reactor, or a ``Clock``.
        :param cut: as for :class:`Wire`.
        :param seed: as for :class:`Wire`.
        """
        self._clock = clock
        self._cut = cut
        self._seed = seed
        self._factory: IProtocolFactory | None = None
        self.wires: list[Wire] = []

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Have a server's factory build a protocol for each client that connects.

        :return: has fired with the port, whose ``stopListening`` ends that.
        """
        self._factory = protocolFactory
        protocolFactory.doStart()
        return succeed(_Port(self))

    def stop(self) -> None:
        """Listen no longer, and stop the server's factory. Connections go on."""
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.doStop()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect a client to the server.

        :return: has fired with the client's protocol, or failed: with ``ConnectionRefusedError`` if
            nobody listens, with ``NoProtocol`` if the client's factory builds none.
        """
        wire = Wire(self._cut, self._seed, self._clock)
        address = wire.client.getHost()
        server = None if self._factory is None else self._factory.buildProtocol(address)
        if server is None:
            return fail(ConnectionRefusedError())
        client = protocolFactory.buildProtocol(wire.client.getPeer())
        if client is None:
            return fail(NoProtocol())
        self.wires.append(wire)
        wire.join(client, server)
        return succeed(client)


@implementer(IListeningPort)
class _Port:
    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint

    def startListening(self) -> None:
        pass

    def stopListening(self) -> Deferred[None]:
        self._endpoint.stop()
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 80)
