"""
:func:`read_head`: a request's head in one go.

Reading a head line by line takes Twisted as long as everything else that a switch costs. Nearly every
request is plain, and its whole head comes in one piece: those are read here, with one regular
expression that is stricter than Twisted's parser. What it does not match goes the usual way: it neither
refuses nor corrects anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Head", "read_head"]

# RFC 9112 §3, §5, without obsolete folding, and without control characters in values.
_HEAD = re.compile(
    rb"(?!CONNECT )([A-Z]+) ([!-~]+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n"
)

_FIELD = re.compile(rb"([^:]+):[\t ]*([^\r]*)\r\n")

# Fields that say that there is more to do than to read a head, and its content.
_MORE = frozenset({b"transfer-encoding", b"expect"})

_LENGTH = re.compile(rb"[0-9]{1,18}\Z")


class Head(NamedTuple):
    """The head of a request whose content, if it has any, is as long as Content-Length says."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    size: int
    """How many bytes it is long."""
    length: int
    """How many bytes its content has."""


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
    method, target, lines = match.groups()
    fields = _FIELD.findall(lines)
    if b" \r" in lines or b"\t\r" in lines:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    names = [name.lower() for name, _ in fields]
    if len(fields) > most_fields or not _MORE.isdisjoint(names):
        return None
    lengths = names.count(b"content-length")
    if not lengths:
        return Head(method, target, fields, match.end(), 0)
    length = fields[names.index(b"content-length")][1]
    if lengths > 1 or not _LENGTH.match(length):
        return None
    return Head(method, target, fields, match.end(), int(length))
