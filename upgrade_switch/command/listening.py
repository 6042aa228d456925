"""
What the subcommands that listen have in common: ports, the log, and the end by a signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from .exits import FAILED, SUCCESS, explain, say

__all__ = ["Server", "address_of", "begin_logging", "server_endpoint", "url_of"]


def begin_logging(level: Any) -> None:
    """
    Log to standard error: warnings, and what this package says.

    :param level: the lowest ``LogLevel`` of that; what strangers do is below ``warn``.
    """
    quiet = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    quiet.setLogLevelForNamespace(__name__.partition(".")[0], level)
    # autobahn warns of what strangers do.
    quiet.setLogLevelForNamespace("autobahn", LogLevel.error)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [quiet])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    :raises UsageError: for what is no server endpoint string.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Every parser raises what it likes: ValueError, TypeError, KeyError, OSError ...
        raise UsageError(f"not a server endpoint: {description!r} ({error})") from None
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


class Server:
    """A factory on its ports, until a signal comes."""

    def __init__(
        self,
        reactor: Any,
        factory: IProtocolFactory,
        where: Callable[[IListeningPort], str],
        drain: Callable[[], Deferred[None]] | None = None,
    ) -> None:
        """
        :param where: says where a port is.
        :param drain: what is still to be done when the ports are closed.
        """
        self._reactor = reactor
        self._factory = factory
        self._where = where
        self._drain = drain
        self._ports: list[IListeningPort] = []
        self._code = SUCCESS

    def run(self, endpoints: Sequence[tuple[str, IStreamServerEndpoint]]) -> int:
        """
        Listen, and run the reactor.

        :return: the exit code.
        """
        self._reactor.callWhenRunning(self._listen, endpoints)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.run()
        return self._code

    def _listen(self, endpoints: Sequence[tuple[str, IStreamServerEndpoint]]) -> None:
        for description, endpoint in endpoints:
            listening: Deferred[Any] = maybeDeferred(endpoint.listen, self._factory)
            listening.addCallbacks(self._listens, self._cannot_listen, errbackArgs=(description,))

    def _listens(self, port: IListeningPort) -> None:
        self._ports.append(port)
        say(f"listening on {self._where(port)}")

    def _cannot_listen(self, reason: Failure, description: str) -> None:
        say(f"cannot listen on {description}: {explain(reason)}")
        self._code = FAILED
        if self._reactor.running:
            self._reactor.stop()

    def _stop(self) -> Deferred[Any]:
        closed: Deferred[Any] = gatherResults([maybeDeferred(p.stopListening) for p in self._ports])
        return closed.addCallback(lambda _: None if self._drain is None else self._drain())
