"""
One of the processes of ``serve --workers``: ``python -m upgrade_switch.command.server.worker REACTOR``,
started by :mod:`.workers`, which tells it by a pipe what to do. When the pipe ends, so does the worker:
it stops listening, and drains.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError

from ... import _twisted
from ..listening import Server, begin_logging, url_of
from ..reactor import ICommandReactor, installed_reactor
from .options import ServeOptions
from .ports import ListeningReactor, Opener
from .privileges import drop_privileges
from .retiring import RetiringSite
from .served import Served, endpoints_of
from .shared_status import SharedStatus
from .talk import FROM_PARENT, TO_PARENT, Lines, Message, written
from .tally import Tally

__all__ = ["main"]

# What it says is adopted, whatever it is; systemd's sockets are the parent's to know.
_OF_OTHERS = re.compile(r"(^|:)(systemd|fd):.*")


class _Control(Protocol):
    """The pipes to and from the parent."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lines = Lines(worker.heard)

    def dataReceived(self, data: bytes) -> None:
        self._lines.feed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._worker.is_alone()


class _Inherited(Server):
    """A server with the ports of the parent, which has said where they are."""

    def announce(self, port: IListeningPort) -> None:
        pass

    def is_others(self, description: str) -> bool:
        return True


class Worker:
    """What one worker does when it is told to."""

    def __init__(self, reactor: ICommandReactor) -> None:
        self._reactor = reactor
        self._server: Server | None = None
        self._served: Served
        self._control: Any = None
        self._ports: list[tuple[int, int]] = []
        self._tally = Tally(reactor, self._say)
        self._status = SharedStatus(reactor, self._say)
        self._farewell: Deferred[None] = Deferred()

    def run(self) -> None:
        """Run the reactor, until the parent or a signal says that this is the end."""
        # A terminal sends these to all processes; the parent says what follows from them.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._reactor.callWhenRunning(self._connect)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.run()

    def _connect(self) -> None:
        # Any: its type is not that of POSIX.
        connect: Any = StandardIO
        self._control = connect(_Control(self), FROM_PARENT, TO_PARENT)

    def _say(self, message: Message) -> None:
        self._control.write(written(message))

    def heard(self, message: Message) -> None:
        """The parent has said something."""
        getattr(self, f"_hear_{message['say']}")(message)

    def end(self) -> None:
        """Drain, and end."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _stop(self) -> Deferred[None] | None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._server is None:
            return None
        self._tally.retire()
        drained = self._server.stopService().addCallback(lambda _: self._status.send("ending"))
        # Else the process would end before the parent has heard of it.
        return drained.addCallback(lambda _: self._farewell)

    def is_alone(self) -> None:
        """The parent has gone."""
        if not self._farewell.called:
            self._farewell.callback(None)
        self.end()

    def _hear_farewell(self, _: Message) -> None:
        if not self._farewell.called:
            self._farewell.callback(None)

    def _hear_serve(self, message: Message) -> None:
        """Make a server of these options, which does not listen yet."""
        begin_logging(LogLevel.warn, message["log_format"])
        self._ports = message["ports"]
        options = ServeOptions()
        options.read = message["read"]
        try:
            options.parseOptions(message["arguments"])
            options.listen = [_OF_OTHERS.sub(r"\1tcp:0", string) for string in message["listen"]]
            self._served = Served(self._reactor, options, RetiringSite, [self._tally], self._status)
            reactor: Any = ListeningReactor(self._reactor, self._adopt)
            endpoints = endpoints_of(reactor, options)
        except UsageError as error:
            # The parent ends this worker.
            self._say({"say": "wrong", "why": str(error)})
            return
        self._server = _Inherited(
            self._reactor,
            self._served.site,
            endpoints,
            url_of,
            self._served.end,
            lambda: self._listens(options),
        )
        self._tally.watch(self._served.site.switched)
        self._say({"say": "built"})

    def _listens(self, options: ServeOptions) -> None:
        drop_privileges(options.run_as)
        self._say({"say": "done"})

    def _adopt(self, factory: IProtocolFactory, _: Opener) -> IListeningPort:
        """Listen on the next of the parent's sockets."""
        descriptor, family = self._ports.pop(0)
        reactor: Any = _twisted.adopting(self._reactor)
        port: IListeningPort = reactor.adoptStreamPort(descriptor, family, factory)
        os.close(descriptor)
        _twisted.accept_one_by_one(port)
        return port

    def _hear_listen(self, _: Message) -> None:
        assert self._server is not None
        self._server.startService()

    def _hear_share(self, message: Message) -> None:
        """This is what it may switch from now on, of ``max_switched``."""
        self._tally.grant(message["most"], message["number"])

    def _hear_elsewhere(self, message: Message) -> None:
        """So many connections of these addresses others have switched."""
        self._tally.note_others(message["parties"], message["anew"])

    def _hear_look(self, _: Message) -> None:
        self._status.send()

    def _hear_gathered(self, message: Message) -> None:
        self._status.gathered(message["snapshots"])

    def _hear_beat(self, _: Message) -> None:
        """The parent wants to know whether this worker hangs."""
        self._say({"say": "beat"})

    def _hear_reopen(self, _: Message) -> None:
        self._served.site.reopen_log()
        self._say({"say": "done"})

    def _hear_retire(self, message: Message) -> None:
        """
        Others are there: close the ports, and end with the last connection, or drain when the time is
        up that there is for it.
        """
        assert self._server is not None
        assert isinstance(self._served.site, RetiringSite)
        site = self._served.site
        self._tally.retire(site.count)
        site.reopen_log()
        if message["seconds"] is not None:
            self._reactor.callLater(message["seconds"], self.end)
        # It goes on, with its access log, when the ports are closed.
        site.doStart()
        closed = self._server.close_ports()
        closed.addCallback(lambda _: self._say({"say": "done"}))
        closed.addCallback(lambda _: site.retire(self._tally.report)).addCallback(lambda _: self.end())

    def _hear_stop(self, _: Message) -> None:
        self.end()


def main() -> None:
    """Be a worker, on the reactor that the command line names."""
    namedAny(sys.argv[1]).install()
    Worker(installed_reactor()).run()


if __name__ == "__main__":
    main()
