"""
A server that is in a test's own hands, and the client that talks to it: what the server says, and
when, is written in the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import treq
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY
from tests.kit.harness import HalfCloseRecorder, Listening, Recorder, Waiters, patient, reactor, turns
from tests.kit.polled import readers
from upgrade_switch import UpgradeEndpoint, UpgradePool, _twisted

#: Every kind of connection that a client may have.
CLIENT_KINDS = ("tcp", "tls", "unix")

#: The answer that switches to ``echo``.
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"


class Peer(Recorder):
    """The server's side of one connection."""

    factory: Peers

    def connectionMade(self) -> None:
        super().connectionMade()
        socket = _twisted.bottom(self.transport)
        if ITCPTransport.providedBy(socket):
            # As HTTPChannel does: what is sent in two parts arrives as soon as one. Older
            # Twisteds' UNIX sockets say that they can, and raise.
            with suppress(OSError):
                socket.setTcpNoDelay(True)
        self.factory.waiters.look()


class HalfClosePeer(HalfCloseRecorder, Peer):
    """One that goes on when its client has finished sending."""


class Peers(Factory):
    """
    What is connected to a :class:`Scripted`.

    :ivar built: all connections there have been, in their order.
    :ivar peer: what the server's sides of the next ones are.
    """

    noisy = False
    peer: type[Peer] = Peer

    def __init__(self) -> None:
        self.built: list[Peer] = []
        self.waiters = Waiters()

    def buildProtocol(self, addr: object) -> Peer:
        peer = self.peer()
        peer.factory = self
        self.built.append(peer)
        return peer


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Dialled:
    """
    What an agent connects with: leads everywhere to one port, and knows the client's side of it.

    :ivar transports: the client's sockets, in their order.
    :ivar received: how many bytes the clients on them have been given before they switched.
    """

    def __init__(self, listening: Listening) -> None:
        self.transports: list[Any] = []
        self.received = 0
        self.waiters = Waiters()
        self._listening = listening

    def endpointForURI(self, uri: object) -> Dialled:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        connected: Deferred[Any] = self._listening.endpoint.connect(factory)
        return connected.addCallback(self._watch)

    def _watch(self, client: Any) -> Any:
        transport = _twisted.bottom(client.transport)
        self.transports.append(transport)
        lose, receive = transport.connectionLost, client.dataReceived

        def lost(reason: Failure = connectionDone) -> None:
            lose(reason)
            self.waiters.look()

        def received(data: bytes) -> None:
            self.received += len(data)
            receive(data)
            self.waiters.look()

        transport.connectionLost, client.dataReceived = lost, received
        return client

    def is_closed(self) -> Deferred[None]:
        """
        Fires when the client has none of its connections any more. (Of one that an UpgradeEndpoint
        has switched, only its protocol hears.)
        """
        return self.waiters.until(lambda: not any(t.connected for t in self.transports))

    def has_received(self, count: int) -> Deferred[None]:
        return self.waiters.until(lambda: self.received >= count)

    @property
    def reads(self) -> bool:
        """Whether the client reads from the connection that it made last."""
        return self.transports[-1] in readers()


class Scripted(Listening):
    """A port whose connections the test plays, and an agent over an UpgradePool that goes there."""

    def __init__(self, kind: str, persistent: bool = True) -> None:
        super().__init__(kind, Peers())
        self.client = Dialled(self)
        self.pool = UpgradePool(reactor, persistent)
        self.agent = Agent.usingEndpointFactory(reactor, self.client, self.pool)
        self._taken = 0

    @property
    def url(self) -> str:
        return "https://server.test/u" if self.kind == "tls" else "http://server.test/u"

    @property
    def count(self) -> int:
        """How many connections there have been."""
        return len(self.site.built)

    async def accepted(self) -> Peer:
        """The next connection."""
        await self.site.waiters.until(lambda: self.count > self._taken)
        self._taken += 1
        peer: Peer = self.site.built[self._taken - 1]
        return peer

    async def asked(self) -> tuple[Peer, bytes]:
        """The next connection, and the head of its request."""
        peer = await self.accepted()
        return peer, await peer.head()

    def ask(self, upgrade: Any = "echo", method: str = "GET", **kwargs: Any) -> Deferred[Any]:
        """Ask with treq; for an upgrade, unless it is None. Nobody looks at the time."""
        headers = dict(kwargs.pop("headers", {}))
        if upgrade is not None:
            headers["Upgrade"] = upgrade
        kwargs = {"headers": headers, "agent": self.agent, **kwargs}
        answer: Deferred[Any] = treq.request(method, kwargs.pop("url", self.url), **kwargs)
        return answer

    async def answered(self, *data: bytes, **kwargs: Any) -> tuple[Peer, Any]:
        """Ask, have the server send this, and get the response."""
        answer = self.ask(**kwargs)
        peer, _head = await self.asked()
        for part in data:
            peer.send(part)
        return peer, await patient(answer)

    async def stop(self) -> None:
        await patient(self.pool.closeCachedConnections())
        for peer in self.site.built:
            _twisted.bottom(peer.transport).abortConnection()
        for transport in self.client.transports:
            transport.abortConnection()
        await self.port.stopListening()
        await turns()
        assert not any(transport.connected for transport in self.client.transports)
        if self._folder is not None:
            self._folder.cleanup()


