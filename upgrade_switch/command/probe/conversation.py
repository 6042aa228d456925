"""
How the two sides talk through a proxy that has switched: in bytes, or in WebSocket messages, which a
proxy may cut into other frames (RFC 6455 §5.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from .frames import CLOSE, CONTENT, frame, next_frame
from .wire import Broken, Wire, shown

__all__ = ["Bytes", "Conversation", "Messages", "closing"]


class Conversation(Protocol):
    """How one side says bytes, and the other hears them."""

    def saying(self, data: bytes, is_client: bool) -> bytes:
        """What is sent to say these bytes, one at least."""

    def hear(self, wire: Wire, data: bytes, who: str) -> None:
        """
        Wait for bytes that were said.

        :param who: is to get them.
        :raises Broken: if something else comes, or nothing.
        """


class Bytes:
    """Bytes as they are."""

    def saying(self, data: bytes, is_client: bool) -> bytes:
        return data

    def hear(self, wire: Wire, data: bytes, who: str) -> None:
        expected = f"the {len(data)} bytes at {who}"
        came = b""
        while len(came) < len(data):
            with _behind(came):
                came += wire.exactly(1, expected) + wire.buffered(len(data) - len(came) - 1)
            _compare(came, data, expected)


class Messages:
    """WebSocket messages. Only their content counts."""

    def saying(self, data: bytes, is_client: bool) -> bytes:
        return frame(data, is_client)

    def hear(self, wire: Wire, data: bytes, who: str) -> None:
        expected = f"frames with the {len(data)} bytes at {who}"
        came = b""
        while len(came) < len(data):
            with _behind(came):
                opcode, content = next_frame(wire, expected, may_be_masked=True)
            if opcode in CONTENT:
                came += content
            _compare(came, data, expected)


def closing(wire: Wire) -> bytes:
    """
    :return: what the next Close frame has.
    :raises Broken: if there is none.
    """
    expected = "a Close frame"
    while True:
        opcode, content = next_frame(wire, expected, may_be_masked=True)
        if opcode == CLOSE:
            return content
        if opcode in CONTENT:
            raise Broken(f"a frame with {shown(content)}", expected)


@contextmanager
def _behind(came: bytes) -> Iterator[None]:
    """A failure says what has come in front of it."""
    try:
        yield
    except Broken as error:
        raise type(error)(_before(came) + error.came, error.expected) from None


def _compare(came: bytes, data: bytes, expected: str) -> None:
    if not data.startswith(came):
        at = next((i for i, (a, b) in enumerate(zip(came, data, strict=False)) if a != b), len(data))
        raise Broken(f"{_before(came[:at])}{shown(came[at:])}", expected)


def _before(came: bytes) -> str:
    return f"{len(came)} bytes, then " if came else ""
