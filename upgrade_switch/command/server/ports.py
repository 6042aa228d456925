"""
How endpoints are had to listen otherwise than by opening a port: what they ask of a reactor is answered
in another way. So it works for every kind of endpoint string, for those around others, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

__all__ = ["ListeningReactor"]

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