@asynccontextmanager
async def playing(kind: str = "tcp", persistent: bool = True) -> AsyncIterator[Scripted]:
    """A :class:`Scripted` that is stopped afterwards, the client's connections with it."""
    server = Scripted(kind, persistent)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def trusting_agent(**kwargs: Any) -> Agent:
    """An agent over an UpgradePool, which has the arguments, that trusts the tests' authority."""
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
    return Agent(reactor, policy, pool=UpgradePool(reactor, **kwargs))


def endpoint_to(listening: Listening, **kwargs: Any) -> UpgradeEndpoint:
    """An endpoint to ``/u`` of a site."""
    kwargs.setdefault("agent", trusting_agent())
    return UpgradeEndpoint(reactor, listening.url + "/u", kwargs.pop("token", "echo"), **kwargs)


def ask_plainly(server: Scripted, **kwargs: Any) -> Deferred[Any]:
    """Ask for an upgrade with the bare agent."""
    headers = Headers({b"Upgrade": [b"echo"]})
    return server.agent.request(b"GET", server.url.encode("ascii"), headers)


#: Ways to ask for the upgrade to ``echo``.
ASKING: dict[str, Callable[[Scripted], Deferred[Any]]] = {
    "agent": ask_plainly,
    "treq": lambda server: server.ask(),
    "treq unbuffered": lambda server: server.ask(unbuffered=True),
}


@implementer(IBodyProducer)
class Slow:
    """
    A request's body that is written when the test says so.

    :ivar stopped: whether it has been told to stop, or its Deferred has been cancelled.
    """

    def __init__(self, length: Any = UNKNOWN_LENGTH) -> None:
        self.length = length
        self.stopped = False
        self.waiters = Waiters()
        self.produced: Deferred[None] = Deferred(lambda _: self._stop())
        self._consumer: Any = None

    def make_uncancellable(self) -> None:
        """Have a Deferred that knows nothing of stopping, as IBodyProducer allows."""
        self.produced = Deferred()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self._consumer = consumer
        self.waiters.look()
        return self.produced

    def started(self) -> Deferred[None]:
        return self.waiters.until(lambda: self._consumer is not None)

    def write(self, data: bytes) -> None:
        self._consumer.write(data)

    def finish(self) -> None:
        self.produced.callback(None)

    def _stop(self) -> None:
        self.stopped = True
        self.waiters.look()

    def is_stopped(self) -> Deferred[None]:
        return self.waiters.until(lambda: self.stopped)

    def stopProducing(self) -> None:
        self._stop()

    def pauseProducing(self) -> None:
        """It never writes much."""

    def resumeProducing(self) -> None:
        """It never pauses."""


class Pipe:
    """A file that cannot seek, and never ends."""

    closed = False

    def read(self, size: int) -> bytes:
        return b"x" * size

    def close(self) -> None:
        self.closed = True


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Unreachable:
    """An endpoint that never connects."""

    def __init__(self) -> None:
        self.cancelled = 0

    def endpointForURI(self, uri: object) -> Unreachable:
        return self

    def connect(self, factory: object) -> Deferred[Any]:
        return Deferred(lambda _: self._cancel())

    def _cancel(self) -> None:
        self.cancelled += 1


class Counting(Factory):
    """A client's factory that counts how often it is started and stopped."""

    noisy = False

    def __init__(self, make: Any = Recorder) -> None:
        self.calls: list[str] = []
        self.addresses: list[Any] = []
        self._make = make

    def startFactory(self) -> None:
        self.calls.append("start")

    def stopFactory(self) -> None:
        self.calls.append("stop")

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        return self._make()


class Raising(Recorder):
    """A client that fails when it is connected."""

    def connectionMade(self) -> None:
        super().connectionMade()
        raise ZeroDivisionError
