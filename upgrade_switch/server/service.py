"""
:class:`UpgradeService`: an ``UpgradeSite`` as a service.
"""

from __future__ import annotations

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from .. import _twisted
from .._twisted import KeepAlive
from ..errors import InvalidArgument
from .site import UpgradeSite

__all__ = ["UpgradeService"]


@implementer(IStreamServerEndpoint)
class _AtOnce:
    """An endpoint whose connections, when they have switched, send at once."""

    def __init__(self, endpoint: IStreamServerEndpoint, keep_alive: KeepAlive | None) -> None:
        self._endpoint, self._keep_alive = endpoint, keep_alive

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening = self._endpoint.listen(protocolFactory)
        return listening.addCallback(_twisted.listen_at_once, self._keep_alive)


class UpgradeService(StreamServerEndpointService):
    """
    An ``IService`` that listens with an ``UpgradeSite``; stopping it stops listening, then drains.

    Its connections send at once when they have switched: what a target writes goes to the kernel in
    ``write``, not in the reactor's next turn, as long as nothing waits to be sent before it. That holds
    for TCP and UNIX sockets, for the first write in each turn; over TLS, for what has been encrypted.
    Whatever a transport of Twisted's promises, it still does. Where thousands of clients leave in one
    turn of the reactor, some of these ends are told in the next turns: nobody else waits for all of
    them. On Linux, the port has the site's ``tcp_keepalive``, and its connections inherit it, before
    they have switched, too.
    """

    def __init__(
        self, endpoint: IStreamServerEndpoint, site: UpgradeSite, drain_timeout: float = 5
    ) -> None:
        """
        :param endpoint: where to listen.
        :param site: what listens there, and is drained.
        :param drain_timeout: how many seconds switched connections have to end by themselves.
        :raises InvalidArgument: if it is not a server endpoint, or not an UpgradeSite.
        """
        # Their methods are looked at: a test's stand-in need not say what it provides.
        if not callable(getattr(endpoint, "listen", None)):
            raise InvalidArgument(f"not a server endpoint (serverFromString makes one): {endpoint!r}")
        if not callable(getattr(site, "drain", None)):
            raise InvalidArgument(f"not an UpgradeSite: {site!r}")
        super().__init__(_AtOnce(endpoint, getattr(site, "keep_alive", None)), site)
        self._site = site
        self._drain_timeout = drain_timeout

    def startService(self) -> None:
        """Listen; a site that has been drained takes upgrades again."""
        self._site.draining = False
        super().startService()

    def stopService(self) -> Deferred[None]:
        """
        :return: fires (None) when the port is closed and no switched connection is left.
        """
        stopped: Deferred[None] = super().stopService()
        return stopped.addCallback(lambda _: self._site.drain(self._drain_timeout))
