"""
WebSocket's frames (RFC 6455 §5.2), as the probe sends and reads them.
"""

from __future__ import annotations

from .wire import Broken, Wire, shown

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTENT",
    "CONTINUATION",
    "FINAL",
    "PING",
    "PONG",
    "TEXT",
    "frame",
    "next_frame",
]

FINAL = 0x80
"""The bit of a first byte that says that a message ends here."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
"""Opcodes."""

CONTENT = (CONTINUATION, TEXT, BINARY)
"""Those of a message's frames."""

_OPCODES = (*CONTENT, CLOSE, PING, PONG)
_MASK = b"mask"
_LONGEST = 1 << 20


def frame(data: bytes, is_masked: bool, first: int = FINAL | BINARY) -> bytes:
    """
    A frame.

    :param is_masked: as those of a client have to be (RFC 6455 §5.1).
    :param first: its first byte, with the opcode.
    """
    mask_bit = 0x80 if is_masked else 0
    if len(data) < 126:
        head = bytes([first, mask_bit | len(data)])
    elif len(data) < 65536:
        head = bytes([first, mask_bit | 126]) + len(data).to_bytes(2, "big")
    else:
        head = bytes([first, mask_bit | 127]) + len(data).to_bytes(8, "big")
    return head + _MASK + _masked(data, _MASK) if is_masked else head + data


def next_frame(wire: Wire, expected: str, *, may_be_masked: bool = False) -> tuple[int, bytes]:
    """
    The opcode and the content of the next frame.

    :param expected: what is waited for.
    :param may_be_masked: a server's is not (RFC 6455 §5.1).
    :raises Broken: if something else comes, or nothing.
    """
    first, second = wire.exactly(2, expected)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(wire.exactly(2 if size == 126 else 8, expected), "big")
    opcode, is_masked = first & 0x0F, bool(second & 0x80)
    is_wrong = opcode not in _OPCODES or bool(first & 0x70) or (is_masked and not may_be_masked)
    if is_wrong or size > _LONGEST:
        raise Broken(f"something that is not a frame ({shown(bytes([first, second]))})", expected)
    mask = wire.exactly(4, expected) if is_masked else bytes(4)
    return opcode, _masked(wire.exactly(size, expected), mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
