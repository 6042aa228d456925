"""WebSocket's frames (RFC 6455 §5.2), built and parsed by hand."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "MASK",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "build",
    "masked",
    "parse",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

MASK = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    """A frame; its payload is not masked here."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")


def masked(payload: bytes, mask: bytes) -> bytes:
    """Mask a payload, or unmask it (RFC 6455 §5.3). An empty mask changes nothing."""
    if not mask:
        return payload
    pad = (mask * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return number.to_bytes(len(payload), "big")


def build(frame: Frame, mask: bytes = b"", announced: int | None = None) -> bytes:
    """
    A frame as it is on the wire.

    :param mask: four bytes; empty if the payload is not to be masked.
    :param announced: the length that the frame claims to have, if that is to be wrong.
    """
    length = len(frame.payload) if announced is None else announced
    flag = 0x80 if mask else 0
    head = bytes([frame.fin << 7 | frame.rsv << 4 | frame.opcode])
    if length < 126:
        head += bytes([flag | length])
    elif length < 65536:
        head += bytes([flag | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([flag | 127]) + length.to_bytes(8, "big")
    return head + mask + masked(frame.payload, mask)


def parse(data: bytes) -> tuple[Frame | None, bytes]:
    """The first frame, None while it is not complete; and the bytes behind it."""
    if len(data) < 2:
        return None, data
    first, second = data[:2]
    length, at = second & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        if len(data) < at + size:
            return None, data
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    mask = data[at : at + 4] if second & 0x80 else b""
    at += 4 if second & 0x80 else 0
    if len(data) < at + length:
        return None, data
    payload = masked(data[at : at + length], mask)
    found = Frame(first & 15, payload, bool(first >> 7), first >> 4 & 7, bool(mask))
    return found, data[at + length :]
