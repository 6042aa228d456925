"""
``upgrade-switch forward``: listens, and carries each connection through an upgrade of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from select import POLLERR, poll
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IStreamServerEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import provider

from ... import _twisted
from ...client.pool import UpgradePool
from ...connecting import ConnectingEnd, ServerEnd, SingleUseFactory
from ...fields import printable
from ...protocols._udp import open_udp
from ...sending import remaining
from ...splice import Splice, SpliceEnd
from ..exits import USAGE, explain, say
from ..listening import Server, address_of, begin_logging, server_endpoint
from ..reactor import ICommandReactor, installed_reactor
from .progress import STDERR, FarEnd, NearEnd, ProgressLine, Traffic
from .quiet import Quiet
from .retrying import RetryingEndpoint
from .target import SAFE_METHODS, TargetOptions, parse_target
from .udp import UDPEndpoint, UDPForwarding, UDPTarget, parse_udp_target, udp_template

__all__ = ["ForwardOptions", "Forwarding", "run_forward"]

_log = Logger()

_CONNECT_UDP = "connect-udp"


class ForwardOptions(TargetOptions):
    """The options of ``forward``."""

    eof_default = "wait"

    synopsis = "[options] ENDPOINT URL [TOKEN]"
    longdesc = (
        "Listens on ENDPOINT, a Twisted endpoint string, and carries each connection to URL through an "
        "upgrade to TOKEN of its own. With the token websocket, or a ws or wss URL, the bytes travel "
        "in binary messages. While there is no answer from URL, or its answer is 502, 503 or 504, a "
        "connection waits, and URL is asked again until --timeout is over; with --data, or a --method "
        "that is not GET, HEAD or OPTIONS, only while URL cannot be reached. If standard error is a "
        "terminal, it shows the traffic. With --udp-to, ENDPOINT is udp:PORT, and URL that of a UDP "
        "proxy (RFC 9298)."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch forward tcp:5432:interface=127.0.0.1 https://example.com/db postgres",
        "upgrade-switch forward tcp:5901:interface=127.0.0.1 wss://example.com/vnc",
        "upgrade-switch forward --timeout 300 --ca ca.pem unix:db.sock https://example.com/db postgres",
        "upgrade-switch forward --udp-to 9.9.9.9:53 udp:5353:interface=127.0.0.1 https://example.com",
    )

    udp_to: UDPTarget | None = None

    def opt_udp_to(self, value: str) -> None:
        """
        HOST:PORT: forward datagrams there, from ENDPOINT (udp:5353:interface=127.0.0.1), by the proxy
        for UDP at URL (connect-udp). Each local client has a flow of its own, for as long as something
        moves every two minutes. The URL of a host stands for /.well-known/masque/udp/ there; it may
        have {target_host} and {target_port} in it.
        """
        if self.udp_to is not None:
            raise UsageError("--udp-to is given twice")
        self.udp_to = parse_udp_target(value)

    def parseArgs(self, *arguments: str) -> None:
        arguments = self._without_udp_to(arguments)
        if any(argument.startswith("--") for argument in arguments):
            raise UsageError("options must come before ENDPOINT")
        if len(arguments) not in (2, 3):
            raise UsageError("three arguments are needed: ENDPOINT, URL and TOKEN")
        self.local, *rest = arguments
        is_udp = self.local.partition(":")[0] == "udp"
        if is_udp != (self.udp_to is not None):
            raise UsageError("udp:PORT and --udp-to HOST:PORT belong together")
        if self.udp_to is None:
            self.target = parse_target(tuple(rest))
            return
        if [token.lower() for token in rest[1:]] not in ([], [_CONNECT_UDP]):
            raise UsageError(f"with --udp-to, the token is {_CONNECT_UDP}, not {rest[1]!r}")
        url = udp_template(rest[0], self.udp_to)
        self.target = parse_target((url, _CONNECT_UDP))

    def _without_udp_to(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """The arguments; ``--udp-to`` may also stand among or behind them."""
        for at, word in enumerate(arguments):
            name, has_value, value = word.partition("=")
            if name == "--udp-to":
                behind = arguments[at + 1 :]
                if not has_value and not behind:
                    raise UsageError("--udp-to needs HOST:PORT")
                self.opt_udp_to(value if has_value else behind[0])
                return (*arguments[:at], *(behind if has_value else behind[1:]))
        return arguments

    def postOptions(self) -> None:
        super().postOptions()
        credentials = self.headers.getRawHeaders(b"authorization")
        if self.udp_to is not None and credentials:
            # A proxy asks for the former, as a rule (RFC 9110 §11.7.1), and an origin for the latter.
            self.headers.setRawHeaders(b"proxy-authorization", credentials)

    def open_udp(self, reactor: ICommandReactor) -> Callable[[DatagramProtocol], Deferred[Any]]:
        """What opens flows to the target as these options say."""
        assert self.udp_to is not None
        return partial(
            open_udp,
            UpgradePool(reactor),
            self.target.url,
            *self.udp_to,
            headers=self.headers,
            agent=self.agent(reactor),
            timeout=self["timeout"],
        )


def run_forward(options: ForwardOptions) -> int:
    """
    Forward connections until a signal comes.

    :return: the exit code.
    """
    reactor = installed_reactor()
    traffic = Traffic()
    line = ProgressLine(reactor, traffic, several=True)

    @provider(ILogObserver)
    def make_room(event: LogEvent) -> None:
        line.clear()

    # Clear the line before something is logged: observers are called in the order of their addition.
    globalLogPublisher.addObserver(make_room)
    # The clients are not strangers here, and their users want to know why something does not work.
    begin_logging(LogLevel.info)
    try:
        factory = Forwarding(reactor, options, traffic)
        endpoints = [(options.local, factory.local_endpoint(reactor))]
    except UsageError as error:
        say(f"forward: {error}")
        return USAGE
    reactor.addSystemEventTrigger("before", "shutdown", factory.shut_down)
    if os.isatty(STDERR):
        reactor.callWhenRunning(line.start)
        reactor.addSystemEventTrigger("before", "shutdown", line.stop)
    return Server(reactor, factory, endpoints, address_of).run()


class Forwarding(Factory):
    """Builds the local ends of connections to the target."""

    noisy = False

    def __init__(self, reactor: ICommandReactor, options: ForwardOptions, traffic: Traffic) -> None:
        """
        :param traffic: counts the connections and their bytes.
        :raises UsageError: if an extra that the target needs is not installed.
        """
        self.traffic = traffic
        self.clock = reactor
        self._options = options
        self._is_shutting_down = False
        self._endpoint = RetryingEndpoint(
            options.endpoint(reactor),
            reactor,
            options["timeout"],
            self._waits,
            is_safe=options.method in SAFE_METHODS,
        )

    def buildProtocol(self, addr: IAddress | None) -> SpliceEnd:
        near = _Local(self)
        forgive = bool(self._options["forgive-truncation"])
        Splice(near, _Far(self), forgive_truncation=forgive, reactor=self.clock)
        return near

    def local_endpoint(self, reactor: ICommandReactor) -> IStreamServerEndpoint:
        """
        Where to listen, as the options say.

        :raises UsageError: if that is wrong.
        """
        options = self._options
        if options.udp_to is None:
            return server_endpoint(reactor, options.local)
        protocol = UDPForwarding(reactor, self.traffic, options.open_udp(reactor), self.log)
        return UDPEndpoint(reactor, options.local, protocol)

    def connect(self, near: _Local) -> Deferred[IProtocol]:
        """Connect the other end of a splice."""
        return self._endpoint.connect(SingleUseFactory(near.other), near.is_open)

    @property
    def closes_at_end(self) -> bool:
        return self._options.closes_at_end

    def _waits(self, reason: Failure) -> None:
        seconds = self._options["timeout"]
        self.log(reason, f"; a connection waits, for up to {seconds:g} seconds")

    def log(self, reason: Failure, more: str = "") -> None:
        """One line on why there is no connection."""
        why = self._options.why(reason)
        _log.info("{url}: {why}{more}", url=self._options.target.url, why=why.rstrip("."), more=more)

    def shut_down(self) -> None:
        """A signal ends the command, and with it all connections: whoever sent it knows why."""
        self._is_shutting_down = True

    def cut_off(self, whose: str, reason: Failure) -> None:
        """One line on a connection that did not end cleanly."""
        if self._is_shutting_down:
            return
        # Twisted's words are sentences.
        why = printable(explain(reason)).rstrip(".")
        url = self._options.target.url
        _log.info("{url}: {whose} connection was cut off: {why}", url=url, whose=whose, why=why)


class _Local(ConnectingEnd, NearEnd):
    """The local end, whose client has connected first."""

    def __init__(self, factory: Forwarding) -> None:
        super().__init__(factory.traffic)
        self._factory = factory
        self._quiet: Quiet | None = None

    def connectionMade(self) -> None:
        self.traffic.open += 1
        self.traffic.connections += 1
        super().connectionMade()

    def connect(self) -> Deferred[Any]:
        return self._factory.connect(self)

    def half_close_unsupported(self) -> None:
        # A client that has gone looks like one that has only finished sending; so by default, its
        # connection stays open, for what the server may still have to say.
        if self._factory.closes_at_end:
            other = self.other
            self._quiet = Quiet(self._factory.clock, self._moved, other.transport.loseConnection)

    def _moved(self) -> object:
        left = remaining(self.other.transport)
        # Both sides' count, since a splice's ends count what they receive.
        return object() if left else (self.bytes_in, self.other.bytes_in)

    def not_connected(self, reason: Failure) -> None:
        if self.is_open():
            self._factory.log(reason)

    def is_open(self) -> bool:
        """
        Whether the client's connection is still open. It is not read meanwhile, so that only the kernel
        knows. A client that has closed it is still owed delivery of what it sent before; one that has
        reset it is gone.
        """
        if self.lost:
            return False
        asking = poll()
        # The socket's own number: the transport may be TLS on top of it.
        asking.register(_twisted.bottom(self.transport).fileno(), 0)
        return not any(event & POLLERR for _, event in asking.poll(0))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.traffic.open -= 1
        if self._quiet is not None:
            self._quiet.stop()
        if not self.other.lost and not self.is_clean_end(reason):
            self._factory.cut_off("the client's", reason)
        super().connectionLost(reason)


class _Far(ServerEnd, FarEnd):
    """The server's end."""

    def __init__(self, factory: Forwarding) -> None:
        super().__init__(factory.traffic)
        self._factory = factory

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Where the client's end was lost first, its end has been told.
        if not self.other.lost and not self.is_clean_end(reason):
            self._factory.cut_off("the server's", reason)
        super().connectionLost(reason)
