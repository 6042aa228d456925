"""
The server's side of RFC 2817: :func:`tls` puts TLS beneath HTTP, :func:`tls_required` insists on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.error import TimeoutError
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
from twisted.web.server import Request
from zope.interface import implementer

from ... import _twisted
from ...connection import abort_because
from ...errors import InvalidArgument, InvalidUpgrades
from ...interfaces import (
    Acceptor,
    CarriedRequest,
    IDrainable,
    ILayered,
    ISelective,
    IStreamTransport,
    ITakesUpgrades,
    IUpgradeRequest,
    IUpgradeSite,
)
from ...negotiation import UpgradeToken
from ...server.channel import UpgradeChannel
from ...server.request import UpgradeRequest
from ...server.resource import takes_upgrades, upgrade_required
from ...takeover import hand_over
from .hello import HelloReader, alert_record

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["tls", "tls_required"]

_log = Logger()

# RFC 2817 §4.2, with a version of this century. What is spoken is up to the handshake.
_TLS, _HTTP = "TLS/1.2", "HTTP/1.1"

# What a server's TLS is made with.
ContextFactory: TypeAlias = IOpenSSLContextFactory | IOpenSSLServerConnectionCreator


def tls(context_factory: ContextFactory, timeout: float = 30, *, any_request: bool = False) -> Acceptor:
    """
    An acceptor that puts TLS beneath HTTP (RFC 2817 §3), for ``UpgradeSite(upgrades={"TLS": ...})``:
    the site answers 101, does the handshake, and answers the request inside TLS. There, this request
    and all that follow are ``isSecure()``. The connection stays the site's.

    An attacker in the middle can send such a request in the clear, join a client's *https* connection
    to it behind the 101, and have the client take the answer for the one to its own request (the
    Opossum attack, CVE-2025-49812). Therefore:

    - Only ``OPTIONS *`` is taken, whose answer is empty. On any other request, the offer is ignored.
    - A client that offers protocols by ALPN, as browsers and curl do with https, is refused by an alert
      (``no_application_protocol``), whatever the context factory says of ALPN.

    An https client without ALPN still takes the answer to ``OPTIONS *`` for the one to its first
    request, the answer to that for the one to its second, and so on. Only one thing helps it: the
    server's name has this upgrade or an https port, not both. A site that listens with TLS and has
    this upgrade warns once.

    The offer is also ignored if the request is secure already, or if its connection cannot start TLS.

    If a resource makes an absolute URL from such a request, it has the scheme ``https`` and this port,
    on which nobody speaks TLS from the first byte; a relative URL leads back here.

    :param context_factory: what Twisted's server endpoints take: ``CertificateOptions``,
        ``PrivateCertificate.options()``, an ``IOpenSSLServerConnectionCreator``. It is not changed.
    :param timeout: how many seconds the handshake may take; after that, the connection is aborted.
    :param any_request: whether other requests than ``OPTIONS *`` are taken too. This is only for
        servers whose name has no https port, whoever would listen there.
    :return: the acceptor.
    :raises InvalidUpgrades: if ``context_factory`` is not a context factory.
    """
    if isinstance(context_factory, type) or not (
        IOpenSSLServerConnectionCreator.providedBy(context_factory)
        or callable(getattr(context_factory, "getContext", None))
    ):
        raise InvalidUpgrades(
            "not a context factory, as PrivateCertificate.options() and CertificateOptions(...) are: "
            f"{context_factory!r}"
        )
    return _Acceptor(context_factory, timeout, any_request)


@implementer(ISelective)
class _Acceptor:
    def __init__(self, context_factory: ContextFactory, timeout: float, any_request: bool) -> None:
        self._context_factory = context_factory
        self._timeout = timeout
        self._any_request = any_request

    def ignores(self, request: IUpgradeRequest) -> bool:
        if not (self._any_request or (request.method == b"OPTIONS" and request.uri == b"*")):
            return True
        # The request's isSecure alone is not enough: it may be about the client of a proxy in front.
        if request.channel.isSecure():
            return True
        return not ITLSTransport.providedBy(_twisted.bottom(request.channel.transport))

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> IProtocol:
        # If it fails here, the answer is 500; in the middle of startTLS, there would be no answer.
        _check_makes_contexts(self._context_factory)
        return _TLSHandshake(request.site, request.carry(), self._context_factory, self._timeout)


def _check_makes_contexts(context_factory: ContextFactory) -> None:
    """
    Ask a context factory for what ``startTLS`` will ask of it.

    :raises Exception: whatever it raises.
    """
    if IOpenSSLServerConnectionCreator.providedBy(context_factory):
        factory = TLSMemoryBIOFactory(context_factory, False, Factory())
        context_factory.serverConnectionForTLS(TLSMemoryBIOProtocol(factory, Protocol()))
    else:
        context_factory.getContext()


@implementer(IHandshakeListener, ILayered, IDrainable)
class _TLSHandshake(Protocol):
    """
    Owns a connection from the 101 to the end of the handshake, and then gives it back to HTTP. TLS is
    started when the ClientHello has been read, and offers nothing by ALPN.

    HTTP does not get it earlier: what is written during the handshake waits, and pauses its writer; if
    the writer is HTTP, it stops reading, and the handshake stops too.
    """

    layers = (_HTTP,)
    transport: IStreamTransport

    def __init__(
        self,
        site: IUpgradeSite,
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
        # Until it has been read, and TLS has been started or refused.
        self._hello: HelloReader | None = HelloReader()

    def logPrefix(self) -> str:
        return "TLS"

    def connectionMade(self) -> None:
        self._timer = self._site.reactor.callLater(self._timeout, self._timed_out)

    def dataReceived(self, data: bytes) -> None:
        hello = self._hello
        if hello is None:
            # The connection is being closed.
            return
        hello.feed(data)
        if hello.alert is not None:
            self._hello = None
            _log.debug("TLS by upgrade refuses a ClientHello: alert {alert}", alert=hello.alert)
            self.transport.write(alert_record(hello.alert))
            self.transport.loseConnection()
        elif hello.is_complete:
            self._hello = None
            _twisted.start_tls(self.transport, self._context_factory, self, bytes(hello.received))

    def _timed_out(self) -> None:
        self._timer = None
        abort_because(self.transport, TimeoutError(string="the TLS handshake took too long"))

    def handshakeCompleted(self) -> None:
        self._stop_timer()
        if self._carried is None or _twisted.is_closing(self.transport):
            # The request's content is closed when the connection is lost.
            return
        carried, self._carried = self._carried, None
        http = self._site.buildProtocol(self.transport.getPeer())
        if http is None:
            carried.content.close()
            self.transport.loseConnection()
            return
        assert isinstance(http, UpgradeChannel)
        channel = http
        # Whatever ALPN has said.
        channel.knows_protocol = True
        self._channel = channel
        hand_over(self.transport, _twisted.slot_of(self.transport, self), http, b"")
        channel.answer(carried)

    def drain(self) -> None:
        """HTTP/1.1 has no goodbye: the request that is being answered becomes the last."""
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
    Keep a resource, and everything below it, for requests inside TLS. Every other request gets a 426
    with ``Upgrade: TLS/1.2, HTTP/1.1`` (RFC 2817 §4.2), even if it offers another of the site's own
    upgrades. The client then upgrades with ``OPTIONS *``, and asks again.

    Put around a site's root, it protects all of the site's resources; but a connection that begins with
    one of the site's prefaces, and a CONNECT, do not ask for a resource.

    :param resource: answers the requests that are secure.
    :return: a resource to put in its place.
    :raises InvalidArgument: if ``resource`` is not an ``IResource``.
    """
    if not IResource.providedBy(resource):
        raise InvalidArgument(f"not an IResource: {resource!r}")
    return _TLSRequired(resource)


