"""
:func:`open_udp`: UDP through a proxy (RFC 9298), for any ``DatagramProtocol``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import MessageLengthError
from twisted.internet.interfaces import IAddress, IPushProducer, IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from ... import _twisted
from ...client.endpoint import check_timeout, headers_of, unwrap_cancelled
from ...client.pool import UpgradePool, switched_connection
from ...client.urls import ascii_host, authority_of, http_url
from ...connection import abort_because
from ...errors import InvalidResponse, connect_timed_out
from ...interfaces import ICountsBytes, IStreamTransport
from ...sending import QuietTimeout
from .capsules import FORBIDDEN_FIELDS, LONGEST_PAYLOAD, CapsuleReader, datagram_capsule
from .templates import expand

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

__all__ = ["open_udp"]

_log = Logger()

_P = TypeVar("_P", bound=DatagramProtocol)

# Seconds that the other end may take to notice that the connection is being closed.
_CLOSE_TIMEOUT: Final = 5


def open_udp(
    pool: UpgradePool,
    url_template: str,
    host: str,
    port: int,
    protocol: _P,
    headers: Headers | Mapping[str, str] | None = None,
    agent: IAgent | None = None,
    timeout: float | None = 30,
) -> Deferred[_P]:
    """
    Ask a proxy for a flow of UDP datagrams to a host (RFC 9298), and start a protocol on it.

    The protocol's transport is an ``IUDPTransport`` that is connected to that host. It has
    ``write(datagram)``, which takes no other address (ValueError), ``stopListening()``, and
    ``getHost()``, which is this end of the connection to the proxy. Datagrams for which the connection
    has no room are dropped, as with UDP. The end of the connection is the protocol's ``stopProtocol``.
    Nothing is sent before the proxy's 101 (RFC 9931).

    :param pool: makes the connection.
    :param url_template: where the proxy is: a URI template with ``{target_host}`` and ``{target_port}``
        in its path or query (RFC 6570, RFC 9298 §2), such as
        ``https://proxy.example/.well-known/masque/udp/{target_host}/{target_port}/``.
    :param host: the destination: a name, which the proxy looks up, or an address.
    :param port: its port.
    :param protocol: a protocol that is not started. Its ``datagramReceived`` gets ``(host, port)`` as
        the address.
    :param headers: further fields of the request, such as ``Proxy-Authorization``.
    :param agent: any agent over an :class:`~upgrade_switch.UpgradePool`, in place of a plain ``Agent``
        over ``pool``: for a private CA, for example.
    :param timeout: how many seconds this may take; None: no limit.
    :return: fires with the protocol, when its ``startProtocol`` has been called, which may have raised
        something: the Deferred fails with that. Fails with
        :class:`~upgrade_switch.errors.NotSwitched` if the proxy refuses, and otherwise as
        :class:`~upgrade_switch.UpgradeEndpoint` does; with ValueError if the template, the host, the
        port or the timeout is wrong. Cancelling it closes the connection.
    """
    try:
        check_timeout(timeout)
        target = ascii_host(host)
        authority_of(target, port)
        url = http_url(expand(url_template, target, port))
    except ValueError:
        return fail()
    fields = headers_of(headers)
    fields.setRawHeaders(b"upgrade", [b"connect-udp"])
    fields.setRawHeaders(b"capsule-protocol", [b"?1"])
    asking: IAgent = Agent(pool.clock, pool=pool) if agent is None else agent
    answered: Deferred[IResponse] = asking.request(b"GET", url, fields)
    if timeout is not None:
        answered.addTimeout(timeout, pool.clock, connect_timed_out("no flow"))
    answered.addErrback(unwrap_cancelled)
    return answered.addCallback(_start, pool.clock, (host, port), protocol)


def _start(
    response: IResponse, clock: IReactorTime, address: tuple[str, int], protocol: _P
) -> _P | Failure:
    connection = switched_connection(response)
    for name in FORBIDDEN_FIELDS:
        if response.headers.hasHeader(name):
            connection.abort()
            raise InvalidResponse(f"a 101 to connect-udp with {name.decode()} (RFC 9297 §3.2)")
    flow = _ClientFlow(clock, address, protocol)
    connection.install(flow)
    return protocol if flow.failure is None else flow.failure


@implementer(ICountsBytes, IPushProducer)
class _ClientFlow(Protocol):
    """
    The target of a connection that has switched to ``connect-udp``: it owns it.

    :ivar failure: what the datagram protocol's ``startProtocol`` has raised.
    """

    transport: IStreamTransport

    def __init__(
        self, clock: IReactorTime, address: tuple[str, int], protocol: DatagramProtocol
    ) -> None:
        self.failure: Failure | None = None
        self.bytes_in = self.bytes_out = 0
        self._clock = clock
        self._address = address
        # None when it has been stopped.
        self._protocol: DatagramProtocol | None = protocol
        self._reader = CapsuleReader()
        self._udp: _UDPTransport | None = None
        self._is_full = self._is_closing = False
        self._closing: QuietTimeout | None = None
        self._waiters: list[Deferred[None]] = []

    def logPrefix(self) -> str:
        return "connect-udp"

    def connectionMade(self) -> None:
        _twisted.keep_alive(self.transport)
        _twisted.register_producer(self.transport, self)
        self._udp = _UDPTransport(self, self._address, self.transport.getHost())
        assert self._protocol is not None
        try:
            self._protocol.makeConnection(self._udp)
        except Exception:
            self.failure = Failure()
            self._protocol.transport = None
            self._protocol = None
            _twisted.abort(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        for payload in self._reader.feed(data):
            if self._protocol is None or self._is_closing:
                return
            try:
                self._protocol.datagramReceived(payload, self._address)
            except Exception:
                # As with Twisted's own ports: the next one may do better.
                _log.failure("{protocol} failed on a datagram", protocol=self._protocol)
        if self._reader.error is not None:
            abort_because(self.transport, self._reader.error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport.unregisterProducer()
        if self._closing is not None:
            self._closing.cancel()
        self._is_closing = True
        protocol, self._protocol = self._protocol, None
        udp, self._udp = self._udp, None
        waiters, self._waiters = self._waiters, []
        if udp is not None:
            udp.ended()
        try:
            if protocol is not None:
                protocol.doStop()
        finally:
            for waiter in waiters:
                waiter.callback(None)

    def send(self, datagram: bytes) -> bool:
        """
        :return: whether it was sent; False if it was dropped.
        """
        if self._is_full or self._is_closing:
            return False
        capsule = datagram_capsule(datagram)
        self.bytes_out += len(capsule)
        self.transport.write(capsule)
        return True

    def close(self) -> Deferred[None]:
        """
        Close the connection.

        :return: fires when it is closed and the protocol has been stopped.
        """
        closed: Deferred[None] = Deferred()
        self._waiters.append(closed)
        if not self._is_closing:
            self._is_closing = True
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            # An end that does not take what it was sent, or does not answer, must not keep it open.
            transport, clock = self.transport, self._clock
            self._closing = QuietTimeout(
                transport, clock, _CLOSE_TIMEOUT, lambda: _twisted.abort(transport)
            )
        return closed

    # IPushProducer: what the protocol writes, which goes on writing.

    def pauseProducing(self) -> None:
        self._is_full = True

    def resumeProducing(self) -> None:
        self._is_full = False

    def stopProducing(self) -> None:
        """The connection has ended; ``connectionLost`` comes next."""


@implementer(IUDPTransport)
class _UDPTransport:
    """
    What a datagram protocol has for a transport.

    :ivar dropped: how many datagrams were dropped, since the connection had no room for them.
    """

    def __init__(self, flow: _ClientFlow, address: tuple[str, int], here: IAddress) -> None:
        self._flow: _ClientFlow | None = flow
        self._address = address
        self._here = here
        self.dropped = 0

    def ended(self) -> None:
        """The connection has ended."""
        self._flow = None

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        """
        Send a datagram, or drop it, if there is no room or the connection has ended.

        :param addr: None, or the address that the flow leads to.
        :raises ValueError: if it is another address.
        :raises MessageLengthError: if no UDP packet can be so long.
        """
        if addr is not None:
            self.connect(*addr)
        if len(packet) > LONGEST_PAYLOAD:
            raise MessageLengthError(f"a datagram of {len(packet)} bytes")
        if self._flow is None or not self._flow.send(packet):
            self.dropped += 1

    def connect(self, host: str, port: int) -> None:
        """
        It is connected: this does nothing.

        :raises ValueError: if it is another address.
        """
        if (host, port) != self._address:
            raise ValueError(f"this flow leads to {self._address}, not to {(host, port)}")

    def getHost(self) -> IAddress:  # type: ignore[override]  # it need not be an IP address
        """This end of the connection to the proxy, which alone knows the address of the socket."""
        return self._here

    def stopListening(self) -> Deferred[None]:
        """
        Close the flow.

        :return: fires when the protocol has been stopped.
        """
        return succeed(None) if self._flow is None else self._flow.close()

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """A flow has one destination."""

    def getBroadcastAllowed(self) -> bool:
        return False
