"""
:func:`read_head`: a request's head in one go.

Reading a head line by line takes Twisted as long as everything else that a switch costs. Nearly every
request is plain, and its whole head comes in one piece: those are read here, by a few calls that each
look at all of it, and are stricter together than Twisted's parser. What is not plain goes the usual
way: nothing is refused or corrected here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .. import _twisted

__all__ = ["Head", "read_head"]

# RFC 9112 §3.
_REQUEST_LINE = re.compile(rb"(?!CONNECT )([A-Z]+) ([!-~]+) HTTP/1\.1\Z")

# RFC 9110 §5.6.2. They are short, since they are remembered.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_MOST_NAMES = 1000

# RFC 9110 §5.5: what is no control character.
_PLAIN = bytes([*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)])

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


class _Names(dict[bytes, bytes]):
    """The names of fields as Twisted's ``Headers`` spell them: clients use much the same ones."""

    def __missing__(self, name: bytes) -> bytes:
        """
        :raises KeyError: if it is no name, or a long one.
        """
        if _NAME.match(name) is None:
            raise KeyError(name)
        spelled = _twisted.canonical(name)
        if len(self) < _MOST_NAMES:
            self[name] = spelled
        return spelled


_names = _Names()


def read_head(data: bytes, most_bytes: int, most_fields: int) -> Head | None:
    """
    Read the head at the beginning of some bytes.

    :param most_bytes: how long it may be.
    :param most_fields: how many fields it may have.
    :return: None where it is incomplete, or anything but plain.
    """
    end = data.find(b"\r\n\r\n", 0, most_bytes)
    if end < 0:
        return None
    head = data[:end]
    lines = head.split(b"\r\n")
    line = _REQUEST_LINE.match(lines.pop(0))
    # No control characters but the line ends.
    if line is None or len(lines) > most_fields or head.translate(None, _PLAIN) != b"\r\n" * len(lines):
        return None
    fields = _by_name(lines)
    if fields is None or b"Transfer-Encoding" in fields or b"Expect" in fields:
        # There is more to do than to read a head, and its content.
        return None
    method, target = line.groups()
    length, lengths = 0, fields.get(b"Content-Length")
    if lengths is not None:
        if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
            return None
        length = int(lengths[0])
    return Head(method, target, fields, end + 4, length)


def _by_name(lines: list[bytes]) -> dict[bytes, list[bytes]] | None:
    """The values of each name; None if one of the lines is no field (RFC 9112 §5), or is folded."""
    fields: dict[bytes, list[bytes]] = {}
    try:
        for line in lines:
            name, colon, value = line.partition(b":")
            spelled, stripped = _names[name], value.strip(b" \t")
            if not colon:
                return None
            if spelled in fields:
                fields[spelled].append(stripped)
            else:
                fields[spelled] = [stripped]
    except KeyError:
        return None
    return fields
