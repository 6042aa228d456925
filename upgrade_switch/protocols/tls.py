"""
TLS on a connection that began without it (RFC 2817): :func:`tls` on a server, :func:`tls_required` to
insist on it; :class:`TLSUpgradePool` is the client that goes on with nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import h11
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLContextFactory,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITLSTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS, IRequest, IResponse
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from .. import _twisted
from ..client import UpgradePool, _UpgradeClient, switched_connection
from ..decision import Acceptor, ISelective
from ..errors import InvalidResponse, InvalidUpgrades, UpgradeError
from ..negotiation import UpgradeToken
from ..request import CarriedRequest, ILayered, UpgradeRequest
from ..resource import ITakesUpgrades, takes_upgrades, upgrade_required
from ..site import IDrainable, UpgradeSite
from ..takeover import hand_over
from . import make_callable

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ..channel import UpgradeChannel

__all__ = ["TLSUpgradePool", "tls", "tls_required"]

# RFC 2817 §4.2, with a version of this century. What is spoken is up to the handshake.
_TLS, _HTTP = "TLS/1.2", "HTTP/1.1"

# What a server's TLS is made with.
ContextFactory: TypeAlias = IOpenSSLContextFactory | IOpenSSLServerConnectionCreator

# What a client offers: servers look for the version that they knew first.
_OFFERED = b"TLS/1.2, TLS/1.1, TLS/1.0"


def tls(context_factory: ContextFactory, timeout: float = 30) -> Acceptor:
    """
    An acceptor that puts TLS beneath HTTP (RFC 2817 §3), for ``UpgradeSite(upgrades={"TLS": ...})``:
    it answers ``101``, does the handshake, and answers the request inside TLS, where it and all that
    follow are ``isSecure()``. The connection stays the site's. (Absolute URLs that a resource makes
    from such a request have the scheme ``https`` and this port, where nobody speaks TLS from the first
    byte: relative ones lead back here.)

    Requests that are secure already are ignored, as are connections that cannot start TLS.

    :param context_factory: what Twisted's server endpoints take: ``CertificateOptions``,
        ``PrivateCertificate.options()``, an ``IOpenSSLServerConnectionCreator``. It has no ``h2`` among
        its protocols for ALPN: HTTP/1.1 is what goes on.
    :param timeout: how many seconds the handshake may take; then the connection is aborted.
    :raises InvalidUpgrades: for what is no context factory.
    """
    if isinstance(context_factory, type) or not (
        IOpenSSLServerConnectionCreator.providedBy(context_factory)
        or callable(getattr(context_factory, "getContext", None))
    ):
        raise InvalidUpgrades(
            "no context factory, as PrivateCertificate.options() and CertificateOptions(...) are: "
            f"{context_factory!r}"
        )
    return _Acceptor(context_factory, timeout)


@implementer(ISelective)
class _Acceptor:
    def __init__(self, context_factory: ContextFactory, timeout: float) -> None:
        self._context_factory = context_factory
        self._timeout = timeout

    def ignores(self, request: UpgradeRequest) -> bool:
        # Not what isSecure says alone, which may speak of a connection in front of this one.
        if request.channel.isSecure():
            return True
        return not ITLSTransport.providedBy(_twisted.bottom(request.channel.transport))

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> IProtocol:
        # What fails here is a 500; in the middle of startTLS it would be neither HTTP nor TLS.
        _try(self._context_factory)
        site = request.channel.site
        return _Secured(site, request.carry(), self._context_factory, self._timeout)


def _try(context_factory: ContextFactory) -> None:
    """Have a context factory do what ``startTLS`` will have it do."""
    if IOpenSSLServerConnectionCreator.providedBy(context_factory):
        factory = TLSMemoryBIOFactory(context_factory, False, Factory())
        context_factory.serverConnectionForTLS(TLSMemoryBIOProtocol(factory, Protocol()))
    else:
        context_factory.getContext()


@implementer(IHandshakeListener, ILayered, IDrainable)
class _Secured(Protocol):
    """
    Owns a connection from the 101 to the end of the handshake; then HTTP has it again.

    Not before: what is written during the handshake waits, and pauses who has written it, which with
    HTTP pauses the reading, and with it the handshake.
    """

    layers = (_HTTP,)
    transport: Any

    def __init__(
        self,
        site: UpgradeSite,
        carried: CarriedRequest,
        context_factory: ContextFactory,
        timeout: float,
    ) -> None:
        self._site = site
        self._carried: CarriedRequest | None = carried
        self._context_factory = context_factory
        self._timeout = timeout
        self._timer: IDelayedCall | None = None
        self._channel: UpgradeChannel | None = None

    def logPrefix(self) -> str:
        return "TLS"

    def connectionMade(self) -> None:
        self._timer = self._site.reactor.callLater(self._timeout, self._timed_out)
        _twisted.start_tls(self.transport, self._context_factory, self)

    def _timed_out(self) -> None:
        self._timer = None
        _twisted.abort(self.transport)

    def handshakeCompleted(self) -> None:
        self._stop_timer()
        if self._carried is None or _twisted.is_closing(self.transport):
            # Its content is closed when the connection is lost.
            return
        carried, self._carried = self._carried, None
        proxy = self._site.buildProtocol(self.transport.getPeer())
        if proxy is None:
            carried.content.close()
            self.transport.loseConnection()
            return
        self._channel = _twisted.speaking_http11(proxy)
        hand_over(self.transport, _twisted.slot_of(self.transport, self), proxy, b"")
        self._channel.answer(carried)

    def drain(self) -> None:
        """HTTP has no goodbye: the request at hand is the last."""
        channel = self._channel
        if channel is not None and channel.requests:
            channel.persistent = False
            # Of one whose fields are still to come, it is decided again.
            channel.checkPersistence = _is_last  # type: ignore[method-assign]
        elif channel is not None:
            channel.loseConnection()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.content.close()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _is_last(request: UpgradeRequest, version: bytes) -> bool:
    """In place of a channel's ``checkPersistence``, where no request is to follow."""
    request.responseHeaders.setRawHeaders(b"connection", [b"close"])
    return False


