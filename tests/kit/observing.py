"""Observers that remember what they are told."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from upgrade_switch.interfaces import ISwitchObserver


@implementer(ISwitchObserver)
class Details:
    """An observer that remembers why requests were declined."""

    def __init__(self) -> None:
        self.declines: list[str] = []
        self.counts: list[tuple[Any, Any]] = []

    def switched(self, connection: Any) -> None: ...

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.counts.append((connection.bytes_in, connection.bytes_out))

    def declined(self, request: Any, token: Any, why: Any) -> None:
        self.declines.append(request.decline_detail)
