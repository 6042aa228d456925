"""
``upgrade-switch connect``: standard input and output become a switched connection.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from ...errors import NotSwitched
from ...splice import SingleUseFactory, Splice
from ..exits import FAILED, REFUSED, SUCCESS, explain, say
from .progress import FarEnd, NearEnd, ProgressLine, Traffic, has_progress
from .target import TargetOptions, parse_target

__all__ = ["ConnectOptions", "run_connect"]


class ConnectOptions(TargetOptions):
    """The options of ``connect``."""

    synopsis = "[options] URL [TOKEN]"
    longdesc = (
        "Asks URL for an upgrade to TOKEN; then standard input and output are the connection. With "
        "the token websocket, or a ws or wss URL, they go in binary messages. "
        "The end of standard input is passed on as a half-close. (TLS and WebSockets have none: there "
        "the server is not told, and one that waits for the end waits for ever.) The command ends when "
        "the server has closed and all that it sent is written. On a terminal, standard "
        "error says how far a long transfer is, where standard input or output is a file and neither "
        "is the terminal."
    )
    examples: tuple[str, ...] = (
        "ssh -o ProxyCommand='upgrade-switch connect https://example.com/ssh ssh' user@example.com",
        "echo hello | upgrade-switch connect --user name:password http://example.com/echo echo",
        "upgrade-switch connect --header 'X-Job: 7' http://example.com/load load < data.csv > log",
    )
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["progress", None, "Say on the terminal how far it is, wherever input and output go."],
    ]

    def parseArgs(self, *arguments: str) -> None:
        self.target = parse_target(arguments)


def run_connect(options: ConnectOptions) -> int:
    """
    Connect, and carry bytes until the server closes.

    :return: the exit code.
    """
    # Asked of Python, who looked when it started: by now another file may have the number.
    if sys.stdin is None or sys.stdout is None:
        say("connect: standard input and output must be open")
        return FAILED
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    command = _Connect(reactor, options)
    blocking = [(fd, os.get_blocking(fd)) for fd in (0, 1)]
    reactor.callWhenRunning(command.start)
    try:
        reactor.run()
    finally:
        # They are the terminal's, or another process's, too: Twisted has made them non-blocking.
        for fd, was_blocking in blocking:
            os.set_blocking(fd, was_blocking)
    return command.code


class _Connect:
    """One run of the command."""

    def __init__(self, reactor: Any, options: ConnectOptions) -> None:
        self._reactor = reactor
        self._options = options
        self._traffic = Traffic()
        self._line = ProgressLine(reactor, self._traffic)
        self.code = FAILED

    def start(self) -> None:
        near, far = _Remote(self._traffic), _Local(self._traffic)
        joined = Splice(near, far)
        done: Deferred[Any] = maybeDeferred(self._connect, near)
        done.addCallback(lambda _: self._connected(near, far, joined))
        done.addErrback(self._failed).addBoth(self._stop)

    def _connect(self, near: _Remote) -> Deferred[Any]:
        return self._options.endpoint(self._reactor).connect(SingleUseFactory(near))

    def _connected(self, near: _Remote, far: _Local, joined: Splice) -> Deferred[None]:
        StandardIO(far, reactor=self._reactor)
        self._reactor.addSystemEventTrigger("before", "shutdown", near.interrupt)
        if has_progress(self._options["progress"]):
            self._line.start()
            self._reactor.addSystemEventTrigger("before", "shutdown", self._line.stop)
        return joined.done.addCallback(lambda _: self._ended(near, far))

    def _ended(self, remote: _Remote, local: _Local) -> None:
        self._line.stop()
        if remote.interrupted:
            # By a signal: nothing that who sent it does not know.
            return
        if local.reason is not None:
            say("standard output could not be written")
        elif remote.reason is not None:
            self._say(f"the connection was cut off: {explain(remote.reason)}")
        else:
            self.code = SUCCESS

    def _failed(self, reason: Failure) -> None:
        if reason.check(NotSwitched):
            self.code = REFUSED
        self._say(self._options.why(reason))

    def _say(self, message: str) -> None:
        say(f"{self._options.target.url}: {message}")

    def _stop(self, _: object) -> None:
        if self._reactor.running:
            self._reactor.stop()


class _Remote(FarEnd):
    """
    The server's end. When it has said its last word, the command is over, whatever standard input
    may still bring.

    :ivar reason: why the connection was cut off; None where it ended as it should.
    """

    reason: Failure | None = None
    interrupted = False

    def interrupt(self) -> None:
        """A signal ends the command: what is not here yet is lost, and nobody need be told."""
        if not self.lost:
            self.interrupted = self._ended = True

    def readConnectionLost(self) -> None:
        self._ended = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        expected = self._ended or ISSLTransport.providedBy(self.transport) or self.other.lost
        if not expected and not reason.check(ConnectionDone):
            self.reason = reason
        super().connectionLost(reason)


class _Local(NearEnd):
    """
    Standard input and output.

    :ivar reason: why what the server sent could not be written; None where it was, and where who
        read it has left.
    """

    reason: Failure | None = None

    def writeConnectionLost(self) -> None:
        # Nobody takes what the server sends: there is no sense in going on.
        if not stat.S_ISFIFO(os.fstat(1).st_mode):
            self.reason = Failure(ConnectionLost())
        self.connectionLost(Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.lost and not reason.check(ConnectionDone, ConnectionAborted):
            self.reason = reason
        super().connectionLost(reason)
