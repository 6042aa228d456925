"""
:func:`read_head`: a request's head in one go.

Reading a head line by line takes Twisted as long as everything else that a switch costs. Nearly every
request is plain, and its whole head comes in one piece: those are read here, by a few calls that each
look at all of it, and are stricter together than Twisted's parser. What is not plain goes the usual
way: nothing is refused or corrected here.

Nearly every client sends the same fields with each request on a connection. From the third time on,
they are not read again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from .. import _twisted
from ..fields import is_host

__all__ = ["NO_FIELDS", "Head", "LastFields", "read_head", "segments_of", "what_is_wrong"]

# RFC 9112 §3.
_REQUEST_LINE = re.compile(rb"(?!CONNECT )([A-Z]+) ([!-~]+) HTTP/1\.1\r\n")

# RFC 9112 §5, without obsolete folding. What stands for a name may be anything.
_FIELD = re.compile(rb"([^:]*):[\t ]*([^\r]*)\r\n")

# RFC 9110 §5.6.2. They are short, since they are remembered.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_MOST_NAMES = 1000

# RFC 9110 §5.5: what is no control character.
_PLAIN = bytes([*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)])

_LENGTH = re.compile(rb"[0-9]{1,18}\Z")

# Bytes of fields that are remembered for as long as a connection is open.
_MOST_REMEMBERED = 4096


class LastFields(NamedTuple):
    """The fields of the last head on a connection."""

    lines: bytes
    """As they have come."""
    fields: dict[bytes, list[bytes]] | None
    """As in a ``Head``, once they have come twice; many clients ask once."""
    length: int
    """Of the content that they announce."""


NO_FIELDS = LastFields(b"", None, 0)


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
    last: LastFields
    """What the next head of the connection is read with."""


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


def read_head(
    data: bytes, most_bytes: int, most_fields: int, last: LastFields = NO_FIELDS
) -> Head | None:
    """
    Read the head at the beginning of some bytes.

    :param most_bytes: how long it may be.
    :param most_fields: how many fields it may have.
    :param last: the fields of the last head on the connection, if there was one.
    :return: None where it is incomplete, or anything but plain.
    """
    line = _REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n", 0, most_bytes)
    if line is None or end < line.end():
        return None
    # Each line with its end.
    lines = data[line.end() : end + 2]
    if last.fields is not None and lines == last.lines:
        fields, length = _copied(last.fields), last.length
    else:
        read = _read_fields(lines, most_fields)
        if read is None:
            return None
        fields, length = read
        last = _remembered(lines, fields, length, last)
    method, target = line.groups()
    return Head(method, target, fields, end + 4, length, last)


def _read_fields(block: bytes, most_fields: int) -> tuple[dict[bytes, list[bytes]], int] | None:
    """The fields, and the length of the content."""
    lines = _FIELD.findall(block)
    # As many fields as line ends, and no other control characters: nothing has been left out.
    if len(lines) > most_fields or block.translate(None, _PLAIN) != b"\r\n" * len(lines):
        return None
    fields = _by_name(lines)
    if fields is None or b"Transfer-Encoding" in fields or b"Expect" in fields:
        # There is more to do than to read a head, and its content.
        return None
    lengths = fields.get(b"Content-Length")
    if lengths is None:
        return fields, 0
    if len(lengths) > 1 or not _LENGTH.match(lengths[0]):
        return None
    return fields, int(lengths[0])


def _remembered(
    lines: bytes, fields: dict[bytes, list[bytes]], length: int, last: LastFields
) -> LastFields:
    if len(lines) > _MOST_REMEMBERED:
        return NO_FIELDS
    return LastFields(lines, _copied(fields) if lines == last.lines else None, length)


def _copied(fields: dict[bytes, list[bytes]]) -> dict[bytes, list[bytes]]:
    return {name: values.copy() for name, values in fields.items()}


def _by_name(lines: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]] | None:
    """The values of each name; None if one of the names is none."""
    fields: dict[bytes, list[bytes]] = {}
    try:
        for name, value in lines:
            spelled, stripped = _names[name], value.rstrip(b" \t")
            if spelled in fields:
                fields[spelled].append(stripped)
            else:
                fields[spelled] = [stripped]
    except KeyError:
        return None
    return fields


def what_is_wrong(fields: Mapping[bytes, Sequence[bytes]], version: bytes = b"HTTP/1.1") -> str | None:
    """
    Which rule for every request one breaks that has these fields; None if it breaks none.
    """
    hosts = fields.get(b"Host", ())
    if version == b"HTTP/1.1" and (len(hosts) != 1 or not is_host(hosts[0])):
        # RFC 9112 §3.2.
        return "A request has one valid Host."
    for name in (b"Authorization", b"Proxy-Authorization"):
        # A proxy in front may look at another one of several than twisted.web does.
        if name in fields and len(fields[name]) > 1:
            return f"A request has one {name.decode()} at most."
    return None


def segments_of(path: bytes) -> list[bytes]:
    """What resources are looked up by, from the root on."""
    segments = path[1:].split(b"/")
    return list(map(unquote_to_bytes, segments)) if b"%" in path else segments
