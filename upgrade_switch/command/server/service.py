"""
``serve`` as a service: what ``upgrade-switch serve`` and ``twist upgrade-switch`` run.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import LogLevel
from twisted.python.usage import UsageError

from ...observe.log import SwitchLog
from ...observe.status import Status
from ..exits import USAGE, say
from ..listening import Server, begin_logging, server_endpoint, url_of
from .access_log import LoggedSite, access_log_path
from .options import ServeOptions
from .tree import build_prefaces, build_site_upgrades, build_tree

__all__ = ["Options", "build_server", "makeService", "run_serve"]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"


def build_server(reactor: Any, options: ServeOptions) -> Server:
    """
    :return: a service: what listens, and drains when it is stopped.
    :raises UsageError: where the options contradict one another.
    """
    status = Status(reactor)
    root = build_tree(reactor, options, status)
    site = LoggedSite(
        root,
        reactor=reactor,
        upgrades=build_site_upgrades(options),
        prefaces=build_prefaces(reactor, options),
        observers=[SwitchLog(), *([status] if options.status else [])],
        access_log=access_log_path(options.access_log),
    )
    endpoints = _endpoints(reactor, options.listen or [DEFAULT_LISTEN])
    seconds = 5 if options.drain is None else options.drain
    return Server(reactor, site, endpoints, url_of, lambda: site.drain(seconds))


def _endpoints(reactor: Any, texts: list[str]) -> list[tuple[str, IStreamServerEndpoint]]:
    return [(text, server_endpoint(reactor, text)) for text in texts]


def run_serve(options: ServeOptions) -> int:
    """
    Serve until a signal; then stop listening, and let what is switched end.

    :return: the exit code.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    begin_logging(LogLevel.warn, options.log_format or "text")
    try:
        server = build_server(reactor, options)
    except UsageError as error:
        say(f"serve: {error}")
        return USAGE
    return server.run()


class Options(ServeOptions):
    """The options of ``serve``, less those that are ``twist``'s own."""

    examples = tuple(
        example.replace("upgrade-switch serve", "twist upgrade-switch")
        for example in ServeOptions.examples
    )

    def opt_log_format(self, name: str) -> None:
        """
        The log is twist's own: twist --log-format=json upgrade-switch ...
        """
        raise UsageError("the log is twist's: twist --log-format=json upgrade-switch ...")


def makeService(options: Options) -> Server:
    """
    :raises SystemExit: where the options contradict one another, which has been said.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    # Behind the handlers that the reactor sets when it begins.
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, partial(_end, reactor))
    try:
        return build_server(reactor, options)
    except UsageError as error:
        # Of options only, twist shows such an error to people.
        say(str(error))
        raise SystemExit(USAGE) from None


def _end(reactor: Any, number: int, _: object) -> None:
    """
    SIGTERM, where it is how a service is told to end: what drains well ends with 0. Twisted's own
    handler would have the process die of the signal in the end.
    """
    signal.signal(number, signal.SIG_IGN)
    reactor.callFromThread(_stop, reactor)


def _stop(reactor: Any) -> None:
    # It may be going down already, by SIGINT.
    with suppress(ReactorNotRunning):
        reactor.stop()
