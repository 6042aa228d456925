"""Capsules, of which UDP's datagrams are one kind: RFC 9297 §3.2, RFC 9298 §5."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.errors import InvalidCapsule
from upgrade_switch.protocols._udp.capsules import (
    LONGEST_PAYLOAD,
    CapsuleReader,
    datagram_capsule,
    read_varint,
    varint,
)

MOST = (1 << 62) - 1


def long_varint(value: int, length: int) -> bytes:
    """A number in 1, 2, 4 or 8 bytes, which may be more than it needs."""
    logarithm = (1, 2, 4, 8).index(length)
    return (value | logarithm << (8 * length - 2)).to_bytes(length, "big")


def capsule(kind: bytes, value: bytes) -> bytes:
    return kind + varint(len(value)) + value


class Read(NamedTuple):
    payloads: list[bytes]
    error: str | None
    is_between: bool


def read(*pieces: bytes) -> Read:
    reader = CapsuleReader()
    payloads = [payload for piece in pieces for payload in reader.feed(piece)]
    return Read(payloads, str(reader.error) if reader.error else None, reader.is_between_capsules)


# Numbers.

#: RFC 9000 §A.1.
EXAMPLES = {
    "c2197c5eff14e88c": 151288809941952652,
    "9d7f3e7d": 494878333,
    "7bbd": 15293,
    "25": 37,
    "4025": 37,
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_rfc(text: str) -> None:
    """The examples of RFC 9000 are read as it says, one that is longer than needed, too."""
    data = bytes.fromhex(text)
    assert read_varint(data, 0) == (EXAMPLES[text], len(data))


@given(st.integers(0, MOST), st.binary(max_size=3), st.binary(max_size=3))
def test_numbers_come_back(value: int, before: bytes, behind: bytes) -> None:
    """A number is read as it was written, wherever it stands; a part of a number is not read."""
    written = varint(value)
    data = before + written + behind
    assert read_varint(data, len(before)) == (value, len(before) + len(written))
    for cut in range(len(written)):
        assert read_varint(written[:cut], 0) is None


@pytest.mark.parametrize("value", [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, MOST])
def test_numbers_are_as_short_as_possible(value: int) -> None:
    """Each length is used up to the largest number that it holds."""
    shortest = next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    assert len(varint(value)) == shortest


@pytest.mark.parametrize("value", [-1, MOST + 1])
def test_numbers_of_62_bits(value: int) -> None:
    """What does not fit is refused."""
    with pytest.raises(ValueError, match="62 bits"):
        varint(value)


# What is in a stream.

numbers = st.one_of(st.integers(0, 100), st.integers(0, MOST))


@st.composite
def spelled(draw: st.DrawFn, value: int) -> bytes:
    """A number in any of its spellings."""
    lengths = [n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2)]
    return long_varint(value, draw(st.sampled_from(lengths)))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream of capsules, and the payloads in it."""
    stream, payloads = b"", []
    for _ in range(draw(st.integers(0, 5))):
        value = draw(st.binary(max_size=40))
        kind, context = draw(st.sampled_from([(0, 0), (0, 0), (0, draw(numbers)), (draw(numbers), 0)]))
        if kind == 0:
            if context == 0:
                payloads.append(value)
            value = draw(spelled(context)) + value
        stream += draw(spelled(kind)) + draw(spelled(len(value))) + value
    return stream, payloads


@given(streams(), st.data())
def test_any_stream_cut_anywhere(made: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    """Payloads come out as they went in: however numbers are spelled, and wherever it is cut."""
    stream, payloads = made
    assert read(stream) == (payloads, None, True)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(cuts)]
    assert read(*pieces) == (payloads, None, True)
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == (payloads, None, True)


