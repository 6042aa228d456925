"""
:class:`ConnectedSocket`: a UDP socket that is connected to one address.

Twisted's own UDP port does not do: where it is connected, the first ICMP error ends it (the reactor
sees an error on the descriptor, which it takes for the end); the log announces each one, twice; and it
closes with a timer, in the reactor's next turn.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorTime,
    IReadDescriptor,
)
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["ConnectedSocket", "IUDPReactor"]

# No datagram is longer.
_LONGEST: Final = 65536

# What is read in one turn of the reactor: the others have a turn, too.
_MOST_BYTES: Final = 65536
_MOST_DATAGRAMS: Final = 64

# RFC 9298 §3.1: a proxy introduces no fragments. Python does not name these; Linux, ip(7) and ipv6(7).
_LINUX_MTU_DISCOVER: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 2),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 2),
}


class IUDPReactor(IReactorTime, IReactorFDSet, IReactorPluggableNameResolver):
    """
    What flows ask of a reactor: the time, to be told when a descriptor can be read, and addresses.
    """


class Receiver(Protocol):
    """Whom a socket tells what happens to it."""

    def datagrams_received(self, datagrams: list[bytes]) -> None:
        """Some have come: at least one, and about 128 KiB at most."""

    def socket_lost(self, reason: Failure) -> None:
        """The socket cannot be used any more, and has been closed."""


@implementer(IReadDescriptor)
class ConnectedSocket:
    """
    A UDP socket that is connected to one address: the kernel drops what comes from any other. An ICMP
    error ends nothing: the other end's program may be back in a second.

    Until :meth:`start` it does not read. Whoever made it closes it; until then, the reactor refers to
    it, and it to its receiver.

    :ivar dropped: how many datagrams could not be sent.
    """

    def __init__(self, reactor: IUDPReactor, address: IPv4Address | IPv6Address, port: int) -> None:
        """
        Open the socket, and connect it, which sends nothing.

        :param address: the address, without a zone.
        :raises OSError: if there is no way to that address, or there are no more sockets.
        """
        self._reactor = reactor
        self._receiver: Receiver | None = None
        self._is_paused = False
        self.dropped = 0
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        opened = socket.socket(family, socket.SOCK_DGRAM)
        self._socket: socket.socket | None = opened
        try:
            opened.setblocking(False)
            _forbid_fragments(opened)
            opened.connect((str(address), port))
        except BaseException:
            opened.close()
            raise

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def start(self, receiver: Receiver) -> None:
        """Read, from now on."""
        self._receiver = receiver
        self._read()

    def pause(self) -> None:
        """Leave what comes in the kernel's queue; when that is full, the kernel drops the newest."""
        self._is_paused = True
        if self._socket is not None:
            self._reactor.removeReader(self)

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        self._read()

    def _read(self) -> None:
        if self._socket is not None and self._receiver is not None and not self._is_paused:
            self._reactor.addReader(self)

    def send(self, datagram: bytes) -> None:
        """Send a datagram, or drop it: if it is too large for the way, or if the kernel has no room."""
        # The first try may fail with an ICMP error that an earlier datagram has caused.
        for _ in range(2):
            if self._socket is None:
                break
            try:
                self._socket.send(datagram)
                return
            except BlockingIOError:
                break
            except OSError:
                pass
        self.dropped += 1

    def close(self) -> None:
        """Close the socket; harmless when it is closed."""
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._socket.close()
            self._socket = self._receiver = None

    # What the reactor calls.

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        return "connect-udp"

    def doRead(self) -> None:
        datagrams: list[bytes] = []
        size = 0
        while self._socket is not None and len(datagrams) < _MOST_DATAGRAMS and size < _MOST_BYTES:
            try:
                datagram = self._socket.recv(_LONGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # An ICMP error, which has been taken off the socket by that.
                break
            datagrams.append(datagram)
            size += len(datagram)
        if datagrams and self._receiver is not None:
            self._receiver.datagrams_received(datagrams)

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has seen an error on the socket and stopped reading, or goes down itself. It tells
        the first with ``ConnectionDone``, which UDP does not have.
        """
        if self._socket is None:
            return
        if reason.check(ConnectionDone):
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._read()
            return
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.socket_lost(reason)


def _forbid_fragments(opened: socket.socket) -> None:
    """Have the kernel refuse to send what would need fragments, on the way too (RFC 9298 §3.1)."""
    if sys.platform == "linux":
        level, option, value = _LINUX_MTU_DISCOVER[opened.family]
        with suppress(OSError):
            opened.setsockopt(level, option, value)
