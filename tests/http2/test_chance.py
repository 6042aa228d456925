"""Frames by chance: whatever comes, nothing fails, and nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import http2
from tests.kit.chance import examples
from tests.kit.h2raw import CONNECT, GET, POST, block
from upgrade_switch.http2.stream import HTTP2Stream

WAITING = [(name, b"wait" if name == b":protocol" else value) for name, value in CONNECT]
LENGTH = [*POST, (b"content-length", b"3")]

PAYLOADS = st.one_of(
    st.sampled_from(
        [block(fields) for fields in (GET, POST, LENGTH, CONNECT, WAITING, [(b"x", b"y")])]
    ),
    st.sampled_from([b"", b"x", b"\0\0\0\x08", b"\0\0\0\x01", b"\x7f\xff\xff\xff", bytes(8)]),
    st.sampled_from([b"\0\x04\0\0\0\0", b"\0\x04\0\0\0\x01", b"\0\x04\0\0\xff\xff"]),
    st.binary(max_size=20),
)

KINDS = st.sampled_from([0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10])
FLAGS = st.sampled_from([0, 1, 4, 5, 5, 8, 9, 13, 0x2D])
STREAMS = st.sampled_from([1, 1, 3, 5, 0, 2])

FRAMES = st.builds(
    lambda kind, flags, stream, payload: bytes([kind, flags, stream]) + payload,
    KINDS,
    FLAGS,
    STREAMS,
    PAYLOADS,
)


@given(frames=st.lists(FRAMES, max_size=15))
@settings(max_examples=examples(150))
def test_chance(frames: list[bytes]) -> None:
    """Nothing is logged, no timer and no connection stays, in one piece and byte by byte."""
    http2.check(http2.END_OF_FRAME.join(frames))


def test_it_can_fail(monkeypatch: Any, errors: Any) -> None:
    """A stream that fails at what comes is found."""

    def fail(stream: Any, data: bytes, size: int) -> None:
        stream.call(int, "not a number")

    monkeypatch.setattr(HTTP2Stream, "received", fail)
    frames = [bytes([1, 4, 1]) + block(CONNECT), bytes([0, 0, 1]) + b"x"]
    with pytest.raises(AssertionError, match="not a number"):
        http2.check(http2.END_OF_FRAME.join(frames))
    errors.take(1)
