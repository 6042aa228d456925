"""
Capsules (RFC 9297 §3.2) with the datagrams of UDP (RFC 9298 §5) in them.

Pure: bytes in, datagrams out; no Twisted, no I/O.
"""

from __future__ import annotations

from typing import Final

from ...errors import InvalidCapsule

__all__ = [
    "FORBIDDEN_FIELDS",
    "LONGEST_PAYLOAD",
    "CapsuleReader",
    "datagram_capsule",
    "read_varint",
    "varint",
]

FORBIDDEN_FIELDS: Final = (b"content-length", b"content-type", b"transfer-encoding")
"""A message with one of these that capsules follow is malformed (RFC 9297 §3.2)."""

LONGEST_PAYLOAD: Final = 65527
"""The most bytes that a UDP header can frame; a longer payload ends the stream (RFC 9298 §5)."""

# RFC 9297 §3.5, RFC 9298 §4.
_DATAGRAM, _UDP_PAYLOAD = 0, 0

# RFC 9000 §16: the two high bits of the first byte are the logarithm of the length.
_LENGTHS: Final = (1, 2, 4, 8)


def varint(value: int) -> bytes:
    """
    A number in as few bytes as possible (RFC 9000 §16).

    :raises ValueError: if it is below 0, or does not fit into 62 bits.
    """
    for logarithm, length in enumerate(_LENGTHS):
        bits = 8 * length - 2
        if 0 <= value < 1 << bits:
            return (value | logarithm << bits).to_bytes(length, "big")
    raise ValueError(f"not a number of 62 bits: {value}")


def read_varint(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """
    Read a number (RFC 9000 §16); it may have more bytes than it needs.

    :param at: where it begins.
    :return: the number, and where it ends; None if the data ends earlier.
    """
    if at >= len(data):
        return None
    length = _LENGTHS[data[at] >> 6]
    if at + length > len(data):
        return None
    bits = 8 * length - 2
    return int.from_bytes(data[at : at + length], "big") & ((1 << bits) - 1), at + length


def datagram_capsule(payload: bytes) -> bytes:
    """The capsule that carries the payload of a UDP packet."""
    return b"".join((b"\0", varint(len(payload) + 1), b"\0", payload))


class CapsuleReader:
    """
    Finds the UDP payloads in a stream of capsules, however it is cut into pieces.

    Capsules of other types, and datagrams with other context ids, are skipped, however long they are:
    nothing of them is kept (RFC 9297 §3.2, RFC 9298 §4). At most one datagram is kept, until the rest
    of it comes.

    :ivar error: what is wrong with the stream; None if nothing is. After it, nothing is read.
    """

    __slots__ = ("_kept", "_to_skip", "error")

    def __init__(self) -> None:
        self.error: InvalidCapsule | None = None
        self._kept = bytearray()
        # How many bytes of the capsule at hand are still to come, and are of no interest.
        self._to_skip = 0

    @property
    def is_between_capsules(self) -> bool:
        """Whether the stream may end here: not within a capsule (RFC 9297 §3.3)."""
        return not self._kept and not self._to_skip

    def feed(self, data: bytes) -> list[bytes]:
        """
        Read a piece of the stream.

        :return: the payloads that are complete now, up to the first error.
        """
        payloads: list[bytes] = []
        if self.error is not None:
            return payloads
        if self._kept:
            self._kept += data
            at = self._read(self._kept, payloads)
            del self._kept[:at]
        else:
            at = self._read(data, payloads)
            self._kept += data[at:]
        if self.error is not None:
            self._kept.clear()
        return payloads

    def _read(self, data: bytes | bytearray, payloads: list[bytes]) -> int:
        """
        Read what is complete.

        :return: where the rest begins.
        """
        at = 0
        while True:
            if self._to_skip:
                skipped = min(self._to_skip, len(data) - at)
                self._to_skip -= skipped
                at += skipped
            kind = read_varint(data, at)
            length = None if kind is None else read_varint(data, kind[1])
            if kind is None or length is None:
                return at
            if kind[0] != _DATAGRAM:
                at, self._to_skip = length[1], length[0]
                continue
            end = self._read_datagram(data, length[1], length[0], payloads)
            if end is None:
                return at
            at = end

    def _read_datagram(
        self, data: bytes | bytearray, begin: int, length: int, payloads: list[bytes]
    ) -> int | None:
        """
        Read the value of a DATAGRAM capsule.

        :param begin: where it begins; ``length``: how many bytes it has.
        :return: where to go on; None if more of it has to come first, or must not come.
        """
        if length == 0:
            return self._fail("a datagram without a context id")
        context = read_varint(data, begin)
        if begin < len(data) and _LENGTHS[data[begin] >> 6] > length:
            return self._fail("a datagram that ends within its context id")
        if context is None:
            return None
        payload, end = context[1], begin + length
        if context[0] != _UDP_PAYLOAD:
            self._to_skip = end - payload
            return payload
        if end - payload > LONGEST_PAYLOAD:
            return self._fail(f"a payload of {end - payload} bytes, which no UDP packet has")
        if end > len(data):
            return None
        payloads.append(bytes(data[payload:end]))
        return end

    def _fail(self, why: str) -> int | None:
        self.error = InvalidCapsule(why)
        return None
