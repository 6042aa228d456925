"""
:class:`Wire`: two transports, joined in memory. The rest of ``upgrade_switch.testing`` is built on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from random import Random
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Cut", "MemoryTransport", "Wire"]

Cut = int | Sequence[int] | None

# How many bytes Twisted's transports keep before they pause a producer.
_FULL = 2**16


def _sizes(cut: Cut, seed: int | None) -> Iterator[int]:
    """The sizes of the pieces in which bytes arrive, an endless iterator."""
    if seed is not None:
        # Reproducible is what a test wants here, not unpredictable.
        random = Random(seed)  # noqa: S311
        return iter(lambda: random.choice((1, 1, 2, 3, 7, 64, 1000)), 0)
    if isinstance(cut, int):
        return repeat(cut)
    return chain(cut or (), repeat(_FULL))


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a :class:`Wire`. Like a TCP transport it refuses a second producer, gives nothing to a
    protocol that has paused it or that has been told of the end, knows half-closes, and writes what
    is left when it is closed.

    :ivar protocol: the protocol that gets its bytes; None when the connection is over.
    :ivar producer: the producer that is registered, if there is one.
    :ivar complaints: what has been done to it that has no effect on a real transport, and is usually a
        mistake: writing after the end.
    """

    TLS = False
    logstr = "memory"

    def __init__(self, wire: Wire, host: IPv4Address, peer: IPv4Address) -> None:
        # Any: a test asks it for what its own protocol has.
        self.protocol: Any = None
        self.other: MemoryTransport
        self.complaints: list[str] = []
        self.connected = True
        self.disconnecting = False
        self.disconnected = False
        self.no_delay = self.keep_alive = False
        self._wire = wire
        self._host = host
        self._peer = peer
        self._aborting = False
        # What has been written; and what is on its way, which nobody can take back.
        self._outgoing = bytearray()
        self._wire_bytes = bytearray()
        self._wants_more = False
        self.reset = False
        self._paused = False
        self._reads = True
        self._fin_sent = self._fin_wanted = False
        self.producer: IPushProducer | None = None
        self.streamingProducer = False

    # What protocols call.

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"Data must be bytes, not {type(data).__name__}")
        # Not at loseConnection: as on a socket, what is written until all is out goes with it.
        if self.disconnected or self._fin_wanted or self._aborting:
            self.complaints.append(f"{len(data)} bytes written after the end")
            return
        self._outgoing += data
        self._maybePauseProducer()
        self._wire.stir()

    # What the reactor's transports have as well, for code that looks beneath their interface.

    bufferSize = _FULL
    offset = _tempDataLen = 0

    @property
    def dataBuffer(self) -> bytes:
        return bytes(self._outgoing)

    def _maybePauseProducer(self) -> None:
        if self.producer is None:
            return
        if not self.streamingProducer:
            self._wants_more = True
        elif len(self._outgoing) > self.bufferSize:
            self._wants_more = True
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self._wire.stir()

    def loseWriteConnection(self) -> None:
        self._fin_wanted = True
        self._wire.stir()

    def abortConnection(self) -> None:
        if not self.disconnected:
            self._aborting = True
            self._wire.stir()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        if not (self.disconnecting or self.disconnected):
            # An end that has been read is read again, as from a socket.
            self._paused, self._reads = False, True
            self._wire.stir()

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"Cannot register producer {producer}: {self.producer} is registered")
        if self.disconnected:
            producer.stopProducing()
            return
        # One that is not streaming is never paused: what it lacks is not called.
        self.producer, self.streamingProducer = cast(IPushProducer, producer), streaming
        if not streaming:
            self.producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer, self._wants_more = None, False
        if self.disconnecting:
            self._wire.stir()

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> IPv4Address:
        return self._host

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self.keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = bool(enabled)

    def logPrefix(self) -> str:
        return self.logstr

    # What the wire calls.

    def connectionLost(self, reason: Failure) -> None:
        """
        The end: told to the protocol that is there by then. A method of its own, as on a socket, since
        it can be watched (``_twisted.watch_end``).
        """
        self.disconnected, self.connected = True, False
        # What is on its way arrives, and then the end.
        self._fin_sent = True
        self._wire.stir()
        self._outgoing.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(reason)

    def advance(self) -> bool:
        """
        Do one thing that is due.

        :return: whether anything was due.
        """
        if self.disconnected:
            return False
        if self._aborting:
            self.connectionLost(Failure(ConnectionAborted()))
            self.other.reset = True
            return True
        if self.reset:
            self.connectionLost(Failure(ConnectionLost()))
            return True
        return self._read() or self._write() or self._close()

    def _read(self) -> bool:
        """Take one piece of what the other end has written, or the end of it."""
        other = self.other
        if self._paused or not self._reads or self.disconnecting:
            return False
        if other._wire_bytes:
            size = self._wire.next_size()
            piece = bytes(other._wire_bytes[:size])
            del other._wire_bytes[:size]
            self.protocol.dataReceived(piece)
            return True
        if not other._fin_sent:
            return False
        self._reads = False
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is None or self._fin_sent:
            self.connectionLost(Failure(ConnectionDone()))
        else:
            half.readConnectionLost()
        return True

    def _write(self) -> bool:
        """Send, up to as many bytes as a kernel holds for an end that does not read."""
        if self._outgoing and self.other.disconnected:
            # The other end is gone: what is sent is answered with a reset.
            self._outgoing.clear()
            self.reset = True
            return True
        room = _FULL - len(self._wire_bytes)
        if room <= 0 or not (self._outgoing or self._wants_more):
            return False
        self._wire_bytes += self._outgoing[:room]
        del self._outgoing[:room]
        if not self._outgoing and self._wants_more and self.producer is not None:
            self._wants_more = False
            self.producer.resumeProducing()
        return True

    def _close(self) -> bool:
        """End the connection, or a direction, if that is wanted and nothing is left to write."""
        if self._outgoing:
            return False
        if self.disconnecting and self.producer is None:
            self._fin_sent = True
            self.connectionLost(Failure(ConnectionDone()))
            return True
        if self._fin_wanted and not self._fin_sent:
            self._fin_sent = True
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.writeConnectionLost()
            return True
        return False