def tls_required(resource: IResource) -> IResource:
    """
    A resource, and all that is below it, for requests inside TLS only: any other gets a 426 with
    ``Upgrade: TLS/1.2, HTTP/1.1`` (RFC 2817 §4.2), also where it offers another of the site's own
    upgrades. Around a site's root, it is for the whole site; but a connection that begins with one of
    the site's prefaces, and a CONNECT, ask for no resource.

    :param resource: where requests that are secure go.
    """
    return _TLSRequired(resource)


@implementer(ITakesUpgrades)
class _TLSRequired(Resource):
    def __init__(self, resource: IResource) -> None:
        super().__init__()
        self._inside = resource
        self._outside = _Outside()

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        # As twisted.web.guard does it: the child's name is for whoever comes next.
        request.postpath.insert(0, request.prepath.pop())
        return self._inside if request.isSecure() else self._outside

    def takes(self, request: UpgradeRequest) -> bool:
        return takes_upgrades(self._inside if request.isSecure() else self._outside, request)

    def render(self, request: IRequest) -> Any:
        return (self._inside if request.isSecure() else self._outside).render(request)


@implementer(ITakesUpgrades)
class _Outside(Resource):
    """What is there in the clear: nothing but the way to TLS."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._required = upgrade_required(_TLS, _HTTP)

    def takes(self, request: UpgradeRequest) -> bool:
        # A site's own upgrades are asked about what nobody takes: in the clear, that is TLS alone.
        chosen = request.channel.site._upgrades.choose(request)
        token = None if chosen is None else chosen.token
        return token is not None and token.key[0] != "tls"

    def render(self, request: IRequest) -> Any:
        return self._required.render(request)


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
        """
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


class _Asking(_UpgradeClient):
    """Asks for TLS."""

    def _check_switch(self, event: h11.InformationalResponse) -> None:
        # cupsd says Connection: Keep-Alive, where RFC 9110 §7.8 wants Upgrade. Nothing depends on it:
        # what follows is TLS, or the end.
        named = [*event.headers, (b"connection", b"upgrade")]
        super()._check_switch(h11.InformationalResponse(status_code=101, headers=named))


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
        return done.addTimeout(self._timeout, self._reactor, _timed_out)

    def _answered(self, response: IResponse, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connection = switched_connection(response)
        securing = _Securing(factory, self._creator)
        connection.install(securing)
        return securing.done


def _timed_out(reason: object, timeout: float) -> NoReturn:
    raise TimeoutError(f"no TLS within {timeout:g} seconds")


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
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(h11.Request(method="OPTIONS", target="*", headers=[("Host", "shadow")]))
        self._parser.send(h11.EndOfMessage())
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


make_callable(__name__)
