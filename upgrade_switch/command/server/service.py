"""
``twist upgrade-switch``: what ``upgrade-switch serve`` does, as a service of Twisted's.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.python.usage import UsageError

from .exits import USAGE, say
from .listening import Server
from .serve import ServeOptions, build_server

__all__ = ["Options", "makeService"]


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
