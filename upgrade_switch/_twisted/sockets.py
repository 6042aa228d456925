"""
What Twisted's transports do not tell about their sockets.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress
from fcntl import ioctl
from ipaddress import ip_address
from sys import byteorder
from termios import TIOCOUTQ
from typing import NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.tcp import Connection, Port
from twisted.python.failure import Failure

from ..interfaces import IMultiplexedTransport
from .transports import beneath, bottom, forget_watch, is_closing, unsent, watch_end, watcher

__all__ = [
    "KeepAlive",
    "LastReading",
    "address_of_connections",
    "has_died",
    "has_peer_ended",
    "has_timed_out",
    "keep_alive",
    "keep_alive_as",
    "send_small_parts",
    "set_for_connections",
    "set_keep_alive",
    "unacknowledged",
]


class KeepAlive(NamedTuple):
    """TCP's keep-alive: when it begins, how often it asks, and after how many silent probes it ends."""

    idle: int = 60
    interval: int = 15
    probes: int = 4


def set_keep_alive(
    transport: object,
    idle: int = KeepAlive().idle,
    interval: int = KeepAlive().interval,
    probes: int = KeepAlive().probes,
) -> None:
    """
    Have TCP find out whether the other end is still there. Transports in memory and UNIX sockets need
    no such thing.

    :param idle: after how many seconds of silence to ask.
    :param interval: how many seconds to wait for an answer before asking again.
    :param probes: how often to ask before the connection ends.
    """
    if not ITCPTransport.providedBy(transport):
        return
    handle = getattr(beneath(transport), "socket", None)
    try:
        if handle is not None:
            handle.setsockopt(_TCP, _KEEP_ALIVE_IDLE, idle)
            handle.setsockopt(_TCP, socket.TCP_KEEPINTVL, interval)
            handle.setsockopt(_TCP, socket.TCP_KEEPCNT, probes)
        # Last: so the kernel sets its timer once.
        transport.setTcpKeepAlive(True)
    except OSError:
        # UNIX sockets of older Twisteds say that they are TCP's; a socket may have been closed.
        return


# Whether a connection has what was set on the socket that listens, as Linux has it.
_INHERITS = sys.platform == "linux"


def set_for_connections(handle: socket.socket, keep_alive: KeepAlive | None) -> KeepAlive | None:
    """
    Set on a socket that listens what its TCP connections are to have: five system calls, in place of as
    many for each connection that switches. They send small parts at once; HTTP has that, too.

    :return: TCP's keep-alive that they have; None: they have none yet.
    """
    if not _INHERITS or keep_alive is None or handle.family == socket.AF_UNIX:
        return None
    handle.setsockopt(_TCP, socket.TCP_NODELAY, 1)
    handle.setsockopt(_TCP, _KEEP_ALIVE_IDLE, keep_alive.idle)
    handle.setsockopt(_TCP, socket.TCP_KEEPINTVL, keep_alive.interval)
    handle.setsockopt(_TCP, socket.TCP_KEEPCNT, keep_alive.probes)
    # Last: a connection that has it has all.
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return keep_alive


def address_of_connections(port: Port) -> IPv4Address | None:
    """
    The address that this end of each connection of a port has; None if they may have several, since
    the port takes those to any address.
    """
    address = port.getHost()
    if not isinstance(address, IPv4Address) or ip_address(address.host).is_unspecified:
        return None
    # A transparent proxy gets what is meant for others.
    if _TRANSPARENT is None or port.socket.getsockopt(socket.IPPROTO_IP, _TRANSPARENT):
        return None
    return address


def keep_alive_as(transport: object, keep_alive: KeepAlive | None) -> None:
    """
    Have a connection that switches be kept alive by TCP, unless it has what it is to have from its port
    (:func:`set_for_connections`); one that came before that was set has nothing.

    :param keep_alive: None: not at all.
    """
    owner = bottom(transport)
    inherited = getattr(owner, "inherited", None)
    if inherited is not None:
        try:
            if inherited == keep_alive and owner.getTcpKeepAlive():
                return
            owner.inherited = None
            owner.setTcpKeepAlive(False)
        except OSError:
            # A socket may have been closed.
            pass
    if keep_alive is not None:
        set_keep_alive(transport, *keep_alive)


def keep_alive(transport: object) -> None:
    """The same with the defaults, unless it has been turned on already, perhaps with other times."""
    if not ITCPTransport.providedBy(transport) or not hasattr(beneath(transport), "socket"):
        # It has none, or not any more.
        return
    with suppress(OSError):
        if not transport.getTcpKeepAlive():
            set_keep_alive(transport)


# int: members of an enumeration are slower to convert.
_TCP = int(socket.IPPROTO_TCP)

# macOS calls it otherwise.
_KEEP_ALIVE_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", 0))

