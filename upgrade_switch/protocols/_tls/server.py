"""
A server's side of RFC 2817: :func:`tls` puts TLS beneath HTTP, :func:`tls_required` insists on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLContextFactory,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    ITLSTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from ... import _twisted
from ...errors import InvalidArgument, InvalidUpgrades
from ...interfaces import Acceptor, IDrainable, ILayered, ISelective, ITakesUpgrades
from ...negotiation import UpgradeToken
from ...server.request import CarriedRequest, UpgradeRequest
from ...server.resource import takes_upgrades, upgrade_required
from ...server.site import UpgradeSite
from ...takeover import hand_over

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from ...server.channel import UpgradeChannel

__all__ = ["tls", "tls_required"]

_log = Logger()

# RFC 2817 §4.2, with a version of this century. What is spoken is up to the handshake.
_TLS, _HTTP = "TLS/1.2", "HTTP/1.1"

# What a server's TLS is made with.
ContextFactory: TypeAlias = IOpenSSLContextFactory | IOpenSSLServerConnectionCreator


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
        site = request.site
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
        _twisted.set_server_alpn(self.transport, b"http/1.1")

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
        self._channel = _twisted.fix_http11(proxy)
        hand_over(self.transport, _twisted.slot_of(self.transport, self), proxy, b"")
        self._channel.answer(carried)

    def drain(self) -> None:
        """HTTP has no goodbye: the request at hand is the last."""
        if self._channel is None:
            self.transport.loseConnection()
        else:
            self._channel.close_after_request()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        carried, self._carried = self._carried, None
        if carried is not None:
            carried.content.close()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def tls_required(resource: IResource) -> IResource:
    """
    A resource, and all that is below it, for requests inside TLS only: any other gets a 426 with
    ``Upgrade: TLS/1.2, HTTP/1.1`` (RFC 2817 §4.2), also where it offers another of the site's own
    upgrades. Around a site's root, it is for the whole site; but a connection that begins with one of
    the site's prefaces, and a CONNECT, ask for no resource.

    :param resource: where requests that are secure go.
    :raises InvalidArgument: for what is no resource.
    """
    if not IResource.providedBy(resource):
        raise InvalidArgument(f"no IResource: {resource!r}")
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
        self._has_warned = False

    def takes(self, request: UpgradeRequest) -> bool:
        # A site's own upgrades are asked about what nobody takes: in the clear, that is TLS alone.
        chosen = request.site.match(request)
        token = None if chosen is None else chosen.token
        return token is not None and token.key[0] != "tls"

    def render(self, request: Any) -> Any:
        site = request.site
        if not self._has_warned and not (isinstance(site, UpgradeSite) and site.offers(_TLS)):
            # Once: a stranger must not fill the log.
            self._has_warned = True
            _log.warn('tls_required: the upgrades of the site have no "TLS"; here nobody gets in')
        return self._required.render(request)
