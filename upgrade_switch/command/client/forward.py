"""
``upgrade-switch forward``: listens, and carries each connection through an upgrade of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from select import POLLERR, poll

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import DatagramProtocol, Factory, connectionDone
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import implementer, provider

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
from .local import LOCAL_WANTED, local_endpoint_string, warn_if_open
from .progress import STDERR, FarEnd, NearEnd, ProgressLine, Traffic
from .quiet import Quiet
from .retrying import RetryingEndpoint
from .tables import command_lines, with_defaults
from .target import SAFE_METHODS, TargetOptions, parse_target
from .udp import UDPEndpoint, UDPForwarding, UDPTarget, parse_udp_target, udp_template

__all__ = ["ForwardOptions", "Forwarding", "run_forward"]

_log = Logger()

_CONNECT_UDP = "connect-udp"


class ForwardOptions(TargetOptions):
    """The options of ``forward``."""

    eof_default = "wait"
    reads_input = False

    synopsis = "[options] ENDPOINT URL [TOKEN] | --config FILE"
    longdesc = (
        "Listens on ENDPOINT, and carries each connection to URL through a separate upgrade to TOKEN. "
        "ENDPOINT is a port, which is then open to this machine only, a host and a port "
        "(127.0.0.1:5432), or a Twisted endpoint string. With the token websocket, or a ws or wss URL, "
        "the bytes travel in binary messages. As long as URL does not answer, or answers 502, 503 or "
        "504, a connection waits and tries again, until --timeout is over; with --data, or a --method "
        "other than GET, HEAD or OPTIONS, only as long as URL cannot be reached. If standard error is "
        "a terminal, it shows the traffic. With --udp-to, ENDPOINT is a UDP port (5353, udp:5353), and "
        "URL that of a UDP proxy (RFC 9298)."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch forward 5432 https://example.com/db postgres",
        "upgrade-switch forward 127.0.0.1:5901 wss://example.com/vnc --timeout 300",
        "upgrade-switch forward --ca ca.pem unix:db.sock https://example.com/db postgres",
        "upgrade-switch forward --udp-to 9.9.9.9:53 5353 https://example.com",
    )

    udp_to: UDPTarget | None = None
    config: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.forwards: Sequence[ForwardOptions] = [self]

    def opt_udp_to(self, value: str) -> None:
        """
        HOST:PORT: forward datagrams from ENDPOINT (5353, udp:5353:interface=::1) to HOST:PORT, by way
        of the UDP proxy at URL (connect-udp). Each local client has a separate flow, which ends after
        two minutes without a datagram. A URL without a path stands for /.well-known/masque/udp/ on that
        host; a URL may contain {target_host} and {target_port}.
        """
        if self.udp_to is not None:
            raise UsageError("--udp-to is given twice")
        self.udp_to = parse_udp_target(value)

    def opt_config(self, file: str) -> None:
        """
        FILE: listen on several ports, as a TOML file says: a table [[forward]] for each, with listen,
        url, token, and options by their long names (header = ["X-A: 1"], insecure = true). The command
        line adds to each table, and overrides it; but a user in a table stays.
        """
        self.config = file

    def parseArgs(self, *arguments: str) -> None:
        if self.config is not None:
            if arguments:
                raise UsageError("with --config, the file has ENDPOINT, URL and TOKEN")
            return
        if len(arguments) not in (2, 3):
            raise UsageError("three arguments are needed: ENDPOINT, URL and TOKEN")
        local, *rest = arguments
        self.local = local_endpoint_string(local, self.udp_to is not None)
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

    def postOptions(self) -> None:
        if self.config is not None:
            try:
                self.forwards = self._read(self.config)
            except UsageError as error:
                raise UsageError(f"--config {self.config}: {error}") from None
            return
        super().postOptions()
        credentials = self.headers.getRawHeaders(b"authorization")
        if self.udp_to is not None and credentials:
            # A proxy asks for the former, as a rule (RFC 9110 §11.7.1), and an origin for the latter.
            self.headers.setRawHeaders(b"proxy-authorization", credentials)

    def _read(self, config: str) -> list[ForwardOptions]:
        """The options of each table."""
        names = [(name.rstrip("="), name.endswith("=")) for name in self.longOpt]
        flags = [name for name, has_value in names if not has_value]
        lines = command_lines(config, flags, [name for name, has_value in names if has_value])
        ours = [word for word in self.given if not word.startswith("--config=")]
        forwards = []
        for number, line in enumerate(lines, 1):
            options = ForwardOptions()
            try:
                options.parseOptions(with_defaults(line, ours))
            except UsageError as error:
                raise UsageError(f"[[forward]] {number}: {error}") from None
            forwards.append(options)
        return forwards

    def open_udp(self, reactor: ICommandReactor) -> Callable[[DatagramProtocol], Deferred[object]]:
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
    endpoints: list[tuple[str, IStreamServerEndpoint]] = []
    try:
        for one in options.forwards:
            factory = Forwarding(reactor, one, traffic)
            endpoints.append((one.local, _Listening(factory.local_endpoint(reactor), factory)))
            reactor.addSystemEventTrigger("before", "shutdown", factory.shut_down)
    except UsageError as error:
        say(f"forward: {error}")
        return USAGE
    if os.isatty(STDERR):
        reactor.callWhenRunning(line.start)
        reactor.addSystemEventTrigger("before", "shutdown", line.stop)
    return Server(reactor, Factory(), endpoints, address_of, when_port_listens=warn_if_open).run()


@implementer(IStreamServerEndpoint)
class _Listening:
    """An endpoint that has its factory already, since each of several has its own."""

    def __init__(self, endpoint: IStreamServerEndpoint, factory: Forwarding) -> None:
        self._endpoint = endpoint
        self._factory = factory

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._factory)
        return listening


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
            return server_endpoint(_twisted.adopting(reactor), options.local, LOCAL_WANTED)
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

    def connect(self) -> Deferred[IProtocol]:
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