# Linux's.
_TRANSPARENT = getattr(socket, "IP_TRANSPARENT", None)

_NUMBER = bytes(4)

# Retransmissions without an answer that are more than a hiccup.
_MANY_RETRANSMISSIONS = 3


def has_timed_out(transport: object) -> bool:
    """
    Whether a connection that was lost has been given up by this side's TCP, since the other end's no
    longer answered: to keep-alive, or to what was sent. Twisted does not tell that from a reset. To be
    asked while the socket is open; only Linux answers.
    """
    handle = getattr(beneath(transport), "socket", None)
    if handle is None or not hasattr(socket, "TCP_INFO"):
        return False
    # A UNIX socket has none.
    with suppress(OSError):
        # struct tcp_info: tcpi_retransmits and tcpi_probes are its third and fourth byte.
        _, _, retransmissions, probes = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4)
        most_probes = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        return bool(retransmissions >= _MANY_RETRANSMISSIONS or probes >= most_probes)
    return False


def send_small_parts(transport: object) -> None:
    """
    Have TCP send every part at once, however small it is: else the second of two waits until the other
    end has acknowledged the first.
    """
    if ITCPTransport.providedBy(transport):
        # UNIX sockets of older Twisteds say that they are TCP's; a socket may have been closed.
        with suppress(OSError):
            transport.setTcpNoDelay(True)


def unacknowledged(transport: object) -> int:
    """
    How many bytes are still to arrive at the other end: those that wait to be sent
    (:func:`~upgrade_switch._twisted.unsent`), and those that the kernel has and that the other end's
    has not acknowledged. An end that is gone acknowledges nothing, and one whose buffer is full
    acknowledges only what its program reads.

    :param transport: if it has an attribute ``carrier``, that is the transport that is looked at.
    """
    transport = getattr(transport, "carrier", transport)
    waiting = unsent(transport)
    # As a rule, it is a bare one.
    is_bare = isinstance(transport, Connection)
    handle = getattr(transport if is_bare else beneath(transport), "socket", None)
    if handle is None:
        return waiting
    try:
        return waiting + int.from_bytes(ioctl(handle.fileno(), TIOCOUTQ, _NUMBER), byteorder)
    except (OSError, ValueError):
        # Not every kernel knows it, nor of every kind of socket; a socket may have been closed.
        return waiting


def has_peer_ended(transport: object) -> bool:
    """
    Whether the other end has closed, or reset, a connection that nobody reads: Twisted does not see it,
    and there may be more in front of it. Of sockets, only Linux answers.
    """
    owner = bottom(transport)
    if IMultiplexedTransport.providedBy(owner):
        return bool(owner.end_came)
    handle = getattr(owner, "socket", None)
    if handle is None or not hasattr(select, "POLLRDHUP"):
        return False
    # A socket may have been closed.
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(handle, select.POLLRDHUP)
        return bool(poll.poll(0))
    return False


def has_died(transport: object) -> bool:
    """
    Whether a connection has been reset, or given up by this side's TCP, whose other end had finished
    sending before: nobody reads it any more, and until something is written, nobody looks. Of sockets,
    only Linux answers.
    """
    handle = getattr(bottom(transport), "socket", None)
    if handle is None or not hasattr(select, "POLLRDHUP"):
        return False
    # A socket may have been closed.
    with suppress(OSError, ValueError):
        poll = select.poll()
        # Errors, and the end of both directions, are told anyway.
        poll.register(handle, 0)
        return bool(poll.poll(0))
    return False


class LastReading:
    """
    Reads, when a connection is lost, what the kernel had received of it before that. A server that
    refuses a large content answers, and closes without having read everything, of which TCP makes a
    reset. On Linux, the answer can still be read then; but Twisted closes the socket as soon as a write
    has failed.
    """

    def __init__(self, transport: object) -> None:
        """
        :param transport: the transport; nothing is done if it has no socket, or if somebody else waits
            for its end.
        """
        self._owner = bottom(transport)
        self._is_waiting = hasattr(self._owner, "socket") and watcher(transport) is None
        if self._is_waiting:
            watch_end(transport, None, self)

    def __call__(self, reason: Failure) -> None:
        owner = self._owner
        # First: whoever aborts the transport now has it call its own method.
        forget_watch(owner)
        try:
            if reason.check(ConnectionLost):
                while not is_closing(owner) and _has_received(owner.socket) and not owner.doRead():
                    pass
        finally:
            owner.connectionLost(reason)

    def give_up(self) -> None:
        """The connection belongs to another owner from now on."""
        if self._is_waiting and watcher(self._owner) is self:
            forget_watch(self._owner)


def _has_received(handle: socket.socket) -> bool:
    with suppress(OSError):
        return bool(handle.recv(1, socket.MSG_PEEK))
    return False
