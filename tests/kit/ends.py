"""How a connection's end is told."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from upgrade_switch.observe import why_ended

__all__ = ["Ends"]


class Ends:
    """An observer that remembers why a connection ended."""

    def __init__(self) -> None:
        self.why: Deferred[str] = Deferred()

    def switched(self, connection: Any) -> None:
        pass

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.why.callback(why_ended(reason))

    def declined(self, request: Any, token: Any, why: Any) -> None:
        pass
