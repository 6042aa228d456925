"""
:class:`UDPFlow`: the datagrams of one client, between its connection and a UDP socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ... import _twisted
from ...connection import abort_because
from ...interfaces import ICountsBytes, IDrainsLate, IStreamTransport
from .capsules import CapsuleReader, datagram_capsule
from .idle import IdleTimer

if TYPE_CHECKING:
    from .sockets import ConnectedSocket, IUDPReactor

__all__ = ["UDPFlow"]


@implementer(IPushProducer, ICountsBytes, IDrainsLate)
class UDPFlow(Protocol):
    """
    The target of a connection that has switched to ``connect-udp``. It owns the connection and the
    socket: when one of them ends, it ends the other.

    Neither direction keeps more than a transport's buffer. What the client sends goes to the kernel at
    once, or is dropped. While the client does not take what it is sent, the socket is not read: its
    queue in the kernel fills, and the newest datagrams are dropped there.

    :ivar dropped: how many of the client's datagrams were dropped: too large, or there was no room.
    :ivar bytes_in: how many bytes of capsules the client has sent.
    :ivar bytes_out: how many it has been sent.
    """

    transport: IStreamTransport

    def __init__(
        self, reactor: IUDPReactor, socket: ConnectedSocket, idle_timeout: float | None
    ) -> None:
        """
        :param socket: the flow's from now on.
        :param idle_timeout: after how many seconds without a byte either way it ends; None: never.
        """
        self._reactor = reactor
        self._socket = socket
        self._idle_timeout = idle_timeout
        self._idle: IdleTimer | None = None
        self._reader = CapsuleReader()
        self._call_at_end: Callable[[], object] | None = None
        self.bytes_in = self.bytes_out = 0

    @property
    def dropped(self) -> int:
        return self._socket.dropped

    def logPrefix(self) -> str:
        return "connect-udp"

    def at_end(self, call: Callable[[], object]) -> bool:
        """
        Have something called once, when the flow ends, or is not to begin.

        :return: False if it has ended already.
        """
        if not self._socket.is_open:
            return False
        self._call_at_end = call
        return True

    def close(self) -> None:
        """Close the socket of a flow that is not connected; harmless if it is closed."""
        self._socket.close()
        call, self._call_at_end = self._call_at_end, None
        if call is not None:
            call()

    # The client's connection.

    def connectionMade(self) -> None:
        self._idle = IdleTimer(self._reactor, self._idle_timeout, self._idle_too_long)
        _twisted.register_producer(self.transport, self)
        self._socket.start(self)

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self._moved()
        # Of the smallest capsules, one reading from a socket (64 KiB) has 21,845: a tenth of a second's
        # work at most, behind which everything else that can be read has its turn. No limit is needed.
        for payload in self._reader.feed(data):
            self._socket.send(payload)
        if self._reader.error is not None:
            # RFC 9297 §3.3, RFC 9298 §5.
            self._abort(self._reader.error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A TLS layer keeps its producer even after its end.
        self.transport.unregisterProducer()
        if self._idle is not None:
            self._idle.stop()
            self._idle = None
        self.close()

    def _abort(self, why: Exception) -> None:
        self._socket.close()
        abort_because(self.transport, why)

    def _idle_too_long(self) -> None:
        # RFC 9298 §3.1: with the socket, the stream ends.
        self._abort(TimeoutError(string=f"no datagram for {self._idle_timeout:g} seconds"))

    def _moved(self) -> None:
        if self._idle is not None:
            self._idle.moved()

    # IDrainsLate: whoever uses the flow knows nothing of the server's end.

    def drain_announced(self) -> None:
        """The flow goes on while it can."""

    def drain(self) -> None:
        self._socket.close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # IPushProducer: the socket, as the producer of what the client is sent.

    def pauseProducing(self) -> None:
        self._socket.pause()

    def resumeProducing(self) -> None:
        self._socket.resume()

    def stopProducing(self) -> None:
        """The connection has ended; ``connectionLost`` comes next."""

    # The socket.

    def datagrams_received(self, datagrams: list[bytes]) -> None:
        """Pass on what has come from the destination."""
        self._moved()
        capsules = b"".join(map(datagram_capsule, datagrams))
        self.bytes_out += len(capsules)
        self.transport.write(capsules)

    def socket_lost(self, reason: Failure) -> None:
        """The socket is of no use any more (RFC 9298 §3.1)."""
        assert isinstance(reason.value, Exception)
        self._abort(reason.value)
