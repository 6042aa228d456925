"""
:class:`Heartbeat`: workers that hang are found, and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from .child import Child

__all__ = ["Heartbeat"]

_DEFAULT_SECONDS = 60.0
# What a worker may need for a single request, or for its memory to come back from a disk.
_LEAST_SECONDS = 10.0
_QUESTIONS = 6


class Heartbeat:
    """
    Asks workers again and again whether they are there, and kills one that does not say so for long.

    What counts is how many questions it has left unanswered, and not how old the first of them is:
    after a time in which the parent, or the whole machine, stood still, all can answer first.
    """

    def __init__(
        self, clock: IReactorTime, children: Callable[[], Iterable[Child]], watchdog: float
    ) -> None:
        """
        :param children: the processes that are asked.
        :param watchdog: for how many seconds systemd lets the service hang, and therefore each of its
            workers; 0: it has said nothing.
        """
        self._seconds = max(_LEAST_SECONDS, watchdog or _DEFAULT_SECONDS)
        self._children = children
        self._asking = LoopingCall(self._ask)
        self._asking.clock = clock

    def start(self) -> None:
        """Begin, unless it has begun."""
        if not self._asking.running:
            self._asking.start(self._seconds / _QUESTIONS)

    def stop(self) -> None:
        if self._asking.running:
            self._asking.stop()

    def _ask(self) -> None:
        for child in list(self._children()):
            if child.unanswered < _QUESTIONS:
                child.unanswered += 1
                child.say("beat")
            else:
                child.kill(f"it did not answer for {self._seconds:g} s")
