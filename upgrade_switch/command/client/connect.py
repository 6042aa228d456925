"""
``upgrade-switch connect``: joins standard input and output to a switched connection.
"""

from __future__ import annotations

import os
import stat
import sys

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from ...connecting import SingleUseFactory
from ...errors import NotSwitched
from ...sending import remaining
from ...splice import Splice
from ..exits import FAILED, REFUSED, SUCCESS, USAGE, explain, say
from ..reactor import ICommandReactor, installed_reactor
from .progress import STDERR, FarEnd, NearEnd, ProgressLine, Traffic, has_progress
from .quiet import Quiet, holds_more
from .target import TargetOptions, parse_target

__all__ = ["ConnectOptions", "run_connect"]


# How long standard input may have nothing when the server has finished sending.
_HOLDS_SECONDS = 0.4


class ConnectOptions(TargetOptions):
    """The options of ``connect``."""

    synopsis = "[options] URL [TOKEN]"
    longdesc = (
        "Asks URL for an upgrade to TOKEN. Then standard input goes to the server, and what the server "
        "sends goes to standard output. With the token websocket, or a ws or wss URL, the bytes travel "
        "in binary messages. The end of standard input is passed on as a half-close. Where there is "
        "none (with TLS, and with WebSocket servers other than this command's), the connection is "
        "closed when nothing has moved either way for 2 seconds after that end, unless --eof wait is "
        "given. The command ends when the server has closed the connection and everything that it sent "
        "has been written. If standard error is a terminal, it says when the connection has switched, "
        "and shows the progress of a transfer from or to a file."
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
        near = _Remote(self._traffic)
        far = _Local(self._traffic, self._reactor, self._options.closes_at_end)
        forgive = bool(self._options["forgive-truncation"])
        joined = Splice(near, far, forgive_truncation=forgive, reactor=self._reactor)
        connecting: Deferred[IProtocol] = maybeDeferred(self._endpoint.connect, SingleUseFactory(near))
        done = connecting.addCallback(lambda _: self._connected(near, far, joined))
        done.addErrback(self._failed).addBoth(lambda _: self._options.close()).addBoth(self._stop)

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
        elif remote.unsent and not local.is_unread:
            self._say("the server has closed before it got all of standard input")
        else:
            self.code = SUCCESS

    def _failed(self, reason: Failure) -> Deferred[None]:
        why = self._options.why(reason)
        text = succeed("")
        if isinstance(reason.value, NotSwitched):
            self.code = REFUSED
            if reason.value.response.code == 403:
                # Only now: it reads HTML.
                from .refusal import text_of

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
    unsent = False
    _quiet: Quiet | None = None
    other: _Local

    def interrupt(self) -> None:
        """A signal ends the command. Data that have not arrived yet are lost, which is not reported."""
        if not self.lost:
            self.interrupted = True

    def readConnectionLost(self) -> None:
        # Others may wait for the end of standard output before they end standard input.
        super().readConnectionLost()
        if self._open and not self.other.lost:
            self._quiet = Quiet(self.other.clock, self._moved, self._finish, _HOLDS_SECONDS)

    def _moved(self) -> object:
        if remaining(self.transport) or holds_more(0):
            return object()
        return self.traffic.sent

    def _finish(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._quiet is not None:
            self._quiet.stop()
        if not self.other.lost:
            self.unsent = holds_more(0)
            if not self.interrupted and not self.is_clean_end(reason):
                self.reason = reason
        local = self.other
        super().connectionLost(reason)
        local.server_has_gone()


class _Local(NearEnd):
    """
    Standard input and output.

    :ivar reason: why the server's data could not be written; None if they were written, or if the
        reader of a pipe has closed it.
    :ivar is_unread: whether that reader has closed it.
    """

    reason: Failure | None = None
    is_unread = False
    _is_written = False
    _quiet: Quiet | None = None

    def __init__(self, traffic: Traffic, clock: IReactorTime, closes_at_end: bool) -> None:
        super().__init__(traffic)
        self.clock = clock
        self._closes_at_end = closes_at_end
        self._is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)

    def half_close_unsupported(self) -> None:
        if self._closes_at_end:
            self._quiet = Quiet(self.clock, self._moved, self.other.transport.loseConnection)

    def _moved(self) -> object:
        left = remaining(self.other.transport)
        # What has not been taken yet is not the end, however long it takes.
        return object() if left else (self.traffic.sent, self.traffic.received)

    def writeConnectionLost(self) -> None:
        if self.other._has_finished:
            # The server has sent everything, and everything has been written.
            self._is_written = True
            return
        # Nothing the server sends can be written any more.
        self._not_written(Failure(ConnectionLost()))
        self.connectionLost(Failure(ConnectionAborted()))

    def server_has_gone(self) -> None:
        """The server's end is lost. Twisted does not close standard input whose output is closed."""
        if self._is_written and not self.lost:
            self.connectionLost(Failure(ConnectionDone()))

    def _not_written(self, reason: Failure) -> None:
        if self._is_pipe:
            self.is_unread = True
        else:
            self.reason = reason

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._quiet is not None:
            self._quiet.stop()
        if not self.lost and not reason.check(ConnectionDone, ConnectionAborted):
            self._not_written(reason)
        super().connectionLost(reason)