@given(st.binary(max_size=60), st.data())
def test_any_bytes_cut_anywhere(stream: bytes, data: st.DataObject) -> None:
    """Whatever comes, it means the same in one piece and in many."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(cuts)]
    assert read(*pieces) == read(stream)


STREAM = (
    datagram_capsule(b"one")
    + capsule(b"\x17", b"what nobody knows")
    + datagram_capsule(b"")
    + capsule(b"\0", varint(2) + b"another context")
    + long_varint(0, 8)
    + long_varint(8, 4)
    + long_varint(0, 2)
    + b"padded"
    + datagram_capsule(b"x" * 64)
)


def test_cut_at_every_byte() -> None:
    """Two pieces, cut at any byte, give what the whole gives."""
    whole = read(STREAM)
    assert whole == ([b"one", b"", b"padded", b"x" * 64], None, True)
    for cut in range(len(STREAM)):
        assert read(STREAM[:cut], STREAM[cut:]) == whole


def test_ends_within_a_capsule() -> None:
    """A reader knows whether the stream may end where it is."""
    ends = {0}
    at = 0
    for part in (datagram_capsule(b"abc"), capsule(b"\x17", b"xyz"), capsule(b"\x18", b"")):
        at += len(part)
        ends.add(at)
    stream = datagram_capsule(b"abc") + capsule(b"\x17", b"xyz") + capsule(b"\x18", b"")
    for cut in range(len(stream) + 1):
        assert read(stream[:cut]).is_between == (cut in ends), cut


@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 16381, 16382, 16383, 65507, LONGEST_PAYLOAD])
def test_sizes(size: int) -> None:
    """Payloads of every size that UDP has, at the borders of the lengths of their numbers too."""
    stream = datagram_capsule(b"p" * size)
    assert read(stream) == ([b"p" * size], None, True)
    assert read(stream[:-1]) == ([], None, False) or size == 0


# What is wrong.

TOO_LONG = varint(LONGEST_PAYLOAD + 2)

WRONG = {
    "no context id": b"\0\0",
    "half a context id": b"\0\x01\x40",
    "a part of a long context id": b"\0\x07" + b"\xc0" * 7,
    "too long": b"\0" + TOO_LONG + b"\0",
    "too long by a kilometre": b"\0" + varint(MOST) + b"\0",
    "too long with a padded context id": b"\0" + varint(LONGEST_PAYLOAD + 9) + long_varint(0, 8),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    """A datagram that cannot be one is an error, as soon as that is known; what came before counts."""
    stream = datagram_capsule(b"before") + WRONG[name]
    for cut in range(len(stream)):
        payloads, error, _ = read(stream[:cut], stream[cut:] + datagram_capsule(b"behind"))
        assert payloads == [b"before"]
        assert error


def test_nothing_is_read_behind_an_error() -> None:
    """The stream is over at its first error, which is one of the package's own."""
    reader = CapsuleReader()
    assert reader.feed(datagram_capsule(b"1") + b"\0\0" + datagram_capsule(b"2")) == [b"1"]
    assert isinstance(reader.error, InvalidCapsule)
    assert reader.feed(datagram_capsule(b"3")) == []


def test_longest_with_padded_context() -> None:
    """The context id's length does not count."""
    value = long_varint(0, 8) + b"p" * LONGEST_PAYLOAD
    assert read(capsule(b"\0", value)).payloads == [b"p" * LONGEST_PAYLOAD]


# Memory.


@pytest.mark.parametrize("head", [b"\x17", b"\0"])
def test_endless_capsules_are_skipped(head: bytes) -> None:
    """A capsule that nobody knows may have any length: nothing of it is kept."""
    reader = CapsuleReader()
    start = head + varint(1 << 30) + (varint(2) if head == b"\0" else b"")
    left = (1 << 30) - len(start) + len(head) + len(varint(1 << 30))
    reader.feed(start)
    chunk = b"\0" * (1 << 20)
    tracemalloc.start()
    try:
        while left > len(chunk):
            assert reader.feed(chunk) == []
            left -= len(chunk)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert reader.feed(chunk[:left] + datagram_capsule(b"next")) == [b"next"]


def test_at_most_one_datagram_is_kept() -> None:
    """What waits for its rest is one datagram."""
    reader = CapsuleReader()
    stream = datagram_capsule(b"x" * LONGEST_PAYLOAD)
    tracemalloc.start()
    try:
        for _ in range(20):
            for at in range(0, len(stream), 1000):
                reader.feed(stream[at : at + 1000])
        assert tracemalloc.get_traced_memory()[1] < 4 * LONGEST_PAYLOAD
    finally:
        tracemalloc.stop()