class Wire:
    """
    Two transports, joined. Bytes move in :meth:`pump` only, or when the clock that it was given goes
    on.

    :ivar client: the transport of the side that has connected.
    :ivar server: the transport of the other side.
    :ivar clock: the clock.
    """

    def __init__(
        self, cut: Cut = None, seed: int | None = None, clock: IReactorTime | None = None
    ) -> None:
        """
        :param cut: the pieces in which bytes arrive: an int, pieces of one size; a list, pieces of
            these sizes, and then whole; None: as they come.
        :param seed: cut at random, but the same in each run.
        :param clock: a reactor, or a ``Clock``; by default, a ``Clock`` of the wire's own.
        """
        # Any: tests advance it, which only a Clock can.
        self.clock: Any = Clock() if clock is None else clock
        self._pieces = _sizes(cut, seed)
        self._is_stirred = False
        here, there = (IPv4Address("TCP", "127.0.0.1", port) for port in (49152, 80))
        self.client = MemoryTransport(self, here, there)
        self.server = MemoryTransport(self, there, here)
        self.client.other, self.server.other = self.server, self.client

    def next_size(self) -> int:
        """How many bytes arrive next, at most."""
        return next(self._pieces)

    def stir(self) -> None:
        """Called when something may be due; it is done in the clock's next turn, as by a reactor."""
        if not self._is_stirred:
            self._is_stirred = True
            self.clock.callLater(0, self._move)

    def _move(self) -> None:
        self._is_stirred = False
        moved = [transport.advance() for transport in (self.client, self.server)]
        if any(moved):
            self.stir()

    def pump(self) -> None:
        """Move everything that can move. The clock has to be a ``Clock``."""
        self.stir()
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def join(self, client: IProtocol, server: IProtocol) -> None:
        """Connect two protocols."""
        self.client.protocol, self.server.protocol = client, server
        server.makeConnection(self.server)
        client.makeConnection(self.client)
        self.stir()
