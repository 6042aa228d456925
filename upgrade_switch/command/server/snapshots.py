"""
What all workers have counted, gathered by the parent on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ...observe.merged import past
from ...observe.status import Snapshot
from .child import Child

__all__ = ["Snapshots"]

# A worker that hangs is shown as it was when it was last seen.
_LONGEST_WAIT = 2


class Snapshots:
    """The last snapshot of each worker, and the sum of those that have ended."""

    def __init__(self, clock: IReactorTime, children: Callable[[], Iterable[Child]]) -> None:
        """
        :param children: who can be asked. Those who are behind are not.
        """
        self._clock = clock
        self._children = children
        self._last: dict[Child, Snapshot] = {}
        self._past: Snapshot | None = None
        self._asking: list[Child] = []
        self._awaited: set[Child] = set()
        self._timer: IDelayedCall | None = None

    def ask(self, child: Child) -> None:
        """A worker wants to know what all have counted."""
        self._asking.append(child)
        if self._timer is None:
            self._timer = self._clock.callLater(_LONGEST_WAIT, self._answer)
            self._awaited = {each for each in self._children() if not each.is_behind}
            for each in self._awaited:
                each.say("look")

    def heard(self, child: Child, snapshot: Snapshot) -> None:
        """A worker says what it has counted."""
        self._last[child] = snapshot
        self._seen(child)

    def leave(self, child: Child) -> None:
        """A worker has ended."""
        last = self._last.pop(child, None)
        if last is not None:
            self._past = past([last] if self._past is None else [self._past, last])
        self._seen(child)

    def _seen(self, child: Child) -> None:
        if child in self._awaited:
            self._awaited.remove(child)
            if not self._awaited:
                self._answer()

    def _answer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer, self._awaited = None, set()
        asking, self._asking = self._asking, []
        snapshots = [*self._last.values(), *([self._past] if self._past is not None else [])]
        for child in asking:
            child.say("gathered", snapshots=snapshots)
