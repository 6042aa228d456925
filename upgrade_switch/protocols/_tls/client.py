"""
A client's side of RFC 2817: :class:`TLSUpgradePool` goes on with nothing less than TLS.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import h11
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS, IResponse
from zope.interface import implementer

from ... import _twisted
from ...client.pool import UpgradePool, switched_connection
from ...client.request import expect_answer
from ...client.upgrading import UpgradeClient
from ...errors import InvalidArgument, InvalidResponse, UpgradeError, connect_timed_out
from ...negotiation import Offer, UpgradeToken
from ...takeover import hand_over

__all__ = ["TLSUpgradePool"]

# What is offered: servers look for the version that they knew first.
_OFFERED = b"TLS/1.2, TLS/1.1, TLS/1.0"


class TLSUpgradePool(UpgradePool):
    """
    An :class:`~upgrade_switch.UpgradePool` whose connections to ``http`` URLs are upgraded to TLS
    before anything else is sent (RFC 2817 §3.2), and which goes on with nothing less: a server that
    does not switch fails the request with ``NotSwitched``, one with a wrong certificate with
    ``OpenSSL.SSL.Error`` or ``service_identity.VerificationError``. Give it to an ``Agent``, or to
    treq::

        response = await treq.get("http://printer:631/", pool=TLSUpgradePool(reactor))

    Requests with Upgrade, to something else, switch inside TLS. ``https`` URLs have TLS anyway.
    """

    def __init__(
        self,
        reactor: Any,
        policy: IPolicyForHTTPS | None = None,
        persistent: bool = True,
        timeout: float = 30,
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``.
        :param policy: what is trusted for which host, as for ``Agent``; without one, the platform's
            certificate authorities.
        :param persistent: whether requests without Upgrade keep their connections.
        :param timeout: how many seconds the connection and its TLS may take.
        :raises InvalidArgument: for what is no policy.
        """
        creator = getattr(policy, "creatorForNetloc", None)
        if policy is not None and (isinstance(policy, type) or not callable(creator)):
            raise InvalidArgument(
                "no IPolicyForHTTPS, as BrowserLikePolicyForHTTPS(trustRootFromCertificates([ca])) is: "
                f"{policy!r}"
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
                # A host's name that no certificate can have.
                return fail()
            authority = b"[%b]:%d" % (host, port) if b":" in host else b"%b:%d" % (host, port)
            endpoint = _SecuredEndpoint(self._reactor, endpoint, authority, creator, self._timeout)
        elif key[0] != b"https":
            # ProxyAgent's: its requests would go to the proxy as they are.
            return fail(UpgradeError(f"no TLS to {key!r}: requests are not sent in the clear"))
        return super().getConnection(key, endpoint)


class _Asking(UpgradeClient):
    """Asks for TLS."""

    def token_of(self, event: h11.InformationalResponse, offer: Offer) -> UpgradeToken:
        # cupsd says Connection: Keep-Alive, where RFC 9110 §7.8 wants Upgrade. Nothing depends on it:
        # what follows is TLS, or the end.
        named = [*event.headers, (b"connection", b"upgrade")]
        return super().token_of(h11.InformationalResponse(status_code=101, headers=named), offer)


@implementer(IStreamClientEndpoint)
class _SecuredEndpoint:
    """Connects, upgrades to TLS by ``OPTIONS *``, and only then has the protocol built."""

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        authority: bytes,
        creator: Any,
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
        asking = Factory.forProtocol(partial(_Asking, self._reactor))
        asking.noisy = False
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
    A client's connection from the 101 until the answer to ``OPTIONS *``, the first thing inside TLS,
    has been read.

    :ivar done: fires with the protocol that has the connection then.
    """

    transport: Any

    def __init__(self, factory: IProtocolFactory, creator: Any) -> None:
        self.done: Deferred[IProtocol] = Deferred(lambda _: _twisted.abort(self.transport))
        self._factory = factory
        self._creator = creator
        self._parser = expect_answer("OPTIONS", upgrade=False)
        self._is_secure = False

    def connectionMade(self) -> None:
        _twisted.start_tls(self.transport, self._creator, self)

    def handshakeCompleted(self) -> None:
        # Told of a handshake whose certificate is for somebody else, too.
        self._is_secure = not _twisted.is_closing(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if not self._is_secure or self.done.called:
            return
        try:
            self._parser.receive_data(data)
            event: Any = None
            while event not in (h11.NEED_DATA, h11.PAUSED) and not isinstance(event, h11.EndOfMessage):
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            self._fail(InvalidResponse(f"the answer inside TLS is not HTTP: {error}"))
            return
        if isinstance(event, h11.EndOfMessage):
            self._go_on()

    def _go_on(self) -> None:
        trailing, _ = self._parser.trailing_data
        if self._parser.their_state is not h11.DONE or trailing:
            self._fail(InvalidResponse("after the upgrade to TLS, the server does not go on"))
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
