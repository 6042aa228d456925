"""
``upgrade-switch forward``: listens; each connection goes through an upgrade of its own.
"""

from __future__ import annotations

import os
from select import POLLERR, poll
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import provider

from ... import _twisted
from ...splice import SingleUseFactory, Splice, SpliceEnd
from ..exits import USAGE, say
from ..listening import Server, address_of, begin_logging, server_endpoint
from .progress import STDERR, FarEnd, NearEnd, ProgressLine, Traffic
from .retrying import RetryingEndpoint
from .target import TargetOptions, parse_target

__all__ = ["ForwardOptions", "Forwarding", "run_forward"]

_log = Logger()


class ForwardOptions(TargetOptions):
    """The options of ``forward``."""

    synopsis = "[options] ENDPOINT URL [TOKEN]"
    longdesc = (
        "Listens on ENDPOINT, one of Twisted's strings; each connection there goes to URL through an "
        "upgrade to TOKEN of its own. With the token websocket, or a ws or wss URL, in binary "
        "messages. While nobody answers there, or what answers is 502, 503 or 504, a connection waits, "
        "and URL is asked again and again, until --timeout is over. On a terminal, standard error "
        "says how much goes through."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch forward tcp:5432:interface=127.0.0.1 https://example.com/db postgres",
        "upgrade-switch forward tcp:5901:interface=127.0.0.1 wss://example.com/vnc",
        "upgrade-switch forward --timeout 300 --ca ca.pem unix:db.sock https://example.com/db postgres",
    )

    def parseArgs(self, *arguments: str) -> None:
        if any(argument.startswith("--") for argument in arguments):
            raise UsageError("options come before ENDPOINT")
        if len(arguments) not in (2, 3):
            raise UsageError("wants three arguments, ENDPOINT, URL and TOKEN")
        self.local, *rest = arguments
        self.target = parse_target(tuple(rest))


def run_forward(options: ForwardOptions) -> int:
    """
    Forward until a signal.

    :return: the exit code.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    traffic = Traffic()
    line = ProgressLine(reactor, traffic, several=True)

    @provider(ILogObserver)
    def make_room(event: LogEvent) -> None:
        line.clear()

    # What is logged comes in the line's place: the first observer is the first to hear of it.
    globalLogPublisher.addObserver(make_room)
    # Who connects here is no stranger, and wants to know why it does not work.
    begin_logging(LogLevel.info)
    try:
        factory = Forwarding(reactor, options, traffic)
        endpoints = [(options.local, server_endpoint(reactor, options.local))]
    except UsageError as error:
        say(f"forward: {error}")
        return USAGE
    if os.isatty(STDERR):
        reactor.callWhenRunning(line.start)
        reactor.addSystemEventTrigger("before", "shutdown", line.stop)
    return Server(reactor, factory, endpoints, address_of).run()


class Forwarding(Factory):
    """Builds the near ends of connections to the target."""

    noisy = False

    def __init__(self, reactor: Any, options: ForwardOptions, traffic: Traffic) -> None:
        """
        :param traffic: counts what goes through.
        :raises UsageError: where what the target needs is not installed.
        """
        self.traffic = traffic
        self._options = options
        self._patient = RetryingEndpoint(
            options.endpoint(reactor), reactor, options["timeout"], self._waits
        )

    def buildProtocol(self, addr: object) -> SpliceEnd:
        near = _Near(self)
        Splice(near, _Far(self.traffic))
        return near

    def connect(self, near: _Near) -> Deferred[Any]:
        """Connect the other end of a splice."""
        return self._patient.connect(SingleUseFactory(near.other), near.is_here)

    def _waits(self, reason: Failure) -> None:
        seconds = self._options["timeout"]
        self.log(reason, f"; a connection waits, for up to {seconds:g} seconds")

    def log(self, reason: Failure, more: str = "") -> None:
        """One line on why there is no connection."""
        why = self._options.why(reason)
        _log.info("{url}: {why}{more}", url=self._options.target.url, why=why.rstrip("."), more=more)


class _Near(NearEnd):
    """
    The local end, which is connected first. It is not read before the other is, so that all that the
    client sends meanwhile, and its half-close, are passed on.
    """

    def __init__(self, factory: Forwarding) -> None:
        super().__init__(factory.traffic)
        self._factory = factory
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.traffic.open += 1
        self.traffic.connections += 1
        self._connecting = self._factory.connect(self)
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def is_here(self) -> bool:
        """
        Whether the client is: what is not read says nothing, the kernel knows. One that has closed is
        still owed what it has sent before; one that has reset the connection is gone.
        """
        if self.lost:
            return False
        asking = poll()
        # The socket's own number: above it there may be TLS.
        asking.register(_twisted.bottom(self.transport).fileno(), 0)
        return not any(event & POLLERR for _, event in asking.poll(0))

    def _connected(self, _: object) -> None:
        self._connecting = None

    def _not_connected(self, reason: Failure) -> None:
        self._connecting = None
        if self.is_here():
            self._factory.log(reason)
        self.splice.abort()

    def half_close_unsupported(self) -> None:
        # A client that has gone looks like one that has only finished; who waits for ever is worse.
        self.other.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.traffic.open -= 1
        super().connectionLost(reason)
        if self._connecting is not None:
            self._connecting.cancel()


class _Far(FarEnd):
    """The server's end. When it has ended, it has closed, as a rule: a client is told, however."""

    def half_close_unsupported(self) -> None:
        self.other.transport.loseConnection()
