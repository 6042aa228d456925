"""
What is said through a proxy that has switched: bytes, or WebSocket messages, which a proxy may cut into
other frames (RFC 6455 §5.4).
"""

from __future__ import annotations

from typing import Protocol

from .wire import Broken, Wire, shown

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FINAL",
    "PING",
    "TEXT",
    "Bytes",
    "Conversation",
    "Messages",
    "closing",
    "frame",
]

_MASK = b"mask"
_LONGEST = 1 << 20

# RFC 6455 §5.2.
FINAL = 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, _PONG)


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
            came += _next(wire, 1, came, expected) + wire.buffered(len(data) - len(came) - 1)
            _compare(came, data, expected)


class Messages:
    """WebSocket messages. Only their content counts."""

    def saying(self, data: bytes, is_client: bool) -> bytes:
        return frame(data, is_client)

    def hear(self, wire: Wire, data: bytes, who: str) -> None:
        expected = f"frames with the {len(data)} bytes at {who}"
        came = b""
        while len(came) < len(data):
            came += _content(wire, came, expected)
            _compare(came, data, expected)


def frame(data: bytes, is_client: bool, first: int = FINAL | BINARY) -> bytes:
    """
    A frame, which a client masks (RFC 6455 §5.2).

    :param first: its first byte, with the opcode.
    """
    mask_bit = 0x80 if is_client else 0
    if len(data) < 126:
        head = bytes([first, mask_bit | len(data)])
    elif len(data) < 65536:
        head = bytes([first, mask_bit | 126]) + len(data).to_bytes(2, "big")
    else:
        head = bytes([first, mask_bit | 127]) + len(data).to_bytes(8, "big")
    return head + _MASK + _masked(data, _MASK) if is_client else head + data


def _masked(data: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


def closing(wire: Wire) -> bytes:
    """
    :return: what the next Close frame has.
    :raises Broken: if there is none.
    """
    expected = "a Close frame"
    while True:
        opcode, content = _frame(wire, b"", expected)
        if opcode == CLOSE:
            return content
        if opcode in (CONTINUATION, BINARY, TEXT):
            raise Broken(f"a frame with {shown(content)}", expected)


def _content(wire: Wire, came: bytes, expected: str) -> bytes:
    """What the next frame has; nothing, if it is one for control."""
    opcode, content = _frame(wire, came, expected)
    return content if opcode in (CONTINUATION, BINARY, TEXT) else b""


def _frame(wire: Wire, came: bytes, expected: str) -> tuple[int, bytes]:
    """The opcode and the content of the next frame."""
    first, second = _next(wire, 2, came, expected)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(_next(wire, 2 if size == 126 else 8, came, expected), "big")
    opcode = first & 0x0F
    if size > _LONGEST or first & 0x70 or opcode not in _OPCODES:
        raise Broken(f"{_before(came)}what is no frame ({shown(bytes([first, second]))})", expected)
    mask = _next(wire, 4, came, expected) if second & 0x80 else bytes(4)
    return opcode, _masked(_next(wire, size, came, expected), mask)


def _next(wire: Wire, size: int, came: bytes, expected: str) -> bytes:
    try:
        return wire.exactly(size, expected)
    except Broken as error:
        raise type(error)(_before(came) + error.came, expected) from None


def _compare(came: bytes, data: bytes, expected: str) -> None:
    if not data.startswith(came):
        at = next((i for i, (a, b) in enumerate(zip(came, data, strict=False)) if a != b), len(data))
        raise Broken(f"{_before(came[:at])}{shown(came[at:])}", expected)


def _before(came: bytes) -> str:
    return f"{len(came)} bytes, then " if came else ""
