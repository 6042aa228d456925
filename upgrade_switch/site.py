"""
:class:`UpgradeSite`: a ``twisted.web.server.Site`` whose connections can switch, and what it keeps of
those that have; :class:`UpgradeService` for running one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import Site
from zope.interface import Interface

from . import _twisted
from .channel import UpgradeChannel
from .request import UpgradeRequest
from .switched import SwitchedConnections
from .takeover import SwitchedConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from .resource import Decision

__all__ = ["IDrainable", "UpgradeService", "UpgradeSite"]

_log = Logger()


class IDrainable(Interface):
    """A target that can say goodbye in its own protocol when the server goes down."""

    def drain() -> None:
        """
        The server is going down: say goodbye and close the connection. It is aborted when the time
        that ``UpgradeSite.drain`` was given is over.
        """


class UpgradeSite(Site):
    """
    A web site whose connections can switch to other protocols (RFC 9110 §7.8).

    It takes a Site's arguments, and those below. The requests are :class:`UpgradeRequest`; a
    ``requestFactory`` of one's own is a subclass of that.

    :ivar switched: the connections that are switched now: ``len()``, iteration.
    :ivar draining: whether :meth:`drain` has been called.
    :ivar deciding: the decisions that acceptors are still at work on.
    """

    requestFactory = UpgradeRequest

    def __init__(
        self,
        resource: IResource,
        requestFactory: Callable[..., UpgradeRequest] | None = None,
        *args: Any,
        accept_timeout: float | None = 30,
        max_switched: int | None = None,
        tcp_keepalive: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        :param resource: the root of the resource tree; ``UpgradeResource`` s are leaves in it.
        :param accept_timeout: how many seconds an acceptor may take; then it is cancelled and the
            request answered with 503. None: as long as it likes.
        :param max_switched: how many connections may be switched at the same time; further
            upgrades are declined with 503 and ``Retry-After``. None: any number.
        :param tcp_keepalive: whether switched TCP connections get TCP's keep-alive. They have no
            HTTP timer any more: idle limits are the target's business, dead peers TCP's.
        """
        super().__init__(resource, requestFactory, *args, **kwargs)
        self.accept_timeout = accept_timeout
        self.switched = SwitchedConnections(self.reactor, max_switched)
        self.draining = False
        self.deciding: set[Decision] = set()
        self._tcp_keepalive = tcp_keepalive
        # By identity: a factory need not be hashable, nor be equal to itself alone.
        self._started: dict[int, IProtocolFactory] = {}

    def protocol(self) -> IProtocol:  # type: ignore[override]  # a callable, as in HTTPFactory
        return _twisted.negotiating(UpgradeChannel())

    def keep_alive(self, transport: Any) -> None:
        """Have TCP look after a connection that has just switched."""
        if self._tcp_keepalive and ITCPTransport.providedBy(transport):
            transport.setTcpKeepAlive(True)

    def start_factory(self, factory: IProtocolFactory) -> None:
        """
        Call a factory's ``doStart``, the first time that one of this site's upgrades uses it; its
        ``doStop`` comes with the site's.
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
        Say goodbye to what is switched. From now on every upgrade is declined with 503, those whose
        acceptor is still deciding too; targets that provide :class:`IDrainable` are told, and what
        is left after ``timeout`` seconds is aborted. Requests without upgrade are served as before.

        :return: fires (None) when no switched connection is left.
        """
        self.draining = True
        for decision in list(self.deciding):
            decision.decline("The server is going down.")
        emptied = self.switched.when_empty()
        for connection in self.switched:
            _say_goodbye(connection)
        if not emptied.called:
            call = self.reactor.callLater(timeout, self._abort_switched)
            emptied.addCallback(lambda _: call.cancel() if call.active() else None)
        return emptied

    def _abort_switched(self) -> None:
        for connection in self.switched:
            connection.abort()


def _say_goodbye(connection: SwitchedConnection) -> None:
    if IDrainable.providedBy(connection.target):
        try:
            connection.target.drain()
        except Exception:
            # The others want to hear of it, too; this one is aborted with the rest.
            _log.failure("{target} failed to drain", target=connection.target)


class UpgradeService(StreamServerEndpointService):
    """
    An ``IService`` that listens with an ``UpgradeSite``; stopping it stops listening, then drains.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, site: UpgradeSite, drain_timeout: float = 5
    ) -> None:
        """
        :param endpoint: where to listen.
        :param drain_timeout: how many seconds switched connections have to end by themselves.
        """
        super().__init__(endpoint, site)
        self._site = site
        self._drain_timeout = drain_timeout

    def startService(self) -> None:
        self._site.draining = False
        super().startService()

    def stopService(self) -> Deferred[None]:
        """
        :return: fires (None) when the port is closed and no switched connection is left.
        """
        stopped: Deferred[None] = super().stopService()
        return stopped.addCallback(lambda _: self._site.drain(self._drain_timeout))
