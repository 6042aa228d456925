"""
Real servers and clients on real ports, for all tests.

Nothing here sleeps: whoever waits is called when what is waited for has happened. The time-outs are
there for tests that fail.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.haproxy._wrapper import proxyEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.waiting import PATIENCE, Waiters, eventually, patient, reactor, shown, turns
from upgrade_switch import UpgradeResource, UpgradeSite, _twisted
from upgrade_switch.connecting import SingleUseFactory
from upgrade_switch.server.channel import UpgradeChannel
from upgrade_switch.testing import MemoryEndpoint

__all__ = ["PATIENCE", "Waiters", "eventually", "patient", "reactor", "shown", "turns"]  # of .waiting

T = TypeVar("T")

#: Behind a kind: the port is one whose switched connections send at once.
AT_ONCE = " at once"

#: The kinds of connections with a socket beneath them.
SOCKETS = ("tcp", "tls", "unix", "proxy")

#: The kinds of connections that everything must work on.
KINDS = (*SOCKETS, "memory")

#: With those that send at once: what is handed over, and joined, must work on them, too.
EVERY_SOCKET = (*SOCKETS, *(f"{kind}{AT_ONCE}" for kind in ("tcp", "tls", "unix")))
EVERY_KIND = (*EVERY_SOCKET, "memory")

#: The same, where bytes are cut at each place: what a UNIX socket has read goes the way of TCP's.
CUT_KINDS = ("tcp", "tls", "proxy", "memory")

PROXY_LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"


class Recorder(Protocol):
    """
    A protocol that remembers everything that happens to it: a client, or a target.

    :ivar events: ``"made"``, ``bytes``, ``"lost"`` ... in their order.
    :ivar data: what has been received, but for what has been taken off.
    :ivar amount: how many bytes that is.
    """

    transport: Any

    def __init__(self) -> None:
        # Much may come in many pieces: joining them anew for each would take most of a test's time.
        self._data = bytearray()
        self.events: list[Any] = []
        self.reason: Failure | None = None
        self.waiters = Waiters()

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    @data.setter
    def data(self, data: bytes) -> None:
        self._data = bytearray(data)

    @property
    def amount(self) -> int:
        return len(self._data)

    def connectionMade(self) -> None:
        self._note("made")

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        self._note(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self._note("lost")

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self.waiters.look()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def so_far(self) -> str:
        """What has happened to this protocol, in words."""
        events = ", ".join(event for event in self.events if isinstance(event, str))
        return f"{shown(self.data)} (and was told: {events or 'nothing'})"

    def until(self, condition: Callable[[], bool], wanted: str | None = None) -> Deferred[None]:
        """Fires when something has happened to this protocol and the condition is true."""
        return self.waiters.until(condition, wanted, self.so_far)

    def receives(self, data: bytes) -> Deferred[None]:
        """Fires when all that has been received ends in these bytes."""
        return self.until(lambda: self._data.endswith(data), shown(data))

    def is_lost(self) -> Deferred[None]:
        return self.until(lambda: self.reason is not None, "the connection's end")

    def head(self) -> Deferred[bytes]:
        """Fires with the next HTTP head, which is taken off :attr:`data`."""
        d = self.until(lambda: b"\r\n\r\n" in self._data, "an HTTP head")

        def take(_: None) -> bytes:
            head, _sep, self.data = self.data.partition(b"\r\n\r\n")
            return head

        return d.addCallback(take)

    def response(self) -> Deferred[tuple[bytes, bytes]]:
        """Fires with head and body of the next response that has a Content-Length."""

        def with_head(head: bytes) -> Deferred[tuple[bytes, bytes]]:
            length = int(field(head, b"content-length") or b"0")
            d = self.until(lambda: self.amount >= length, f"a body of {length} bytes")

            def take(_: None) -> tuple[bytes, bytes]:
                body, self.data = self.data[:length], self.data[length:]
                return head, body

            return d.addCallback(take)

        return self.head().addCallback(with_head)


@implementer(IHalfCloseableProtocol)
class HalfCloseRecorder(Recorder):
    """A Recorder that takes half-closes."""

    def readConnectionLost(self) -> None:
        self._note("read lost")

    def writeConnectionLost(self) -> None:
        self._note("write lost")


class Acting(Recorder):
    """Does something when it is made."""

    def __init__(self, act: Callable[[Any], object]) -> None:
        super().__init__()
        self._act = act

    def connectionMade(self) -> None:
        super().connectionMade()
        self._act(self)


class EchoTarget(Recorder):
    """A target that sends everything back, and remembers it."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)


