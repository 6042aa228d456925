"""
A worker, as its parent knows it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from .options import ServeOptions
from .systemd import VARIABLES
from .talk import FROM_PARENT, TO_PARENT, Lines, Message, written

__all__ = ["Child", "ChildState", "Generation"]

_MODULE = f"{__package__}.worker"

# Those of sd_listen_fds(3) are not for children, either.
_NOT_FOR_WORKERS = (*VARIABLES, "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID")


class Generation:
    """
    The workers that have started with the same options.

    :ivar serves: whether they have begun to.
    :ivar deaths: how many have died in a row, each soon after its start.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.serves = False
        self.deaths = 0


class ChildState(Enum):
    """How far a worker is."""

    STARTING = auto()
    BUILT = auto()
    """It could listen."""
    SERVING = auto()
    RETIRED = auto()
    """It ends with its last connection."""
    DROPPED = auto()
    """It is not needed, and has been killed."""


@implementer(IPushProducer)
class Child(ProcessProtocol):
    """
    A process that serves.

    :ivar why: what is wrong with its options, if it has said so.
    :ivar used: how many connections it has switched.
    :ivar unanswered: how often it has been asked whether it is there since it last said so.
    :ivar is_behind: whether it has not read yet what it was told; what can wait is to wait.
    """

    transport: Any

    def __init__(
        self,
        generation: Generation,
        heard: Callable[[Child, Message], None],
        ended: Callable[[Child, str], None],
        caught_up: Callable[[Child], None],
    ) -> None:
        """
        :param heard: called with what it says.
        :param ended: called when it has ended, with how.
        :param caught_up: called when it is behind no more.
        """
        self.generation = generation
        self.state = ChildState.STARTING
        self.why = ""
        self.used = 0
        self.number = 0
        self.began = 0.0
        self.unanswered = 0
        self.is_behind = False
        self._why_killed = ""
        self._ended = ended
        self._caught_up = caught_up
        self._lines = Lines(lambda message: heard(self, message))

    def start(self, reactor: Any, ports: Sequence[tuple[str, Any]]) -> None:
        """
        Start it, and have it make a server, which does not listen yet.

        :param ports: the ports of the parent, each with its endpoint string.
        :raises OSError: if there is no room for another process.
        """
        descriptors = {number: number for number in (0, 1, 2) if _is_open(number)}
        control = {FROM_PARENT: "w", TO_PARENT: "r"}
        first = TO_PARENT + 1
        given = {first + index: port.fileno() for index, (_, port) in enumerate(ports)}
        environment = {
            name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS
        }
        # It finds the modules that are found here, --class' too.
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.began = reactor.seconds()
        reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-P", "-m", _MODULE, type(reactor).__module__],
            environment,
            childFDs={**descriptors, **control, **given},
        )
        # A worker that has been stopped reads nothing, and what waits for it must not grow for ever.
        self.transport.pipes[FROM_PARENT].registerProducer(self, True)
        options = self.generation.options
        self.say(
            "serve",
            arguments=options.arguments,
            read=options.read,
            listen=[description for description, _ in ports],
            ports=[(first + index, int(port.socket.family)) for index, (_, port) in enumerate(ports)],
            log_format=options.log_format or "text",
        )

    def say(self, kind: str, **message: Any) -> None:
        """Tell it something, if it is still there."""
        with suppress(KeyError):
            self.transport.writeToChild(FROM_PARENT, written({"say": kind, **message}))

    def grant(self, most: int) -> None:
        """It may switch so many."""
        self.number += 1
        self.say("share", most=most, number=self.number)

    def listen(self) -> None:
        self.state = ChildState.SERVING
        self.say("listen")

    def retire(self, seconds: float | None) -> None:
        """
        Have it end with its last connection.

        :param seconds: after how many it ends in any case; None: it has any time.
        """
        self.state = ChildState.RETIRED
        self.say("retire", seconds=seconds)

    def stop(self) -> None:
        """Have it drain, and end."""
        if self.state is ChildState.STARTING:
            self.kill()
        else:
            self.say("stop")

    def drop(self) -> None:
        """End it: it has not begun to serve."""
        self.state = ChildState.DROPPED
        self.kill()

    def kill(self, why: str = "") -> None:
        """
        :param why: how it has ended, for those who are told; "": of a signal.
        """
        self._why_killed = why
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def pauseProducing(self) -> None:
        self.is_behind = True

    def resumeProducing(self) -> None:
        self.is_behind = False
        self._caught_up(self)

    def stopProducing(self) -> None:
        """It has ended, as is said elsewhere."""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._lines.feed(data)

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        if self._why_killed:
            how = self._why_killed
        elif value.signal is not None:
            how = signal.Signals(value.signal).name
        else:
            how = f"exit code {value.exitCode or 0}"
        self._ended(self, how)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
