"""
For tests of upgrades: a client and a server joined in memory, without sockets and, with a ``Clock``,
without a reactor. The bytes are cut wherever a test wants them cut.

In five lines, the test of an acceptor::

    def test_room():
        client = talk_to(UpgradeResource({"chat": accept}), cut=1)
        answer = client.offer("chat", b"trailing data", path="/?room=kitchen")
        assert answer.status == 101
        assert client.received == b"welcome to the kitchen"

:func:`talk_to` is a client by hand. :class:`MemoryEndpoint` connects real clients (``Agent``, treq,
``UpgradeEndpoint``) to a site. Both stand on :class:`Wire`, whose :class:`MemoryTransport` s behave as
Twisted's TCP transports do, and keep a list of what no protocol should do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from random import Random
from typing import Any, NamedTuple

import h11
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from .site import UpgradeSite

__all__ = ["Answer", "Client", "MemoryEndpoint", "MemoryTransport", "Wire", "talk_to"]

Cut = int | Sequence[int] | None

# What Twisted's transports keep before they pause a producer.
_FULL = 2**16


def _sizes(cut: Cut, seed: int | None) -> Iterator[int]:
    """The sizes of the pieces in which bytes arrive; without end."""
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

    :ivar protocol: whom it gives its bytes to.
    :ivar producer: who is registered, None where nobody is.
    :ivar complaints: what has been done to it that is of no effect on a real transport, and a mistake
        as a rule: writing after the end, text in place of bytes.
    """

    TLS = False
    logstr = "memory"

    def __init__(self, wire: Wire, host: IPv4Address, peer: IPv4Address) -> None:
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
        # What has been written; and how much of it is on its way, which nobody can take back.
        self._outgoing = bytearray()
        self._wire_bytes = bytearray()
        self._wants_more = False
        self.reset = False
        self._paused = False
        self._reads = True
        self._fin_sent = self._fin_wanted = False
        self.producer: Any = None
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

    # What the reactor's transports have, too, for those who look beneath the surface.

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

    def writeSequence(self, data: Any) -> None:
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
            self._paused = False
            self._wire.stir()

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"Cannot register producer {producer}: {self.producer} is registered")
        if self.disconnected:
            producer.stopProducing()
            return
        self.producer, self.streamingProducer = producer, streaming
        if not streaming:
            producer.resumeProducing()

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
        """The end, told to whoever is there by then; as on a socket it can be watched."""
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

        :return: whether there was one.
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
        """Give the kernel what it takes: as much as the other end has not read yet."""
        room = _FULL - len(self._wire_bytes)
        if room <= 0 or not (self._outgoing or self._wants_more):
            return False
        self._wire_bytes += self._outgoing[:room]
        del self._outgoing[:room]
        if not self._outgoing and self._wants_more:
            self._wants_more = False
            self.producer.resumeProducing()
        return True

    def _close(self) -> bool:
        """End what is to be ended, and has nothing left to write."""
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
    Two transports, joined. Nothing moves but in :meth:`pump`, or when the clock that it was given
    goes on.

    :ivar client: the transport of the side that has connected.
    :ivar server: the other.
    """

    def __init__(self, cut: Cut = None, seed: int | None = None, clock: Any = None) -> None:
        """
        :param cut: in what pieces bytes arrive: of one size, or of these sizes and then whole; None:
            as they come.
        :param seed: cut by chance, the same in each run.
        :param clock: an ``IReactorTime``; without one, a ``Clock`` of the wire's own.
        """
        self.clock: Any = Clock() if clock is None else clock
        self._pieces = _sizes(cut, seed)
        self._is_stirred = False
        here, there = (IPv4Address("TCP", "127.0.0.1", port) for port in (49152, 80))
        self.client = MemoryTransport(self, here, there)
        self.server = MemoryTransport(self, there, here)
        self.client.other, self.server.other = self.server, self.client

    def next_size(self) -> int:
        return next(self._pieces)

    def stir(self) -> None:
        """Something may be due: in the clock's next turn, as with a reactor."""
        if not self._is_stirred:
            self._is_stirred = True
            self.clock.callLater(0, self._move)

    def _move(self) -> None:
        self._is_stirred = False
        moved = [transport.advance() for transport in (self.client, self.server)]
        if any(moved):
            self.stir()

    def pump(self) -> None:
        """Move everything that can move; for a wire whose clock is a ``Clock``."""
        self.stir()
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def join(self, client: IProtocol, server: IProtocol) -> None:
        """Connect two protocols."""
        self.client.protocol, self.server.protocol = client, server
        server.makeConnection(self.server)
        client.makeConnection(self.client)
        self.stir()


