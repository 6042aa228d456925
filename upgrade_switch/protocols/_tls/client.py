"""
The client's side of RFC 2817: :class:`TLSUpgradePool`, which sends requests inside TLS only.
"""

from __future__ import annotations

from typing import Any

import h11
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS, IResponse
from zope.interface import implementer

from ... import _twisted
from ...client.head import HeadReader
from ...client.pool import UpgradePool, switched_connection
from ...client.request import expect_answer
from ...client.switching import SwitchingFactory
from ...errors import InvalidArgument, InvalidResponse, UpgradeError, connect_timed_out
from ...interfaces import IStreamTransport
from ...takeover import hand_over

__all__ = ["TLSUpgradePool"]

# Old servers look for the version that they know; RFC 2817 knew TLS/1.0.
_OFFERED = b"TLS/1.2, TLS/1.1, TLS/1.0"


class TLSUpgradePool(UpgradePool):
    """
    An :class:`~upgrade_switch.UpgradePool` whose connections to ``http`` URLs are upgraded to TLS
    before anything else is sent (RFC 2817 §3.2). Nothing is sent without TLS: a request to a server
    that does not switch fails with ``NotSwitched``, one to a server with a wrong certificate with
    ``OpenSSL.SSL.Error`` or ``service_identity.VerificationError``, one that takes too long with
    ``twisted.internet.error.TimeoutError``. Give the pool to an ``Agent``, or to treq::

        response = await treq.get("http://printer:631/", pool=TLSUpgradePool(reactor))

    Requests with an Upgrade field of their own switch inside TLS. ``https`` URLs have TLS anyway.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        policy: IPolicyForHTTPS | None = None,
        persistent: bool = True,
        timeout: float = 30,
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``.
        :param policy: which certificates are trusted for which host, as for ``Agent``; by default,
            those of the platform's certificate authorities. It must not offer protocols by ALPN: a
            server takes a client that does for one of *https* that is under attack.
        :param persistent: whether requests without Upgrade keep their connections.
        :param timeout: how many seconds connecting and TLS together may take.
        :raises InvalidArgument: if ``policy`` is not an ``IPolicyForHTTPS``.
        """
        creator = getattr(policy, "creatorForNetloc", None)
        if policy is not None and (isinstance(policy, type) or not callable(creator)):
            raise InvalidArgument(
                "not an IPolicyForHTTPS, such as "
                f"BrowserLikePolicyForHTTPS(trustRootFromCertificates([ca])): {policy!r}"
            )
        super().__init__(reactor, persistent)
        self._policy = BrowserLikePolicyForHTTPS() if policy is None else policy
        self._timeout = timeout
        self._reactor = reactor

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        if key[0] == b"http":
            _scheme, host, port = key
            try:
                creator = self._policy.creatorForNetloc(host, port)
            except Exception:
                # The host's name is one that no certificate can have.
                return fail()
            authority = b"[%b]:%d" % (host, port) if b":" in host else b"%b:%d" % (host, port)
            endpoint = _SecuredEndpoint(self._reactor, endpoint, authority, creator, self._timeout)
        elif key[0] != b"https":
            # ProxyAgent's: the requests would go to the proxy without TLS.
            return fail(UpgradeError(f"no TLS to {key!r}: requests are not sent in the clear"))
        return super().getConnection(key, endpoint)


@implementer(IStreamClientEndpoint)
class _SecuredEndpoint:
    """Connects, upgrades to TLS by ``OPTIONS *``, and only then has the protocol built."""

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        authority: bytes,
        creator: IOpenSSLClientConnectionCreator,
        timeout: float,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._authority = authority
        self._creator = creator
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        headers = Headers({b"host": [self._authority], b"upgrade": [_OFFERED]})
        request = _twisted.client_request(b"OPTIONS", b"*", headers)
        # cupsd answers Connection: Keep-Alive, where RFC 9110 §7.8 wants Upgrade. It does no harm: what
        # follows is TLS, or the connection ends.
        asking = SwitchingFactory(self._reactor, lenient=True)
        done: Deferred[Any] = self._endpoint.connect(asking)
        done.addCallback(lambda client: client.request(request))
        done.addCallback(self._answered, protocolFactory)
        return done.addTimeout(self._timeout, self._reactor, connect_timed_out("no TLS"))

    def _answered(self, response: IResponse, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connection = switched_connection(response)
        securing = _Securing(factory, self._creator)
        connection.install(securing)
        return securing.done


@implementer(IHandshakeListener)
class _Securing(Protocol):
    """
    Owns a client's connection from the 101 until the answer to ``OPTIONS *``, the first thing inside
    TLS, has been read; then hands it over to the protocol that the agent's factory builds.

    :ivar done: fires with that protocol.
    """

    transport: IStreamTransport

    def __init__(self, factory: IProtocolFactory, creator: IOpenSSLClientConnectionCreator) -> None:
        self.done: Deferred[IProtocol] = Deferred(lambda _: _twisted.abort(self.transport))
        self._factory = factory
        self._creator = creator
        self._heads = HeadReader()
        self._parser = expect_answer("OPTIONS", upgrade=False)
        self._is_secure = False
        self._is_layered = False

    def connectionMade(self) -> None:
        if _twisted.tls_layer(self.transport) is None:
            _twisted.start_tls(self.transport, self._creator, self)
        elif not self._is_layered:
            # There is TLS already, with an https proxy: this one goes inside, and connects us again.
            self._is_layered = True
            factory = TLSMemoryBIOFactory(self._creator, True, Factory.forProtocol(lambda: self))
            slot = _twisted.slot_of(self.transport, self)
            hand_over(self.transport, slot, factory.buildProtocol(self.transport.getPeer()), b"")

    def handshakeCompleted(self) -> None:
        # Twisted calls this also for a handshake whose certificate is for another name.
        self._is_secure = not _twisted.is_closing(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if not self._is_secure or self.done.called:
            return
        try:
            is_answered = self._reads_answer(data)
        except h11.RemoteProtocolError as error:
            self._fail(InvalidResponse(f"the answer inside TLS is not HTTP: {error}"))
        except InvalidResponse as error:
            self._fail(error)
        else:
            if is_answered:
                self._hand_over()

    def _reads_answer(self, data: bytes) -> bool:
        """
        Read of the answer what has come; return whether it is complete.

        :raises InvalidResponse: if it is not HTTP; ``h11.RemoteProtocolError`` likewise.
        """
        self._heads.feed(data)
        while self._parser.their_state is h11.SEND_RESPONSE:
            head = self._heads.next_head()
            if head is None:
                return False
            self._parser.receive_data(head)
            self._parser.next_event()
        rest = self._heads.take_rest()
        if rest:
            self._parser.receive_data(rest)
        event = self._parser.next_event()
        while isinstance(event, h11.Data):
            event = self._parser.next_event()
        return isinstance(event, h11.EndOfMessage)

    def _hand_over(self) -> None:
        trailing, _ = self._parser.trailing_data
        if self._parser.their_state is not h11.DONE or trailing:
            self._fail(InvalidResponse("the server does not go back to HTTP inside TLS"))
            return
        protocol = self._factory.buildProtocol(self.transport.getPeer())
        if protocol is None:
            self._fail(UpgradeError("no protocol was built for the connection"))
            return
        hand_over(self.transport, _twisted.slot_of(self.transport, self), protocol, b"")
        self.done.callback(protocol)

    def _fail(self, error: Exception) -> None:
        _twisted.abort(self.transport)
        self.done.errback(Failure(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.errback(reason)
