"""Pools with HTTP/2, what they connect to, and a server of HTTP/2 that is in a test's own hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLServerConnectionCreator,
    IProtocolNegotiationFactory,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import Recorder, Waiters, patient, reactor, turns
from upgrade_switch import UpgradePool, _twisted, switched_connection


@implementer(IAgentEndpointFactory)
class Dialling:
    """
    What an agent connects with: every https URL leads to one port, with TLS for localhost.

    :ivar options: one for all connections, as a caching policy has it.
    :ivar transports: the sockets of the client's side, in their order.
    """

    def __init__(self, port: int, scheme: bytes = b"https") -> None:
        self.options = optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
        self.port = port
        self.transports: list[Any] = []
        self.waiters = Waiters()
        self.refuses = False

    def endpointForURI(self, uri: Any) -> Any:
        self.uri = uri
        return wrapClientTLS(self.options, self) if uri.scheme == b"https" else self

    def __repr__(self) -> str:
        return "<Dialling>"

    def connect(self, factory: Any) -> Deferred[Any]:
        port = 1 if self.refuses else self.port
        connected: Deferred[Any] = TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
        return connected.addCallback(self._watch)

    def _watch(self, client: Any) -> Any:
        transport = _twisted.bottom(client.transport)
        self.transports.append(transport)
        lose = transport.connectionLost

        def lost(reason: Failure = connectionDone) -> None:
            lose(reason)
            self.waiters.look()

        transport.connectionLost = lost
        return client

    @property
    def count(self) -> int:
        """How many connections there have been."""
        return len(self.transports)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return sum(bool(transport.connected) for transport in self.transports)

    def until_open(self, count: int) -> Deferred[None]:
        return self.waiters.until(lambda: self.open == count)


class Client:
    """An agent over a pool with HTTP/2, and what it has connected."""

    def __init__(self, port: int, **kwargs: Any) -> None:
        self.dialling = Dialling(port)
        self.pool = UpgradePool(reactor, http2=True, **kwargs)
        self.agent = Agent.usingEndpointFactory(reactor, self.dialling, self.pool)
        self.url = f"https://localhost:{port}"

    def ask(
        self,
        token: str | None = "echo",
        path: str = "/u",
        method: bytes = b"GET",
        body: Any = None,
        scheme: str = "https",
        **fields: str,
    ) -> Deferred[Any]:
        """Ask for an upgrade; for a page, if there is no token."""
        headers = Headers()
        if token is not None:
            headers.setRawHeaders("upgrade", [token])
        for name, value in fields.items():
            headers.setRawHeaders(name.replace("_", "-"), [value])
        url = self.url.replace("https", scheme) + path
        answer: Deferred[Any] = self.agent.request(method, url.encode("ascii"), headers, body)
        return answer

    async def switch(self, target: Any = None, **kwargs: Any) -> Any:
        """Ask for an upgrade, and install a target; gives it."""
        connection = switched_connection(await patient(self.ask(**kwargs)))
        target = Recorder() if target is None else target
        connection.install(target)
        return target

    async def stop(self) -> None:
        await patient(self.pool.closeCachedConnections())
        for transport in self.dialling.transports:
            transport.abortConnection()
        await turns()
        assert not self.dialling.open


@implementer(IHandshakeListener)
class Playing(Recorder):
    """
    A server's side of one connection, which does nothing by itself but to begin, if ALPN chose HTTP/2.

    :ivar asked: header lists of what was asked for, by the numbers of the streams.
    """

    factory: Played
    is_http2 = has_begun = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.h2 = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        self.h2.local_settings = Settings(client=False, initial_values=self.factory.settings)
        self.asked: dict[int, list[Any]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self.factory.waiters.look()

    def handshakeCompleted(self) -> None:
        self.is_http2 = self.transport.negotiatedProtocol == b"h2"
        if self.is_http2 and self.factory.begins:
            self.begin()

    def begin(self) -> None:
        """Send settings."""
        self.h2.initiate_connection()
        self.flush()
        early, self.data = self.data, b""
        self.has_begun = True
        if early:
            self.dataReceived(early)

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def dataReceived(self, data: bytes) -> None:
        if self.has_begun:
            for event in self.h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.asked[event.stream_id] = event.headers
                    self.bodies[event.stream_id] = b""
                elif isinstance(event, DataReceived):
                    self.bodies[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    self.ended.add(event.stream_id)
                elif isinstance(event, StreamReset):
                    self.reset[event.stream_id] = event.error_code
            self.flush()
        super().dataReceived(data)

    async def asks(self, count: int = 1) -> list[int]:
        """The streams of so many requests."""
        await self.until(lambda: len(self.asked) >= count)
        return sorted(self.asked)

    def answer(
        self, stream: int, code: int = 200, data: bytes = b"", end: bool = False, **more: str
    ) -> None:
        """Answer a request."""
        fields = [(":status", str(code)), *((n.replace("_", "-"), v) for n, v in more.items())]
        self.h2.send_headers(stream, fields, end_stream=end and not data)
        if data:
            self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def give(self, stream: int, data: bytes, end: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def kill(self, stream: int, code: int) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()

    def goodbye(self, last: int, code: int = 0) -> None:
        """Send a GOAWAY that h2 does not know of, since it would take it for the end."""
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.transport.write(b"\0\0\x08\x07\0\0\0\0\0" + payload)


@implementer(IProtocolNegotiationFactory)
class Played(Factory):
    """What is connected to a server in a test's hands."""

    noisy = False
    protocol = Playing  # type: ignore[assignment]

    def __init__(self, protocols: list[bytes], settings: dict[Any, int], begins: bool) -> None:
        self.protocols = protocols
        self.settings = settings
        self.begins = begins
        self.built: list[Playing] = []
        self.waiters = Waiters()
        self.taken = 0

    def acceptableProtocols(self) -> list[bytes]:
        return self.protocols

    def buildProtocol(self, addr: Any) -> Any:
        playing = super().buildProtocol(addr)
        self.built.append(playing)
        return playing

    async def accepted(self) -> Playing:
        """The next connection."""
        await self.waiters.until(lambda: len(self.built) > self.taken)
        self.taken += 1
        return self.built[self.taken - 1]


@implementer(IOpenSSLServerConnectionCreator)
class WithoutALPN:
    """Makes the connections of a server that ignores ALPN, as none of Twisted's new ones do."""

    def __init__(self) -> None:
        self._context = SERVER.options().getContext()
        self._context.set_alpn_select_callback(lambda _, offered: SSL.NO_OVERLAPPING_PROTOCOLS)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


@asynccontextmanager
async def played(
    protocols: Any = (b"h2", b"http/1.1"),
    settings: Any = None,
    begins: bool = True,
    **kwargs: Any,
) -> AsyncIterator[tuple[Played, Client]]:
    """A server in a test's hands, by default one that takes upgrades over HTTP/2; and a client."""
    if settings is None:
        settings = {SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
    server = Played(list(protocols), settings, begins)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    creator = SERVER.options() if protocols else WithoutALPN()
    port = await endpoint.listen(TLSMemoryBIOFactory(creator, False, server))
    client = Client(port.getHost().port, **kwargs)
    try:
        yield server, client
    finally:
        await client.stop()
        for playing in server.built:
            if playing.reason is None:
                _twisted.bottom(playing.transport).abortConnection()
        await port.stopListening()
        await turns()