@implementer(ITakesUpgrades)
class _TLSRequired(Resource):
    def __init__(self, resource: IResource) -> None:
        super().__init__()
        self._resource = resource
        self._in_the_clear = _InTheClear()

    def _resource_for(self, request: IRequest) -> IResource:
        return self._resource if request.isSecure() else self._in_the_clear

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        # As in twisted.web.guard: the child's name is looked up again, by the resource.
        request.postpath.insert(0, request.prepath.pop())
        return self._resource_for(request)

    def takes(self, request: IUpgradeRequest) -> bool:
        return takes_upgrades(self._resource_for(request), request)

    def render(self, request: IRequest) -> int | bytes:
        answer: int | bytes = self._resource_for(request).render(request)
        return answer


@implementer(ITakesUpgrades)
class _InTheClear(Resource):
    """Answers requests outside of TLS: all that they get is the way into it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._required = upgrade_required(_TLS, _HTTP)
        self._has_warned = False

    def takes(self, request: IUpgradeRequest) -> bool:
        # A site's own upgrade is asked if no resource takes the offer: here, only TLS shall be asked.
        match = request.site.match(request)
        token = None if match is None else match.token
        return token is not None and token.key[0] != "tls"

    def render(self, request: Request) -> int | bytes:
        site = request.site
        if not self._has_warned and not (IUpgradeSite.providedBy(site) and site.offers(_TLS)):
            # Only once: a stranger must not be able to fill the log.
            self._has_warned = True
            _log.warn('tls_required: the site\'s upgrades have no "TLS", so no request gets through')
        answer: int | bytes = self._required.render(request)
        return answer
