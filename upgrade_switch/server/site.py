"""
:class:`UpgradeSite`: a ``twisted.web.server.Site`` whose connections can switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, ISSLTransport
from twisted.logger import Logger
from twisted.web.guard import HTTPAuthSessionWrapper
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Site
from twisted.web.util import DeferredResource
from zope.interface import implementer

from .. import _twisted
from ..connection import SwitchedConnection
from ..errors import InvalidPrefaces, MissingExtra
from ..fields import is_authority
from ..interfaces import (
    Acceptor,
    ConnectAcceptor,
    Declined,
    IDetachable,
    IDrainable,
    IPrefaced,
    IStreamTransport,
    ISwitchObserver,
    IUpgradeRequest,
    IUpgradeSite,
)
from ..negotiation import UpgradeToken
from ..takeover import check_target
from .channel import UpgradeChannel
from .decision import SiteUpgrade
from .idle import IdleTimers
from .limits import checked_numbers, limits_of
from .pages import StatusPage
from .preface import PrefaceTable
from .request import UpgradeRequest
from .resource import resource_at, takes_upgrades
from .switched import SwitchedConnections, checked_observers, say_goodbye
from .upgrades import Match, Upgrades, check_connect, checked_prefaces, hint_at_factory

try:
    from .http2 import ServerConnection
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in ("h2", "hpack"):
        raise
    ServerConnection = None  # type: ignore[assignment, misc]  # the extra http2 is not installed

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

    from .decision import Decision

__all__ = ["UpgradeSite"]

_log = Logger()


@implementer(IUpgradeSite)
class UpgradeSite(Site):
    """
    A web site whose connections can switch to other protocols (RFC 9110 §7.8).

    It takes a ``Site``'s arguments and those below. Its requests are :class:`UpgradeRequest`; your own
    ``requestFactory`` must be a subclass of that.

    A site has three ways to switch that do not depend on a resource:

    - ``upgrades`` are asked if the addressed resource takes none of the offered tokens. (If your own
      resource takes some, it says so with :class:`~upgrade_switch.interfaces.ITakesUpgrades`.) To find
      out, the site looks the resource up before the upgrade, and once more after it. ``h2c`` is ignored
      on connections with TLS, ``TLS`` if the request is secure, ``h2`` always, and all of them while
      the site is full or going down.
    - ``prefaces`` name fixed first bytes of a connection, and the factory whose protocol gets such a
      connection with all of its bytes, the preface included. If one preface is the beginning of
      another, the longer one wins as long as it can still arrive; at the idle time-out, and at the
      connection's end, the shorter one does. A preface that is one whole line, CRLF included, is also
      looked for between two requests.
    - ``connect`` decides about the method CONNECT (RFC 9110 §9.3.6): a callable
      ``acceptor(request, authority)``, with an authority such as ``b"example.com:22"``. If it results
      in a protocol, the site answers 200 and switches to it; a resource is the answer, after which the
      connection is closed. A request with a bad authority is answered 400 before that. The resource
      tree never sees a CONNECT; without ``connect``, it is answered 501, and the connection is closed.

    :ivar switched: the connections that are switched now: ``len()``, iteration.
    :ivar deciding: the decisions that acceptors have not made yet.
    :ivar observers: those that are told what happens to upgrades.
    """

    requestFactory = UpgradeRequest  # type: ignore[assignment]  # less general arguments

    _has_warned_of_tls = False

    def __init__(
        self,
        resource: IResource,
        requestFactory: Callable[..., UpgradeRequest] | None = None,
        *args: object,
        accept_timeout: float | None = 30,
        max_switched: int | None = None,
        tcp_keepalive: bool | tuple[int, int, int] = True,
        head_timeout: float | None = 60,
        max_unsent: int | None = None,
        max_per_address: int | None = None,
        upgrades: Mapping[str, IProtocolFactory | Acceptor] | None = None,
        prefaces: Mapping[bytes, IProtocolFactory | IPrefaced] | None = None,
        connect: ConnectAcceptor | None = None,
        http2_connect: bool = False,
        observers: Iterable[ISwitchObserver] = (),
        **kwargs: object,
    ) -> None:
        """
        :param resource: the root of the resource tree; an ``UpgradeResource`` is a leaf in it.
        :param accept_timeout: how many seconds an acceptor may take; then it is cancelled and the
            request answered with 503. None: no limit.
        :param max_switched: how many connections may be switched at the same time; further upgrades are
            declined with 503 and ``Retry-After``. None: no limit.
        :param tcp_keepalive: TCP's keep-alive on switched connections, as ``(idle, interval,
            probes)`` in seconds and a number; True: (60, 15, 4). HTTP's idle timer ends with HTTP.
        :param head_timeout: how many seconds a request's head may take from its first byte to its end;
            then the request is answered with 408. None: no limit.
        :param max_unsent: how many bytes may wait to be sent on a switched connection; past that, it is
            aborted. Checked once a second. None: no limit.
        :param max_per_address: how many connections of one client may be switched (IPv6: of one /64);
            further ones are declined with 429. UNIX sockets are not counted. None: no limit.
        :param upgrades: what each token leads to, as ``UpgradeResource`` takes it.
        :param prefaces: what each preface leads to.
        :param connect: the acceptor of CONNECTs; without one, they are answered with 501.
        :param http2_connect: whether streams of HTTP/2 may switch (RFC 8441). Unknown tokens are 501.
        :param observers: what is told of switches, of their ends, and of declined upgrades.
        :raises InvalidToken: if a key of ``upgrades`` is not a token.
        :raises InvalidUpgrades: if one of the values there, or ``connect``, is of the wrong kind.
        :raises InvalidPrefaces: if it is not a mapping from bytes to factories.
        :raises MissingExtra: if ``http2_connect`` is given, and the extra ``http2`` is not installed.
        :raises InvalidArgument: if a limit, an observer or ``tcp_keepalive`` is wrong.
        """
        super().__init__(resource, requestFactory, *args, **kwargs)
        timeouts = checked_numbers(accept_timeout=accept_timeout, head_timeout=head_timeout)
        self.accept_timeout, self.head_timeout = timeouts
        self.idle_timers = IdleTimers(self.reactor)
        self.observers = checked_observers(observers)
        limits = limits_of(max_switched, max_per_address, max_unsent, tcp_keepalive)
        self.switched = SwitchedConnections(self.reactor, limits, self.observers)
        self.deciding: set[Decision] = set()
        self.takes_http2_connect = _checked_http2_connect(http2_connect)
        self.http2_connections: set[IDrainable] = set()
        if connect is not None:
            check_connect(connect)
        self._connect = connect
        # By identity: a factory need not be hashable, and may be equal to another one.
        self._started: dict[int, IProtocolFactory] = {}
        self._upgrades = Upgrades(upgrades or {})
        self._set_prefaces(checked_prefaces({} if prefaces is None else prefaces))

    def adopt(self, other: UpgradeSite) -> None:
        """
        Serve as another site would, from the next request on: with its tree, upgrades and limits.
        Connections and observers stay this one's. The other must not have served anything.
        """
        self.resource, self._connect, self._upgrades = other.resource, other._connect, other._upgrades
        self.accept_timeout, self.head_timeout = other.accept_timeout, other.head_timeout
        self.takes_http2_connect = other.takes_http2_connect
        self.switched.limits = other.switched.limits
        self._set_prefaces(other._given_prefaces)

    def _set_prefaces(self, given: Mapping[bytes, object]) -> None:
        self._given_prefaces = given
        known = {v.preface: v for v in self._upgrades.values if IPrefaced.providedBy(v) and v.preface}
        self._prefaces = self._table_of({**known, **given})
        # Inside TLS, ALPN says what the client speaks.
        plain = {preface: value for preface, value in given.items() if not IPrefaced.providedBy(value)}
        self._prefaces_inside_tls = self._table_of(plain)

    def _table_of(self, prefaces: Mapping[bytes, object]) -> PrefaceTable[IProtocolFactory] | None:
        factories = {}
        for preface, value in prefaces.items():
            factory = value.factory_for(self) if IPrefaced.providedBy(value) else value
            if not IProtocolFactory.providedBy(factory):
                raise InvalidPrefaces(
                    f"{preface!r}: not an IProtocolFactory: {value!r}{hint_at_factory(value)}"
                )
            factories[preface] = factory
        return PrefaceTable(factories) if factories else None

    def protocol(self) -> IProtocol:  # type: ignore[override]  # a callable, as in HTTPFactory
        return UpgradeChannel()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """What the classes above do, in one call."""
        channel: Any = self.protocol()
        channel.factory = channel.site = self
        channel.callLater, channel.timeOut = self.reactor.callLater, self.timeOut
        channel.requestFactory, channel.accepted = self.requestFactory, addr
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        """What ALPN may choose (``IProtocolNegotiationFactory``)."""
        return [b"http/1.1"] if ServerConnection is None else [b"h2", b"http/1.1"]

    def http2_connection(self) -> IProtocol:
        """What speaks HTTP/2 on a connection."""
        return ServerConnection(self)

    @property
    def keep_alive(self) -> _twisted.KeepAlive | None:
        """TCP's keep-alive of connections that switch; None: they have none."""
        return self.switched.limits.keep_alive

    @property
    def draining(self) -> bool:
        """Whether the site declines upgrades because it is going down."""
        return self.switched.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self.switched.draining = draining

    def getResourceFor(self, request: Any) -> IResource:
        if not self._upgrades.names or not request.offer.tokens:
            # What Site's does, with a copy that costs less.
            request.site, request.sitepath = self, request.prepath.copy()
            direct: IResource = getChildForRequest(self.resource, request)
            return direct
        # On the way to the resource, others may change the request (VHostMonsterResource).
        request.keep_as_sent()
        found: IResource = super().getResourceFor(request)
        if takes_upgrades(found, request) or self._may_take(found, request):
            return found
        upgrade = self.site_upgrade_for(request)
        if upgrade is not None and isinstance(found, DeferredResource):
            # Nobody renders it; whatever it fails with, it will fail with again.
            found.d.addErrback(lambda _: None)
        return upgrade or found

    def resource_at(self, path: bytes) -> tuple[IResource, int] | None:
        """
        The resource of the tree that a path leads to, and how many of the path's segments do; None if
        there is no such resource, or if the rest of the request has a say in it.
        """
        if getattr(self.getResourceFor, "__func__", None) is not UpgradeSite.getResourceFor:
            return None
        return resource_at(self.resource, path)

    def _may_take(self, resource: IResource, request: UpgradeRequest) -> bool:
        """Whether a resource that is not known yet may take what nobody else does."""
        if not isinstance(resource, DeferredResource | HTTPAuthSessionWrapper):
            return False
        return not all(self._upgrades.knows(token) for token in request.offer)

    def match(self, request: IUpgradeRequest) -> Match | None:
        """The first token that a request offers of the site's own, and what decides about it."""
        return self._upgrades.match(request)

    def offers(self, token: str) -> bool:
        """Whether one of the site's own upgrades is to a token."""
        return self._upgrades.knows(UpgradeToken.parse(token))

    def site_upgrade_for(self, request: IUpgradeRequest) -> IResource | None:
        """
        What answers a request that offers one of the tokens that are the site's own. None if it offers
        none, or if there is no room: many clients offer ``h2c`` or ``TLS`` with every request, and
        want an answer more than an upgrade.
        """
        match = self.match(request)
        if match is None or self.switched.why_no_room(
            request.channel.transport, request.getClientAddress()
        ):
            return None
        return SiteUpgrade(match)

    def answer_to_connect(self, request: IUpgradeRequest) -> IResource:
        """
        What answers a CONNECT. The resource tree does not: a client takes any 2xx, a page's too, for
        the head of a tunnel (RFC 9110 §9.3.6).
        """
        if self._connect is None or not IDetachable.providedBy(request.channel):
            return StatusPage(501, "Not Implemented", "This server does not take CONNECT.")
        if not is_authority(request.uri):
            return StatusPage(400, "Bad Request", "A CONNECT names a host and a port.")
        return SiteUpgrade(Match(None, self._connect, request.uri))

    def connected(self, transport: object) -> PrefaceTable[IProtocolFactory] | None:
        """
        Look at a new connection.

        :return: what it may begin with in place of a request; None if there is nothing.
        """
        if "tls" in self._upgrades.protocols and not self._has_warned_of_tls:
            self._warn_of_tls(transport)
        if self._prefaces is None and self._prefaces_inside_tls is None:
            return None
        secure = ISSLTransport.providedBy(transport)
        return self._prefaces_inside_tls if secure else self._prefaces

    def _warn_of_tls(self, transport: object) -> None:
        """
        A site that both listens with TLS and upgrades to it is open to the Opossum attack. That is seen
        only on a connection, since listening is the endpoint's business.
        """
        if _twisted.has_begun_with_tls(transport):
            self._has_warned_of_tls = True
            _log.warn(
                'this site listens with TLS, and its upgrades have "TLS": an attacker in the middle '
                "can give https clients the answer to another request (CVE-2025-49812); have only one"
            )

    def target_of(self, factory: IProtocolFactory, transport: IStreamTransport) -> IProtocol | None:
        """
        The protocol for a connection that begins with a preface. None if it gets none: the site is
        full or going down, or the factory wants none or fails (which is logged).
        """
        target = self.target_behind_end(factory, transport)
        return None if self.switched.why_declined(transport, transport.getPeer()) else target

    def target_behind_end(
        self, factory: IProtocolFactory, transport: IStreamTransport
    ) -> IProtocol | None:
        """:meth:`target_of`, for a connection that is known to have ended."""
        if self.switched.why_no_room(transport, transport.getPeer()):
            return None
        try:
            self.start_factory(factory)
            target = factory.buildProtocol(transport.getPeer())
            return None if target is None or self.draining else check_target(target)
        except Exception:
            _log.failure("{factory} failed to build a protocol for a preface", factory=factory)
            return None

    def start_factory(self, factory: IProtocolFactory) -> None:
        """
        Call a factory's ``doStart``, the first time that one of this site's upgrades uses it; its
        ``doStop`` is called with the site's.
        """
        if id(factory) not in self._started:
            factory.doStart()
            self._started[id(factory)] = factory

    def stopFactory(self) -> None:
        super().stopFactory()
        started, self._started = self._started, {}
        for factory in started.values():
            factory.doStop()

    def drain(self, timeout: float) -> Deferred[None]:
        """
        Say goodbye to what is switched. From now on every upgrade is declined with 503, also where an
        acceptor is still deciding. Targets that provide :class:`IDrainable` are told at once; those
        that provide :class:`~upgrade_switch.interfaces.IDrainsLate`, as tunnels in WebSocket messages
        do, are told ``min(1, timeout / 2)`` seconds before the end. What is left after ``timeout``
        seconds is aborted. Requests without an upgrade are served as before, and not waited for; HTTP/2
        connections are closed when they have none.

        :return: fires (None) when no switched connection is left.
        """
        self.draining = True
        for decision in list(self.deciding):
            decision.decline("The server is going down.", Declined.DRAINING)
        emptied = self.switched.when_empty()
        self.switched.for_each(say_goodbye)
        for http2 in tuple(self.http2_connections):
            http2.drain()
        if not emptied.called:
            late = self.reactor.callLater(timeout - min(1, timeout / 2), self._say_goodbye_late)
            last = self.reactor.callLater(timeout, self._abort_switched)
            emptied.addCallback(lambda _: _cancel(late, last))
        return emptied

    def _say_goodbye_late(self) -> None:
        self.switched.for_each(partial(say_goodbye, is_late=True))

    def _abort_switched(self) -> None:
        self.switched.for_each(SwitchedConnection.abort)


def _cancel(*calls: IDelayedCall) -> None:
    for call in calls:
        if call.active():
            call.cancel()


def _checked_http2_connect(http2_connect: bool) -> bool:
    if http2_connect and ServerConnection is None:
        raise MissingExtra("http2_connect needs h2: pip install 'upgrade_switch[http2]'")
    return bool(http2_connect)
