"""
What the subcommands that listen have in common: ports, the log, and the end by a signal.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
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

from ..observe.log import SwitchLog
from ..protocols._tunnel import tunnel
from .exits import FAILED, SUCCESS, explain, say

__all__ = ["LOG_FORMATS", "Server", "address_of", "begin_logging", "server_endpoint", "url_of"]


LOG_FORMATS = ("text", "json", "none")

_log = Logger()

_PACKAGE = __name__.partition(".")[0]


def begin_logging(level: Any, log_format: str = "text") -> None:
    """
    Log to standard error: warnings, what this package says, its switches, and what keeps a tunnel from
    its far end.

    :param level: the lowest ``LogLevel`` of what this package says; what strangers do is below
        ``warn``.
    :param log_format: one of :data:`LOG_FORMATS`.
    """
    quiet = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    quiet.setLogLevelForNamespace(_PACKAGE, level)
    quiet.setLogLevelForNamespace(SwitchLog.__module__, LogLevel.info)
    # A tunnel whose far end is down.
    quiet.setLogLevelForNamespace(tunnel.__module__, LogLevel.info)
    # autobahn warns of what strangers do.
    quiet.setLogLevelForNamespace("autobahn", LogLevel.error)
    observers = []
    if log_format != "none" and sys.stderr is not None:
        write = _json_observer if log_format == "json" else textFileLogObserver
        observers.append(FilteringLogObserver(write(sys.stderr), [quiet]))
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)


# What is Python's alone.
_OBJECTS = ("log_logger", "log_source")


def _json_observer(file: Any) -> ILogObserver:
    """Twisted's JSON, a line for each event, with the text of the event besides."""
    write = jsonFileLogObserver(file, recordSeparator="")

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        message = eventAsText(event, includeTimestamp=False, includeSystem=False)
        told = {name: value for name, value in event.items() if name not in _OBJECTS}
        write({**told, "message": message})

    observer: ILogObserver = observe
    return observer


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    :raises UsageError: for what is no server endpoint string.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Every parser raises what it likes: ValueError, TypeError, KeyError, OSError ...
        raise UsageError(f"not a server endpoint, as tcp:8080 is: {description!r} ({error})") from None
    return endpoint


def address_of(port: IListeningPort) -> str:
    """An address that can be pasted."""
    address: Any = port.getHost()
    if not hasattr(address, "port"):
        return os.fsdecode(getattr(address, "name", str(address)))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def url_of(port: IListeningPort) -> str:
    """A URL where it is TCP."""
    if not hasattr(port.getHost(), "port"):
        return address_of(port)
    scheme = "https" if "TLS" in str(port) else "http"
    return f"{scheme}://{address_of(port)}/"


# Endpoints for sockets that others have made.
_GIVEN = re.compile(r"(^|:)(systemd|fd):")


class Server(Service):
    """A factory on its ports; a service, which a command runs until a signal comes."""

    def __init__(
        self,
        reactor: Any,
        factory: IProtocolFactory,
        endpoints: Sequence[tuple[str, IStreamServerEndpoint]],
        where: Callable[[IListeningPort], str],
        drain: Callable[[], Deferred[None]] | None = None,
    ) -> None:
        """
        :param endpoints: where to listen, each with how it was written.
        :param where: says where a port is.
        :param drain: what is still to be done when the ports are closed.
        """
        self._reactor = reactor
        self._factory = factory
        self._endpoints = endpoints
        self._where = where
        self._drain = drain
        self._ports: list[tuple[str, IListeningPort]] = []
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

    def _stop(self) -> Deferred[Any]:
        # For somebody who does not want to wait, SIGINT again ends it at once. SIGTERM again changes
        # nothing: timeout(1) sends it twice.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self.stopService()

    def privilegedStartService(self) -> None:
        """
        Listen, while twistd may still listen on ports below 1024; it gives root up after that.
        """
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """
        :raises SystemExit: where it cannot listen, and the reactor does not run yet.
        """
        super().startService()
        if not self._ports:
            self._listen()

    def _listen(self) -> None:
        for description, endpoint in self._endpoints:
            listening: Deferred[Any] = maybeDeferred(endpoint.listen, self._factory)
            listening.addCallbacks(
                self._listens, self._cannot_listen, (description,), errbackArgs=(description,)
            )
        if self._code != SUCCESS and not self._reactor.running:
            raise SystemExit(self._code)

    def _listens(self, port: IListeningPort, description: str) -> None:
        self._ports.append((description, port))
        say(f"listening on {self._where(port)}")

    def _cannot_listen(self, reason: Failure, description: str) -> None:
        say(f"cannot listen on {description}: {explain(reason)}")
        is_first, self._code = self._code == SUCCESS, FAILED
        if self._reactor.running and is_first:
            self._reactor.stop()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        closed: Deferred[Any] = gatherResults([self._close(*port) for port in self._ports])
        return closed.addCallback(lambda _: None if self._drain is None else self._drain())

    def _close(self, description: str, port: Any) -> Deferred[Any]:
        if _GIVEN.search(description) and not hasattr(port.getHost(), "port"):
            # Twisted would remove the UNIX socket's path, which is systemd's: who connects there waits
            # for the next server. The socket goes with the process.
            port.stopReading()
            self._factory.doStop()
            return succeed(None)
        # A UNIX socket's path may be gone: all the same, nobody is taken any more.
        closed: Deferred[Any] = maybeDeferred(port.stopListening)
        where = self._where(port)
        return closed.addErrback(
            lambda reason: _log.warn("cannot close {port}: {why}", port=where, why=explain(reason))
        )
