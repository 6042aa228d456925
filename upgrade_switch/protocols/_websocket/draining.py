"""
What a WebSocket's protocol says when the server goes down: close code 1001 (RFC 6455 §7.4.1).
"""

from __future__ import annotations

from autobahn.websocket.protocol import WebSocketProtocol
from zope.interface import implementer

from ...interfaces import IDrainable
from ._internals import AutobahnProtocol

__all__ = ["AdaptsToDrainable", "ClosesWhenDrained", "say_going_away"]

_GOING_AWAY = WebSocketProtocol.CLOSE_STATUS_CODE_GOING_AWAY
_GOING_DOWN = b"the server is going down"


@implementer(IDrainable)
class ClosesWhenDrained(AutobahnProtocol):
    """
    A mixin in front of a protocol's class: the protocol itself is an ``IDrainable``.
    """

    _is_drained = False

    def drain(self) -> None:
        self._is_drained = True
        say_going_away(self)

    def sendMessage(self, *args: object, **kwargs: object) -> None:
        # A protocol that has not closed by itself may still answer messages that come: without this,
        # autobahn would raise an error.
        if not self._is_drained or self.state == WebSocketProtocol.STATE_OPEN:
            super().sendMessage(*args, **kwargs)


class AdaptsToDrainable(AutobahnProtocol):
    """
    The same for a protocol whose class has a method ``drain`` that is something else:
    ``IDrainable(protocol)`` gives an adapter.
    """

    def __conform__(self, interface: object) -> _Drainable | None:
        return _Drainable(self) if interface is IDrainable else None


@implementer(IDrainable)
class _Drainable:
    def __init__(self, protocol: AutobahnProtocol) -> None:
        self._protocol = protocol

    def drain(self) -> None:
        say_going_away(self._protocol)


def say_going_away(protocol: AutobahnProtocol) -> None:
    """Close with 1001, behind everything that has been sent."""
    # Not sendClose, which takes none of the codes that RFC 6455 defines, except for 1000.
    protocol.sendCloseFrame(code=_GOING_AWAY, reasonUtf8=_GOING_DOWN)
