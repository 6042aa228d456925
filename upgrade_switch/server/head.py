"""
:func:`read_head`: a request's head in one go.

Reading a head line by line takes Twisted as long as everything else that a switch costs. Nearly every
request that matters for that is a plain GET whose whole head comes in one piece: those are read here,
with one regular expression that is stricter than Twisted's parser. What it does not match goes the
usual way: it neither refuses nor corrects anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Head", "read_head"]

# RFC 9112 §3, §5, without obsolete folding, and without control characters in values.
_HEAD = re.compile(
    rb"GET ([!-~]+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n"
)

_FIELD = re.compile(rb"([^:]+):[\t ]*([^\r]*)\r\n")

# Fields that say that there is more to do than to read a head.
_MORE = frozenset({b"content-length", b"transfer-encoding", b"expect"})


class Head(NamedTuple):
    """The head of a GET request without content."""

    target: bytes
    fields: list[tuple[bytes, bytes]]
    length: int
    """How many bytes it is long."""


def read_head(data: bytes, most_bytes: int, most_fields: int) -> Head | None:
    """
    Read the head at the beginning of some bytes.

    :param most_bytes: how long it may be.
    :param most_fields: how many fields it may have.
    :return: None where it is incomplete, or anything but plain.
    """
    match = _HEAD.match(data)
    if match is None or match.end() > most_bytes:
        return None
    target, lines = match.groups()
    fields = _FIELD.findall(lines)
    if len(fields) > most_fields or not _MORE.isdisjoint([name.lower() for name, _ in fields]):
        return None
    if b" \r" in lines or b"\t\r" in lines:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return Head(target, fields, match.end())