@implementer(IStreamClientEndpoint, IStreamServerEndpoint)
class MemoryEndpoint:
    """
    Where a server listens and clients connect, in memory.

    :ivar wires: the connections that have been made.
    """

    def __init__(self, clock: Any, cut: Cut = None, seed: int | None = None) -> None:
        """
        :param clock: what moves the bytes: a reactor, or a ``Clock``.
        :param cut: as for :class:`Wire`.
        :param seed: the same.
        """
        self._clock = clock
        self._cut = cut
        self._seed = seed
        self._factory: Any = None
        self.wires: list[Wire] = []

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """
        :return: has fired with an ``IListeningPort``.
        """
        self._factory = protocolFactory
        protocolFactory.doStart()
        return succeed(_Port(self))

    def stop(self) -> None:
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.doStop()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        :return: has fired with the protocol, or failed with ``ConnectionRefusedError`` where nobody
            listens.
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


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    headers: dict[str, str]
    """In lower case; several lines are joined."""
    body: bytes


class Client(Protocol):
    """
    A client by hand.

    :ivar received: what has come since the connection has switched.
    :ivar site: the site that it is joined to.
    :ivar wire: how they are joined.
    """

    def __init__(self, site: UpgradeSite, wire: Wire) -> None:
        self.site = site
        self.wire = wire
        self.received = b""
        self.is_closed = False
        self.half_closed = False
        self._parser: h11.Connection | None = None
        self._events: list[Any] = []
        self._has_switched = False
        self._unparsed = b""

    # What the wire calls.

    def dataReceived(self, data: bytes) -> None:
        if self._has_switched or self._parser is None:
            self.received += data
            return
        self._parser.receive_data(data)
        self._parse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_closed = True
        if self._parser is not None and not self._has_switched:
            self._parser.receive_data(b"")
            self._parse()

    def _parse(self) -> None:
        assert self._parser is not None
        while True:
            event = self._parser.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                break
            self._events.append(event)
        if self._parser.their_state is h11.SWITCHED_PROTOCOL:
            self._has_switched = True
            self.received += bytes(self._parser.trailing_data[0])

    # What a test calls.

    @property
    def target(self) -> Any:
        """The protocol that the server's side of the connection belongs to."""
        return self.wire.server.protocol

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        trailing: bytes = b"",
    ) -> Answer:
        """
        Send a request, and what is to follow it at once; move everything.

        :return: what has been answered.
        :raises AssertionError: where there is no whole answer.
        """
        fields = {"Host": "localhost", **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {said}" for name, said in fields.items())]
        if self._parser is None or self._parser.our_state is h11.MUST_CLOSE:
            self._parser = h11.Connection(h11.CLIENT)
        elif self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        self._events.clear()
        shadow = [("Host", "localhost")]
        if "Upgrade" in fields:
            shadow += [("Connection", "Upgrade"), ("Upgrade", fields["Upgrade"])]
        self._parser.send(h11.Request(method=method, target="/", headers=shadow))
        self._parser.send(h11.EndOfMessage())
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body + trailing)
        return self._answer()

    def offer(self, token: str, trailing: bytes = b"", path: str = "/", **arguments: Any) -> Answer:
        """
        Ask for an upgrade.

        :param token: the Upgrade field.
        :param trailing: bytes that are sent right behind the request, before the answer.
        :param arguments: as for :meth:`request`.
        """
        headers = {"Connection": "Upgrade", "Upgrade": token, **arguments.pop("headers", {})}
        return self.request(path=path, headers=headers, trailing=trailing, **arguments)

    def _answer(self) -> Answer:
        heads = [e for e in self._events if isinstance(e, h11.Response | h11.InformationalResponse)]
        heads = [head for head in heads if head.status_code >= 200 or head.status_code == 101]
        assert heads, "no answer"
        headers: dict[str, str] = {}
        for name, value in heads[-1].headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        body = b"".join(bytes(e.data) for e in self._events if isinstance(e, h11.Data))
        return Answer(heads[-1].status_code, headers, body)

    def send(self, data: bytes) -> None:
        """Write, and move everything."""
        self.wire.client.write(data)
        self.wire.pump()

    def half_close(self) -> None:
        """End this direction alone (FIN), and move everything."""
        self.wire.client.loseWriteConnection()
        self.wire.pump()

    def close(self) -> None:
        """Close, and move everything."""
        self.wire.client.loseConnection()
        self.wire.pump()

    def abort(self) -> None:
        """Reset the connection, and move everything."""
        self.wire.client.abortConnection()
        self.wire.pump()


def talk_to(
    resource: IResource | UpgradeSite,
    cut: Cut = None,
    seed: int | None = None,
    clock: Clock | None = None,
) -> Client:
    """
    Join a client by hand to a site.

    :param resource: what answers; or a whole site, made with ``reactor=clock``.
    :param cut: in what pieces bytes arrive, both ways: of one size, or of these sizes and then whole;
        None: as they come.
    :param seed: cut by chance, the same in each run.
    :param clock: what the site's time is; time-outs come by its ``advance``.
    """
    clock = Clock() if clock is None else clock
    site = resource
    if not isinstance(site, UpgradeSite):
        site = UpgradeSite(site, reactor=clock)
    wire = Wire(cut, seed, clock)
    client = Client(site, wire)
    site.doStart()
    wire.join(client, site.buildProtocol(wire.client.getHost()))
    return client
