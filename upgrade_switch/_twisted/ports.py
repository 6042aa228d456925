"""
How ports of Twisted's accept connections, and adopt sockets.
"""

from __future__ import annotations

from socket import AF_UNIX, AddressFamily
from typing import Any, TypeVar, cast

from twisted.internet.interfaces import IListeningPort, IReactorSocket
from twisted.internet.protocol import ServerFactory
from twisted.internet.unix import Port
from zope.interface import directlyProvides, providedBy

__all__ = ["accept_one_by_one", "adopting", "share_port"]


_Reactor = TypeVar("_Reactor")


def adopting(reactor: _Reactor) -> _Reactor:
    """
    A reactor that leaves the UNIX sockets alone which it adopts. Twisted lets everybody use them
    (``chmod``), whatever mode they were made with, and fails if it may not do that: systemd's sockets
    belong to root.

    :param reactor: does everything else.
    """
    return cast(_Reactor, _Adopting(cast(IReactorSocket, reactor)))


class _Adopting:
    def __init__(self, reactor: IReactorSocket) -> None:
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> object:
        return getattr(self._reactor, name)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: AddressFamily, factory: ServerFactory
    ) -> IListeningPort:
        if addressFamily != AF_UNIX:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                fileDescriptor, addressFamily, factory
            )
            return adopted
        port: IListeningPort = _AdoptedPort._fromListeningDescriptor(
            self._reactor, fileDescriptor, factory
        )
        port.startListening()
        return port


class _AdoptedPort(Port):
    """A port that says at the start that its socket has no file: only those that have get a mode."""

    def startListening(self) -> None:
        # Its name in older versions of Twisted.
        name = "_bindPath" if hasattr(self, "_bindPath") else "port"
        path = getattr(self, name)
        setattr(self, name, b"\0")
        try:
            super().startListening()
        finally:
            setattr(self, name, path)


def share_port(port: Any) -> None:
    """
    Have a port leave its socket to other processes, and accept nothing itself. Twisted shuts a socket
    down that it closes, for everybody, unless it was adopted, which is noted in ``_shouldShutdown``.
    """
    port._shouldShutdown = False
    port.stopReading()


def accept_one_by_one(port: Any) -> None:
    """
    Have a port accept one connection at a time. Twisted's takes as many as there are, a hundred and
    more; where several processes share a socket, one of them would have them all, and the others
    nothing to do. There is no public way: ``numberAccepts`` grows again with each connection.
    """
    accept = port.doRead

    def accept_one() -> object:
        port.numberAccepts = 1
        return accept()

    port.doRead = accept_one
