"""
How to talk to a target after the 101, so that a check can tell whether its bytes arrive: an echo, or a
WebSocket, which answers pings.
"""

from __future__ import annotations

from typing import Protocol

from .faults import brief
from .frames import CLOSE, FINAL, PING, PONG, frame, next_frame
from .wire import Broken, Closed, Wire, shown

__all__ = ["Echo", "Pings", "Speech"]

# RFC 6455 §5.5: a control frame has no more.
_MOST_PING = 125


class Speech(Protocol):
    """How to send bytes to a target, and to recognise them when they come back."""

    def saying(self, data: bytes) -> bytes:
        """What is sent to say these bytes, one byte at least."""

    def hear(self, wire: Wire, data: bytes) -> None:
        """
        Wait until what was said last comes back.

        :param data: all that was said since bytes were heard last.
        :raises Broken: if something else comes, or nothing.
        """


class Echo:
    """A target that sends back what it receives."""

    def saying(self, data: bytes) -> bytes:
        return data

    def hear(self, wire: Wire, data: bytes) -> None:
        expected = f"the {len(data)} bytes to be echoed"
        came = b""
        while len(came) < len(data):
            try:
                came += wire.exactly(1, expected) + wire.buffered(len(data) - len(came) - 1)
            except Broken as error:
                came_first = f"{shown(came)}, then " if came else ""
                raise type(error)(came_first + error.came, expected) from None
            if not data.startswith(came):
                raise Broken(_difference(came, data), expected)


class Pings:
    """A WebSocket server: it sends back in a pong what a ping has (RFC 6455 §5.5.2)."""

    def saying(self, data: bytes) -> bytes:
        parts = [data[start : start + _MOST_PING] for start in range(0, len(data), _MOST_PING)]
        return b"".join(frame(part, True, FINAL | PING) for part in parts)

    def hear(self, wire: Wire, data: bytes) -> None:
        # §5.5.3: only the last of several pings has to be answered. One that lost a byte would have
        # broken the frames behind it.
        last = data[(len(data) - 1) // _MOST_PING * _MOST_PING :]
        expected = f"a pong with {shown(last)}"
        while True:
            opcode, content = next_frame(wire, expected)
            if opcode == CLOSE:
                code = int.from_bytes(content[:2], "big")
                reason = brief(content[2:].decode("utf-8", "replace"))
                raise Closed(f"a close frame ({code} {reason})".replace(" )", ")"), expected)
            if opcode == PONG and content == last:
                return


def _difference(came: bytes, data: bytes) -> str:
    at = next(index for index, (a, b) in enumerate(zip(came, data, strict=False)) if a != b)
    return f"{shown(came[at:])} where {shown(data[at:])} was sent (behind {at} right bytes)"
