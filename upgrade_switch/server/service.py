"""
:class:`UpgradeService`: an ``UpgradeSite`` as a service.
"""

from __future__ import annotations

from twisted.application.internet import StreamServerEndpointService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint

from ..errors import InvalidArgument
from .site import UpgradeSite

__all__ = ["UpgradeService"]


class UpgradeService(StreamServerEndpointService):
    """
    An ``IService`` that listens with an ``UpgradeSite``; stopping it stops listening, then drains.
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
        super().__init__(endpoint, site)
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
