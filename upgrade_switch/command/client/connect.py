"""
``upgrade-switch connect``: joins standard input and output to a switched connection.
"""

from __future__ import annotations

import os
import stat
import sys

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, ISSLTransport, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from ...errors import NotSwitched
from ...splice import SingleUseFactory, Splice
from ..exits import FAILED, REFUSED, SUCCESS, USAGE, explain, say
from ..reactor import ICommandReactor, installed_reactor
from .progress import STDERR, FarEnd, NearEnd, ProgressLine, Traffic, has_progress
from .refusal import text_of
from .target import TargetOptions, parse_target

__all__ = ["ConnectOptions", "run_connect"]


class ConnectOptions(TargetOptions):
    """The options of ``connect``."""

    synopsis = "[options] URL [TOKEN]"
    longdesc = (
        "Asks URL for an upgrade to TOKEN; then standard input goes to the server, and what the server "
        "sends goes to standard output. With the token websocket, or a ws or wss URL, the bytes travel "
        "in binary messages. The end of standard input is passed on as a half-close. (TLS and "
        "WebSockets have none: the server does not notice the end, and may wait for it for ever.) The "
        "command ends when the server has closed the connection and all that it sent is written. If "
        "standard error is a terminal, it says when the connection has switched, and shows the "
        "progress of a transfer from or to a file."
    )
    examples: tuple[str, ...] = (
        "ssh -o ProxyCommand='upgrade-switch connect https://example.com/ssh ssh' user@example.com",
        "echo hello | upgrade-switch connect --user name:password http://example.com/echo echo",
        "upgrade-switch connect --header 'X-Job: 7' http://example.com/load load < data.csv > log",
    )
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["progress", None, "Show progress on the terminal, wherever input and output go."],
    ]

    def parseArgs(self, *arguments: str) -> None:
        self.target = parse_target(arguments)


def run_connect(options: ConnectOptions) -> int:
    """
    Connect, and carry bytes until the server closes.

    :return: the exit code.
    """
    # Python looked when it started: by now another file may have the number.
    if sys.stdin is None or sys.stdout is None:
        say("connect: standard input and output must be open")
        return FAILED
    reactor = installed_reactor()
    try:
        command = _Connect(reactor, options)
    except UsageError as error:
        say(f"connect: {error}")
        return USAGE
    blocking = [(fd, os.get_blocking(fd)) for fd in (0, 1)]
    reactor.callWhenRunning(command.start)
    try:
        reactor.run()
    finally:
        # Twisted has made them non-blocking, but a terminal or another process may use them too.
        for fd, was_blocking in blocking:
            os.set_blocking(fd, was_blocking)
    return command.code


class _Connect:
    """One run of the command."""

    def __init__(self, reactor: ICommandReactor, options: ConnectOptions) -> None:
        """
        :raises UsageError: if an extra that the target needs is not installed.
        """
        self._reactor = reactor
        self._endpoint: IStreamClientEndpoint = options.endpoint(reactor)
        self._options = options
        self._traffic = Traffic()
        self._line = ProgressLine(reactor, self._traffic)
        self.code = FAILED

    def start(self) -> None:
        near, far = _Remote(self._traffic), _Local(self._traffic)
        joined = Splice(near, far)
        connecting: Deferred[IProtocol] = maybeDeferred(self._endpoint.connect, SingleUseFactory(near))
        done = connecting.addCallback(lambda _: self._connected(near, far, joined))
        done.addErrback(self._failed).addBoth(self._stop)

    def _connected(self, near: _Remote, far: _Local, joined: Splice) -> Deferred[None]:
        if os.isatty(STDERR):
            self._say("connected")
        StandardIO(far, reactor=self._reactor)
        self._reactor.addSystemEventTrigger("before", "shutdown", near.interrupt)
        if has_progress(self._options["progress"]):
            self._line.start()
            self._reactor.addSystemEventTrigger("before", "shutdown", self._line.stop)
        return joined.done.addCallback(lambda _: self._ended(near, far))

    def _ended(self, remote: _Remote, local: _Local) -> None:
        self._line.stop()
        if remote.interrupted:
            # Whoever sent the signal knows why.
            return
        if local.reason is not None:
            say("standard output could not be written")
        elif remote.reason is not None:
            self._say(f"the connection was cut off: {explain(remote.reason)}")
        else:
            self.code = SUCCESS

    def _failed(self, reason: Failure) -> Deferred[None]:
        why = self._options.why(reason)
        text = succeed("")
        if isinstance(reason.value, NotSwitched):
            self.code = REFUSED
            if reason.value.response.code == 403:
                text = text_of(reason.value.response, self._reactor)
        return text.addCallback(lambda text: self._say(f"{why}: {text}" if text else why))

    def _say(self, message: str) -> None:
        say(f"{self._options.target.url}: {message}")

    def _stop(self, _: object) -> None:
        if self._reactor.running:
            self._reactor.stop()


class _Remote(FarEnd):
    """
    The server's end. When the server has finished sending, the command ends, even if standard input is
    still open.

    :ivar reason: why the connection was cut off; None if it ended as it should.
    :ivar interrupted: whether a signal has ended the command while the connection was open.
    """

    reason: Failure | None = None
    interrupted = False
    _may_end = False

    def interrupt(self) -> None:
        """A signal ends the command. Data that have not arrived yet are lost, which is not reported."""
        if not self.lost:
            self.interrupted = self._may_end = True

    def readConnectionLost(self) -> None:
        self._may_end = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        expected = self._may_end or ISSLTransport.providedBy(self.transport) or self.other.lost
        if not expected and not reason.check(ConnectionDone):
            self.reason = reason
        super().connectionLost(reason)


class _Local(NearEnd):
    """
    Standard input and output.

    :ivar reason: why the server's data could not be written; None if they were written, or if the
        reader of a pipe has closed it.
    """

    reason: Failure | None = None

    def writeConnectionLost(self) -> None:
        # Nothing the server sends can be written any more.
        if not stat.S_ISFIFO(os.fstat(1).st_mode):
            self.reason = Failure(ConnectionLost())
        self.connectionLost(Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.lost and not reason.check(ConnectionDone, ConnectionAborted):
            self.reason = reason
        super().connectionLost(reason)
