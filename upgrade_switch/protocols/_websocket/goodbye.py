"""
How a WebSocket's protocol says goodbye when the server goes down: close code 1001 (RFC 6455 §7.4.1).
"""

from __future__ import annotations

from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol
from zope.interface import implementer

from ...interfaces import IDrainable

__all__ = ["Drainable", "Goodbye"]

_GOING_AWAY = WebSocketProtocol.CLOSE_STATUS_CODE_GOING_AWAY
_GOING_DOWN = b"the server is going down"


@implementer(IDrainable)
class Drainable:
    """Says goodbye as RFC 6455 §7.4.1 has it: 1001, going away."""

    _drained = False

    def drain(self: Any) -> None:
        self._drained = True
        # sendClose takes none of the protocol's own codes.
        self.sendCloseFrame(code=_GOING_AWAY, reasonUtf8=_GOING_DOWN)

    def sendMessage(self: Any, *args: Any, **kwargs: Any) -> None:
        # Who has not closed by himself may well answer what still comes, and would fail.
        if not self._drained or self.state == WebSocketProtocol.STATE_OPEN:
            super().sendMessage(*args, **kwargs)  # type: ignore[misc]


class Goodbye:
    """Says goodbye for a protocol whose class has a ``drain`` of its own that is something else."""

    def __conform__(self, interface: Any) -> Any:
        if interface is IDrainable:
            return _Parting(self)
        return None


@implementer(IDrainable)
class _Parting:
    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def drain(self) -> None:
        self._protocol.sendCloseFrame(code=_GOING_AWAY, reasonUtf8=_GOING_DOWN)
