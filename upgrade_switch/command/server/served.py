"""
What ``serve`` serves: a site and its proxies, as options describe them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from ...interfaces import ISwitchObserver
from ...observe.log import SwitchLog
from ...observe.status import Status
from ..listening import server_endpoint
from ..reactor import ICommandReactor
from .access_log import LoggedSite, access_log_path
from .clients import demand_certificates
from .options import ServeOptions
from .tree import (
    build_connect,
    build_prefaces,
    build_proxies,
    build_site_upgrades,
    build_tree,
    show_back_ends,
    takes_http2_connect,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...proxy import UpgradeProxy

__all__ = ["Served", "endpoints_of"]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"
DEFAULT_DRAIN = 5.0


def endpoints_of(
    reactor: ICommandReactor, options: ServeOptions
) -> list[tuple[str, IStreamServerEndpoint]]:
    """
    Where to listen: endpoint strings, and the endpoints that they describe.

    :raises UsageError: if one of them is wrong, or clients need certificates and cannot be asked there.
    """
    strings = options.listen or [DEFAULT_LISTEN]
    endpoints = [(string, server_endpoint(reactor, string)) for string in strings]
    if options.client_ca is not None:
        demand_certificates(endpoints, options.client_ca)
    return endpoints


class Served:
    """
    A site that can become what other options say.

    :ivar options: the options.
    :ivar site: the site, which stays the same.
    :ivar status: counts what happens to it.
    """

    def __init__(
        self,
        reactor: ICommandReactor,
        options: ServeOptions,
        site_class: type[LoggedSite] = LoggedSite,
        observers: Sequence[ISwitchObserver] = (),
        status: Status | None = None,
    ) -> None:
        """
        :param observers: those that are told what happens to it, besides the log and the status page.
        :raises UsageError: if the options contradict one another, or need something that is not
            installed.
        """
        self._reactor = reactor
        self._site_class, self._observers = site_class, observers
        self.options = options
        self.status = status or Status(reactor)
        self.site, self._proxies = self._build(options)
        show_back_ends(self.status, self._proxies)

    def _build(self, options: ServeOptions) -> tuple[LoggedSite, Mapping[str, UpgradeProxy]]:
        proxies = build_proxies(self._reactor, options)
        try:
            site = self._site_class(
                build_tree(self._reactor, options, self.status, proxies),
                reactor=self._reactor,
                upgrades=build_site_upgrades(options),
                prefaces=build_prefaces(self._reactor, options),
                connect=build_connect(self._reactor, options),
                http2_connect=takes_http2_connect(options),
                observers=[SwitchLog(), self.status, *self._observers],
                access_log=access_log_path(options.access_log),
                **options.site_limits(),
            )
        except UsageError:
            # Their health checks have begun if the reactor runs.
            _close(proxies)
            raise
        return site, proxies

    def become(self, options: ServeOptions) -> None:
        """
        Serve what other options say, from the next request on. What goes on is not disturbed.

        :raises UsageError: if they are wrong; nothing has changed then.
        """
        site, proxies = self._build(options)
        self.site.adopt(site)
        self.options = options
        before, self._proxies = self._proxies, proxies
        for path in before:
            self.status.hide_back_ends(path)
        show_back_ends(self.status, proxies)
        _close(before)

    def end(self) -> Deferred[None]:
        """
        Drain the site, and close the proxies.

        :return: fires when that is done.
        """
        seconds = DEFAULT_DRAIN if self.options.drain is None else self.options.drain
        drained = self.site.drain(seconds)
        drained.addCallback(lambda _: _close(self._proxies))
        return drained.addCallback(lambda _: None)


def _close(proxies: Mapping[str, UpgradeProxy]) -> Deferred[list[None]]:
    return gatherResults([proxy.close() for proxy in proxies.values()])
