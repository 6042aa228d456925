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

from .. import _twisted

__all__ = ["Head", "read_head"]

# RFC 9112 §3, §5, without obsolete folding, and without control characters in values, or white space
# behind them. Names are short, since they are remembered.
_HEAD = re.compile(
    rb"(?!CONNECT )([A-Z]++) ([!-~]++) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}+:[\t -~\x80-\xff]*+(?<![\t ])\r\n)++)\r\n"
)

# A line of what that matches.
_FIELD = re.compile(rb"([^:]++):[\t ]*+([^\r]*+)\r\n")

_LENGTH = re.compile(rb"[0-9]{1,18}\Z")


class Head(NamedTuple):
    """The head of a request whose content, if it has any, is as long as Content-Length says."""

    method: bytes
    target: bytes
    fields: dict[bytes, list[bytes]]
    """The values of each name, which is spelled as in Twisted's ``Headers``."""
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
    method, target, block = match.groups()
    lines = _FIELD.findall(block)
    if len(lines) > most_fields:
        return None
    fields = _twisted.by_name(lines)
    if b"Transfer-Encoding" in fields or b"Expect" in fields:
        # There is more to do than to read a head, and its content.
        return None
    lengths = fields.get(b"Content-Length")
    if lengths is None:
        return Head(method, target, fields, match.end(), 0)
    if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
        return None
    return Head(method, target, fields, match.end(), int(lengths[0]))