def field(head: bytes, name: bytes) -> bytes | None:
    """A field's value in an HTTP head; None where there is none, joined where there are several."""
    values = [
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")[1:]
        if line.partition(b":")[0].lower() == name.lower()
    ]
    return b", ".join(values) if values else None


def status(head: bytes) -> int:
    """The status code in an HTTP head."""
    return int(head.split(b" ", 2)[1])


class WatchedChannel(UpgradeChannel):
    """An UpgradeChannel that tells its site how much it has received."""

    site: Any

    def dataReceived(self, data: bytes) -> None:
        self.site.received += len(data)
        super().dataReceived(data)
        self.site.waiters.look()


class _Remembered(list[Any]):
    """The requests of a channel, which are remembered."""

    def __init__(self, remembered: list[ref[Any]]) -> None:
        super().__init__()
        self._remembered = remembered

    def append(self, request: Any) -> None:
        self._remembered.append(ref(request))
        super().append(request)


class WatchedSite(UpgradeSite):
    """
    An UpgradeSite that tests can look into.

    :ivar received: how many bytes its channels have got.
    :ivar channels: weak references to its channels; ``requests`` to its requests.
    :ivar lines: the access log.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received = 0
        self.waiters = Waiters()
        self.channels: list[ref[Any]] = []
        self.requests: list[ref[Any]] = []
        self.lines: list[tuple[int, bytes]] = []

    def protocol(self) -> Any:
        channel = WatchedChannel()
        channel.requests = _Remembered(self.requests)
        self.channels.append(ref(channel))
        return channel

    def log(self, request: Any) -> None:
        if all(known() is not request for known in self.requests):
            # One past which a connection has switched.
            self.requests.append(ref(request))
        self.lines.append((request.code, request.uri))

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires when bytes have come in and the condition is true."""
        return self.waiters.until(condition, None, self._so_far)

    def _so_far(self) -> str:
        return f"{self.received} bytes, {len(self.requests)} requests, answered {self.lines}"

    def has_received(self, count: int) -> Deferred[None]:
        return self.waiters.until(
            lambda: self.received >= count, f"{count} bytes at the site", self._so_far
        )


def site_of(at_u: Any, path: bytes = b"u", **kwargs: Any) -> WatchedSite:
    """A site with an UpgradeResource at ``/u``, and an ordinary page at ``/page``."""
    root = Resource()
    resource = at_u if isinstance(at_u, Resource) else UpgradeResource(at_u)
    root.putChild(path, resource)
    root.putChild(b"page", Page())
    return WatchedSite(root, **kwargs)


