"""
What the subcommands that listen have in common: ports, the log, and how a signal ends them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    globalLogBeginner,
    jsonFileLogObserver,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import provider

from .. import _twisted
from ..observe.log import SwitchLog
from .exits import FAILED, SUCCESS, explain, say
from .reactor import ICommandReactor

__all__ = [
    "LOG_FORMATS",
    "Server",
    "address_of",
    "begin_logging",
    "is_inherited",
    "server_endpoint",
    "url_of",
]

LOG_FORMATS = ("text", "json", "none")

_log = Logger()

_PACKAGE = __name__.partition(".")[0]

# Twisted takes systemd's sockets only if each has a name. Socket units give them their own, but
# systemd-socket-activate gives none of itself.
_NO_SOCKET = (
    "systemd has passed no socket for {!r}: start the command by a socket unit, or by "
    "systemd-socket-activate with --fdname=NAME"
)


def begin_logging(level: object, log_format: str = "text") -> None:
    """
    Log to standard error: warnings (of tunnels that cannot connect, for example), switches, how the
    servers behind a proxy do, and this package's other messages from a level on.

    :param level: that level, of ``LogLevel``. Messages about what strangers do are below ``warn``.
    :param log_format: one of :data:`LOG_FORMATS`.
    """
    quiet = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    quiet.setLogLevelForNamespace(_PACKAGE, level)
    # Each of these is logged once in a while at most.
    for namespace in (SwitchLog.__module__, f"{_PACKAGE}.proxy"):
        quiet.setLogLevelForNamespace(namespace, LogLevel.info)
    # autobahn warns about what strangers do.
    quiet.setLogLevelForNamespace("autobahn", LogLevel.error)
    observers = []
    if log_format != "none" and sys.stderr is not None:
        write = _json_observer if log_format == "json" else textFileLogObserver
        observers.append(FilteringLogObserver(write(sys.stderr), [quiet]))
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)


# Fields that are Python objects.
_OBJECTS = ("log_logger", "log_source")


def _json_observer(file: IO[str]) -> ILogObserver:
    """Writes Twisted's JSON, one line for each event, with the event's text as ``message``."""
    write = jsonFileLogObserver(file, recordSeparator="")

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        message = eventAsText(event, includeTimestamp=False, includeSystem=False)
        fields = {name: value for name, value in event.items() if name not in _OBJECTS}
        write({**fields, "message": message})

    observer: ILogObserver = observe
    return observer


def server_endpoint(
    reactor: ICommandReactor,
    description: str,
    wanted: str = "a server endpoint string (such as tcp:8080)",
) -> IStreamServerEndpoint:
    """
    The endpoint that a string such as ``tcp:8080`` describes.

    :param wanted: what users may give, for the message.
    :raises UsageError: if the string is wrong, or names a socket that systemd has not passed on.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Parsers raise ValueError, TypeError, KeyError, OSError ...
        if isinstance(error, LookupError) and description.startswith("systemd:"):
            raise UsageError(_NO_SOCKET.format(description)) from None
        raise UsageError(f"not {wanted}: {description!r} ({error})") from None
    return endpoint


def address_of(port: IListeningPort) -> str:
    """Where a port is, written so that it can be pasted: ``127.0.0.1:80``, ``[::1]:80``, a path."""
    address = port.getHost()
    if not isinstance(address, IPv4Address | IPv6Address):
        return os.fsdecode(getattr(address, "name", str(address)))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def url_of(port: IListeningPort) -> str:
    """The URL of a TCP port; the path of any other."""
    if not isinstance(port.getHost(), IPv4Address | IPv6Address):
        return address_of(port)
    scheme = "https" if "TLS" in str(port) else "http"
    return f"{scheme}://{address_of(port)}/"


_INHERITED = re.compile(r"(^|:)(systemd|fd):")


def is_inherited(description: str) -> bool:
    """Whether an endpoint string is for a socket that another process has made."""
    return _INHERITED.search(description) is not None


def _nothing() -> None:
    """Nobody wants to know."""


