"""
The layout of frames (RFC 9113 §4.1, §6), as far as it matters outside of the h2 library. Pure.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

__all__ = [
    "HEAD",
    "LAST_STREAM",
    "Flag",
    "FrameType",
    "goaway_frame",
    "header_block_of",
    "increment_of",
    "padded_data_of",
    "raw_frame",
    "window_frame",
]

#: The highest number of a stream (RFC 9113 §5.1.1).
LAST_STREAM = 2**31 - 1


class FrameType(IntEnum):
    """The types of frames (RFC 9113 §6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    """The flags of frames, each of which means something on some types only."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


# Plain numbers, since arithmetic with members of an enum takes ten times as long.
_PADDED, _PRIORITY = int(Flag.PADDED), int(Flag.PRIORITY)
_WINDOW_UPDATE = int(FrameType.WINDOW_UPDATE)

#: What stands in front of each payload: length (which has three bytes), kind, flags, stream.
HEAD = Struct(">HBBBL")


def raw_frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame."""
    length = len(payload)
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def padded_data_of(frame: bytes) -> bytes | None:
    """The data of a DATA frame with padding; None if that is more than the payload (RFC 9113 §6.1)."""
    end = len(frame) - frame[9] if len(frame) > 9 else 0
    return frame[10:end] if end >= 10 else None


def header_block_of(frame: bytes) -> bytes | None:
    """
    The part of a header block that a HEADERS frame has; None if it has more padding than payload, or
    not even a whole priority (RFC 9113 §6.2).
    """
    flags, start, end = frame[4], 9, len(frame)
    if flags & _PADDED:
        if end == start:
            return None
        end -= frame[start]
        start += 1
    if flags & _PRIORITY:
        start += 5
    return frame[start:end] if start <= end else None


def goaway_frame(last_stream: int, code: int) -> bytes:
    """A GOAWAY frame (RFC 9113 §6.8)."""
    payload = last_stream.to_bytes(4, "big") + int(code).to_bytes(4, "big")
    return raw_frame(FrameType.GOAWAY, 0, 0, payload)


def increment_of(frame: bytes) -> int | None:
    """How much more a WINDOW_UPDATE frame allows; None if it has the wrong size (RFC 9113 §6.9)."""
    return int.from_bytes(frame[9:], "big") & LAST_STREAM if len(frame) == 13 else None


def window_frame(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame (RFC 9113 §6.9)."""
    return raw_frame(_WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))