class Page(Resource):
    """An ordinary resource: answers with the method and the body that it got."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        return b"page " + request.method + b" " + request.content.read()


@cache
def _trusting() -> Any:
    """What clients by TLS have in common: OpenSSL takes long to make it."""
    return optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))


class Listening:
    """A site on a port of one of the :data:`KINDS`, and its clients."""

    def __init__(self, kind: str, site: Any) -> None:
        self.kind = kind.removesuffix(AT_ONCE)
        self._sends_at_once = kind != self.kind
        self.site = site
        self.port: Any = None
        self.clients: list[Any] = []
        self._folder = tempfile.TemporaryDirectory() if self.kind == "unix" else None

    async def start(self) -> Listening:
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        factory: Any = self.site
        if self.kind == "memory":
            endpoint = self._memory = MemoryEndpoint(reactor)
        elif self.kind == "unix":
            assert self._folder is not None
            path = str(Path(self._folder.name) / "socket")
            endpoint = UNIXServerEndpoint(reactor, path)
        elif self.kind == "tls":
            factory = TLSMemoryBIOFactory(SERVER.options(), False, self.site)
        elif self.kind == "proxy":
            endpoint = proxyEndpoint(endpoint)
        elif self.kind.startswith("ssl:"):
            endpoint = serverFromString(reactor, self.kind)
        self.port = await endpoint.listen(factory)
        if self._sends_at_once:
            _twisted.listen_at_once(self.port)
        return self

    @property
    def endpoint(self) -> Any:
        """A client endpoint to it."""
        host = self.port.getHost()
        if self.kind == "memory":
            return self._memory
        if self.kind == "unix":
            return UNIXClientEndpoint(reactor, host.name)
        if self.kind == "tls":
            return wrapClientTLS(_trusting(), TCP4ClientEndpoint(reactor, "127.0.0.1", host.port))
        return TCP4ClientEndpoint(reactor, "127.0.0.1", host.port)

    @property
    def url(self) -> str:
        scheme = "https" if self.kind == "tls" else "http"
        return f"{scheme}://localhost:{self.port.getHost().port}"

    async def connect(self, client: Any = None) -> Any:
        """A connected client; behind the PROXY protocol, its line has been sent."""
        client = HalfCloseRecorder() if client is None else client
        await connected(self.endpoint, client)
        if self.kind in ("tcp", "tls", "proxy"):
            # Else the second of two parts waits 40 ms for the server's kernel to acknowledge the first.
            _twisted.bottom(client.transport).setTcpNoDelay(True)
        self.clients.append(client)
        if self.kind == "proxy":
            client.send(PROXY_LINE)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            _twisted.abort(client.transport)
        await self.port.stopListening()
        for connection in self.site.switched:
            connection.abort()
        await patient(self.site.switched.when_empty())
        await turns()
        if self._folder is not None:
            self._folder.cleanup()


def upgrade_head(
    token: bytes = b"echo",
    method: bytes = b"GET",
    path: bytes = b"/u",
    fields: bytes = b"",
    connection: bytes = b"Upgrade",
) -> bytes:
    """The head of a request with Upgrade."""
    return (
        method
        + b" "
        + path
        + b" HTTP/1.1\r\nHost: localhost\r\nConnection: "
        + connection
        + b"\r\nUpgrade: "
        + token
        + b"\r\n"
        + fields
        + b"\r\n"
    )


async def switched_clients(listening: Listening, count: int) -> list[Any]:
    """So many clients that have switched, one after the other."""
    clients = []
    for _ in range(count):
        client = await listening.connect(Recorder())
        client.send(upgrade_head())
        assert status(await client.head()) == 101
        clients.append(client)
    return clients


def factory_of(make: Callable[[], Any]) -> tuple[Factory, list[Any]]:
    """A factory, and the list of what it has built."""
    built: list[Any] = []

    class Remembering(Factory):
        noisy = False

        def buildProtocol(self, addr: object) -> Any:
            protocol = make()
            if protocol is not None:
                protocol.factory = self
            built.append(protocol)
            return protocol

    return Remembering(), built


@implementer(IPullProducer)
class Flood:
    """Writes as much as the transport takes, and counts it."""

    def __init__(self, transport: Any, chunk: bytes = b"x" * 65536) -> None:
        self.sent = 0
        self._transport = transport
        self._chunk = chunk
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self.sent += len(self._chunk)
        self._transport.write(self._chunk)

    def stopProducing(self) -> None:
        pass


def connected(endpoint: Any, protocol: T) -> Deferred[T]:
    """
    Fires with a protocol when it is connected to an endpoint. (``connectProtocol`` makes a class each
    time, and zope keeps what it knows of each.)
    """
    return patient(endpoint.connect(SingleUseFactory(protocol)))


@contextmanager
def no_collector() -> Iterator[None]:
    """In here reference counting alone frees things."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def localhost(port: int) -> Any:
    return HostnameEndpoint(reactor, "127.0.0.1", port)