class Server(Service):
    """
    A service that listens on several ports with one factory; it runs until a signal comes.

    :ivar ports: the ports, each with its endpoint string.
    """

    def __init__(
        self,
        reactor: ICommandReactor,
        factory: IProtocolFactory,
        endpoints: Sequence[tuple[str, IStreamServerEndpoint]],
        where: Callable[[IListeningPort], str],
        drain: Callable[[], Deferred[None]] | None = None,
        when_listening: Callable[[], None] = _nothing,
        when_stopping: Callable[[], None] = _nothing,
        when_port_listens: Callable[[IListeningPort], None] | None = None,
    ) -> None:
        """
        :param endpoints: where to listen: endpoint strings, and the endpoints that they describe.
        :param where: writes where a port is, for the user.
        :param drain: called when the ports are closed; the service has stopped when its Deferred fires.
        :param when_listening: called when all ports are open.
        :param when_stopping: called when the service begins to stop.
        :param when_port_listens: called with each port when the user has been told of it.
        """
        self._reactor = reactor
        self._factory = factory
        self._endpoints = endpoints
        self._where = where
        self._drain = drain
        self._when_port_listens = when_port_listens
        self._when_listening = when_listening
        self._when_stopping = when_stopping
        self.ports: list[tuple[str, IListeningPort]] = []
        self._code = SUCCESS

    def run(self) -> int:
        """
        Listen, and run the reactor.

        :return: the exit code.
        """
        self._reactor.callWhenRunning(self.startService)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.run()
        return self._code

    @property
    def exit_code(self) -> int:
        """How the process is to end, as far as is known by now."""
        return self._code

    def _stop(self) -> Deferred[None]:
        # A second SIGINT ends the process at once, for a user who does not want to wait. A second
        # SIGTERM changes nothing, since timeout(1) sends two.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self.stopService()

    def privilegedStartService(self) -> None:
        """
        Listen while twistd may still do so on ports below 1024: afterwards it is no longer root.
        """
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """
        :raises SystemExit: if it cannot listen, and the reactor does not run yet.
        """
        super().startService()
        if not self.ports:
            self._listen()

    def _listen(self) -> None:
        for description, endpoint in self._endpoints:
            listening: Deferred[IListeningPort] = maybeDeferred(endpoint.listen, self._factory)
            listening.addCallbacks(
                self._listens, self._cannot_listen, (description,), errbackArgs=(description,)
            )
        if self._code != SUCCESS and not self._reactor.running:
            raise SystemExit(self._code)

    def _listens(self, port: IListeningPort, description: str) -> None:
        _twisted.listen_at_once(port)
        self.ports.append((description, port))
        self.announce(port)
        if len(self.ports) == len(self._endpoints):
            self._when_listening()

    def announce(self, port: IListeningPort) -> None:
        """Tell the user where a port is."""
        say(f"listening on {self._where(port)}")
        if self._when_port_listens is not None:
            self._when_port_listens(port)

    def is_others(self, description: str) -> bool:
        """
        Whether the socket of an endpoint string belongs to another process, which goes on using it.
        """
        return is_inherited(description)

    def _cannot_listen(self, reason: Failure, description: str) -> None:
        say(f"cannot listen on {description}: {explain(reason)}")
        is_first, self._code = self._code == SUCCESS, FAILED
        if self._reactor.running and is_first:
            self._reactor.stop()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._when_stopping()
        return self.close_ports().addCallback(lambda _: None if self._drain is None else self._drain())

    def close_ports(self) -> Deferred[None]:
        """
        Listen no more.

        :return: fires when all ports are closed.
        """
        ports, self.ports = self.ports, []
        closed = gatherResults([self._close(*port) for port in ports])
        return closed.addCallback(lambda _: None)

    def _close(self, description: str, port: IListeningPort) -> Deferred[object]:
        if self.is_others(description) and isinstance(port.getHost(), UNIXAddress):
            # Twisted would remove the UNIX socket's path, which is systemd's: a client that connects
            # there waits for the next server. The socket is closed when the process ends.
            reading: Any = port
            reading.stopReading()
            self._factory.doStop()
            return succeed(None)
        # This fails if a UNIX socket's path has been removed; the port is closed all the same.
        closed: Deferred[object] = maybeDeferred(port.stopListening)
        where = self._where(port)
        return closed.addErrback(
            lambda reason: _log.warn("cannot close {port}: {why}", port=where, why=explain(reason))
        )
