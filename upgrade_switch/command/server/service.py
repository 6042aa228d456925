"""
``serve`` as a service: what ``upgrade-switch serve`` and ``twist upgrade-switch`` run.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import LogLevel
from twisted.python.usage import UsageError

from ...observe.log import SwitchLog
from ...observe.status import Status
from ..exits import USAGE, say
from ..listening import Server, begin_logging, server_endpoint, url_of
from ..reactor import ICommandReactor, installed_reactor
from .access_log import LoggedSite, access_log_path
from .clients import demand_certificates
from .options import ServeOptions
from .tree import (
    build_connect,
    build_prefaces,
    build_proxies,
    build_site_upgrades,
    build_tree,
    takes_http2_connect,
)

__all__ = ["Options", "build_server", "makeService", "run_serve"]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"


def build_server(reactor: ICommandReactor, options: ServeOptions) -> Server:
    """
    :return: a service that listens; when it is stopped, it drains the site, and closes the proxies.
    :raises UsageError: if the options contradict one another, or need something that is not installed.
    """
    status = Status(reactor)
    proxies = build_proxies(reactor, options)
    root = build_tree(reactor, options, status, proxies)
    site = LoggedSite(
        root,
        reactor=reactor,
        upgrades=build_site_upgrades(options),
        prefaces=build_prefaces(reactor, options),
        connect=build_connect(reactor, options),
        http2_connect=takes_http2_connect(options),
        observers=[SwitchLog(), *([status] if options.status else [])],
        access_log=access_log_path(options.access_log),
        **options.site_limits(),
    )
    endpoints = _endpoints(reactor, options.listen or [DEFAULT_LISTEN])
    if options.client_ca is not None:
        demand_certificates(endpoints, options.client_ca)
    seconds = 5 if options.drain is None else options.drain

    def end() -> Deferred[None]:
        drained = site.drain(seconds)
        drained.addCallback(lambda _: gatherResults([proxy.close() for proxy in proxies.values()]))
        return drained.addCallback(lambda _: None)

    return Server(reactor, site, endpoints, url_of, end)


def _endpoints(reactor: ICommandReactor, strings: list[str]) -> list[tuple[str, IStreamServerEndpoint]]:
    return [(string, server_endpoint(reactor, string)) for string in strings]


def run_serve(options: ServeOptions) -> int:
    """
    Serve until a signal comes; then stop listening, and drain the site.

    :return: the exit code.
    """
    reactor = installed_reactor()
    begin_logging(LogLevel.warn, options.log_format or "text")
    try:
        server = build_server(reactor, options)
    except UsageError as error:
        say(f"serve: {error}")
        return USAGE
    return server.run()


class Options(ServeOptions):
    """The options of ``serve``, without those that are ``twist``'s own."""

    examples = tuple(
        example.replace("upgrade-switch serve", "twist upgrade-switch")
        for example in ServeOptions.examples
    )

    def opt_log_format(self, name: str) -> None:
        """
        Not available here; use twist's own option: twist --log-format=json upgrade-switch ...
        """
        raise UsageError(
            "--log-format is an option of twist: twist --log-format=json upgrade-switch ..."
        )


def makeService(options: Options) -> Server:
    """
    The service that ``twist upgrade-switch`` runs.

    :raises SystemExit: after a usage error, which has been printed then.
    """
    reactor = installed_reactor()
    # After the reactor has set its own handlers, which it does when it starts.
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, partial(_end, reactor))
    try:
        return build_server(reactor, options)
    except UsageError as error:
        # twist prints such an error only while it parses options.
        say(str(error))
        raise SystemExit(USAGE) from None


def _end(reactor: ICommandReactor, number: int, _: object) -> None:
    """
    The handler of SIGTERM, which tells a service to end: the exit code is 0 then. With Twisted's own
    handler, the process would die of the signal after it has drained.
    """
    signal.signal(number, signal.SIG_IGN)
    reactor.callFromThread(_stop, reactor)


def _stop(reactor: ICommandReactor) -> None:
    # SIGINT may have stopped it already.
    with suppress(ReactorNotRunning):
        reactor.stop()
