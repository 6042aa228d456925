"""
``serve`` as a service: what ``upgrade-switch serve`` and ``twist upgrade-switch`` run.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from twisted.internet.error import ReactorNotRunning
from twisted.logger import LogLevel
from twisted.python.usage import UsageError

from ..._twisted import adopting
from ..exits import SUCCESS, USAGE, say
from ..listening import Server, begin_logging, url_of
from ..reactor import ICommandReactor, installed_reactor
from .options import ServeOptions
from .privileges import drop_privileges
from .reload import Reload
from .served import Served, endpoints_of
from .systemd import Notifier
from .workers import Workers

__all__ = ["Options", "build_server", "makeService", "run_serve"]


def build_server(reactor: ICommandReactor, options: ServeOptions) -> Server:
    """
    :return: a service that listens, and that reads the options again at SIGHUP; when it is stopped, it
        drains the site, and closes the proxies.
    :raises UsageError: if the options contradict one another, or need something that is not installed.
    """
    notifier = Notifier(reactor)
    if options.workers is not None:
        workers = Workers(reactor, options, notifier)
        _at_hangup(reactor, workers.reload)
        return workers
    served = Served(reactor, options)

    def listening() -> None:
        drop_privileges(options.run_as)
        notifier.ready()

    server = Server(
        reactor,
        served.site,
        endpoints_of(adopting(reactor), options),
        url_of,
        served.end,
        listening,
        notifier.stopping,
    )
    _at_hangup(reactor, Reload(reactor, served, server, notifier))
    return server


def _at_hangup(reactor: ICommandReactor, reload: Callable[[], None]) -> None:
    """At SIGHUP, read the options again; but end where it means what it says: a terminal was closed."""
    has_terminal = _is_terminal()

    def hung_up() -> None:
        if has_terminal and not _is_terminal():
            _stop(reactor)
        else:
            reload()

    reactor.callWhenRunning(signal.signal, signal.SIGHUP, lambda *_: reactor.callFromThread(hung_up))


def _is_terminal() -> bool:
    """Whether standard input is a terminal that is there."""
    return os.isatty(0)


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
        server = build_server(reactor, options)
    except UsageError as error:
        # twist prints such an error only while it parses options.
        say(str(error))
        raise SystemExit(USAGE) from None
    reactor.addSystemEventTrigger("after", "shutdown", _exit_as, server)
    return server


def _exit_as(server: Server) -> None:
    """Have the process end with the server's exit code: of its own, twist ends with 0."""
    if server.exit_code != SUCCESS:
        atexit.register(_exit, server.exit_code)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    # Nothing else that is called at the exit can change the code.
    os._exit(code)


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
