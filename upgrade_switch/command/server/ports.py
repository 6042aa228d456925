"""
How endpoints are had to listen otherwise than by opening a port: what they ask of a reactor is answered
in another way. So it works for every kind of endpoint string, for those around others, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

__all__ = ["ListeningReactor", "Opener", "RecordingReactor"]

Opener = Callable[[], IListeningPort]
"""Opens the port that is asked for."""


class ListeningReactor:
    """A reactor for server endpoints: another one, but for listening."""

    def __init__(
        self, reactor: Any, listen: Callable[[IProtocolFactory, Opener], IListeningPort]
    ) -> None:
        """
        :param reactor: the other one.
        :param listen: called in place of listening, with what would build the protocols, TLS' included,
            and what would open the port.
        """
        self._reactor = reactor
        self._listen = listen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        listen = self._reactor.listenTCP
        return self._listen(factory, lambda: listen(port, factory, backlog, interface))

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        listen = self._reactor.listenSSL
        return self._listen(
            TLSMemoryBIOFactory(contextFactory, False, factory),
            lambda: listen(port, factory, contextFactory, backlog, interface),
        )

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        listen = self._reactor.listenUNIX
        return self._listen(factory, lambda: listen(address, factory, backlog, mode, wantPID))

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        adopt = self._reactor.adoptStreamPort
        return self._listen(factory, lambda: adopt(fileDescriptor, addressFamily, factory))


class RecordingReactor(ListeningReactor):
    """A reactor for server endpoints that opens nothing, and remembers what it was asked for."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor, self._note)
        self._asked: IProtocolFactory | None = None

    def _note(self, factory: IProtocolFactory, _: Opener) -> IListeningPort:
        self._asked = factory
        return _NoPort()

    def asked_by(
        self, endpoint: IStreamServerEndpoint, factory: IProtocolFactory
    ) -> IProtocolFactory | None:
        """
        What an endpoint, which was given this reactor, would have build the protocols if it listened
        with a factory: that, or something around it. None if it does not listen on a socket of a
        reactor's, or not at once.

        :param endpoint: not one for a socket that was inherited: that closes its descriptor afterwards,
            whose number may be another file's.
        """
        self._asked = None
        maybeDeferred(endpoint.listen, factory).addErrback(lambda _: None)
        return self._asked


@implementer(IListeningPort)
class _NoPort:
    """Stands for a port that has not been opened."""

    def startListening(self) -> None:
        pass

    def stopListening(self) -> None:
        pass

    def getHost(self) -> IAddress:
        raise NotImplementedError
