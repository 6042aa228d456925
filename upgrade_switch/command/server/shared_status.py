"""
What a worker counts, and what all of them have counted, as the parent knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ...observe.merged import Merged
from ...observe.status import IReading, Snapshot, Status
from .talk import Message

__all__ = ["SharedStatus"]


class SharedStatus(Status):
    """Counts what happens here, and shows what happens anywhere."""

    def __init__(self, clock: IReactorTime, say: Callable[[Message], None]) -> None:
        """
        :param say: tells the parent something.
        """
        super().__init__(clock)
        self._say = say
        self._waiting: list[Deferred[IReading]] = []

    def gather(self) -> Deferred[IReading]:
        gathered: Deferred[IReading] = Deferred()
        self._waiting.append(gathered)
        if len(self._waiting) == 1:
            self._say({"say": "ask"})
        return gathered

    def gathered(self, snapshots: Sequence[Snapshot]) -> None:
        """The parent says what all have counted."""
        waiting, self._waiting = self._waiting, []
        # There are none if no worker has answered in time, not even this one.
        merged = Merged(snapshots or [self.snapshot(_process())])
        for each in waiting:
            each.callback(merged)

    def send(self, kind: str = "snapshot") -> None:
        """Tell the parent what has been counted here."""
        self._say({"say": kind, "snapshot": self.snapshot(_process())})


def _process() -> dict[str, float]:
    try:
        from ...observe.metrics import process_metrics
    except ImportError:
        # The extra is not installed, so it cannot be asked for.
        return {}
    return process_metrics()
