"""
The names and values in the header lists of all HTTP/2 messages (RFC 9113 §8.2).

Pure: decoded header lists in, values out; no Twisted, no h2, no I/O. Every request passes through here:
a few operations over all names and all values together show that an ordinary list is in order, and only
one that does not pass is looked at field by field, which decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from ..fields import connection_options, one_line

__all__ = [
    "NEVER_SENT",
    "Field",
    "clean",
    "content_length",
    "read_list",
    "sent_fields",
    "with_one_length",
]

Field: TypeAlias = tuple[bytes, bytes]

# RFC 9113 §8.2.1 with RFC 9110 §5.6.2: the characters of a token, but for the upper-case letters.
_NAME_CHARACTERS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"

# RFC 9113 §8.2.2.
_CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_WRONG_NAMES = _CONNECTION_SPECIFIC | {b""}

# RFC 7540 §3.2.1: HTTP2-Settings is about one connection, too. TE is for requests alone.
NEVER_SENT = _CONNECTION_SPECIFIC | {b"http2-settings", b"te"}

# More digits than any content has: int() refuses 4,300 of them.
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")


def read_list(
    headers: Iterable[Field], pseudo: frozenset[bytes], error: type[ValueError]
) -> tuple[list[Field], dict[bytes, bytes], int]:
    """
    Check the names and values of a header list.

    :param pseudo: the pseudo-header fields that there may be.
    :param error: is raised if a rule is broken, with a sentence that says which.
    :return: the list; its values by name, the last one of each; how many pseudo-header fields it has.
    """
    lines = list(headers)
    names, values = zip(*lines, strict=True) if lines else ((), ())
    by_name = dict(zip(names, values, strict=True))
    # What is left of the names: a colon of each pseudo-header field, and the line breaks between.
    marks = b"\n".join(names).translate(None, _NAME_CHARACTERS)
    count, text = marks.count(b":"), b"\n".join(values)
    if (
        marks != (b":\n" * count + b"\n" * (len(lines) - count))[:-1]
        or not pseudo.issuperset(names[:count])
        or len({*names[:count]}) != count
        or not _WRONG_NAMES.isdisjoint(by_name)
        or text.count(b"\n") != max(len(lines) - 1, 0)
        or b"\r" in text
        or b"\0" in text
        # Takes off more than SP and HTAB: the exact check decides.
        or tuple(map(bytes.strip, values)) != values
    ):
        _check_each(lines, pseudo, error)
    if b"te" in by_name and {value.lower() for name, value in lines if name == b"te"} != {b"trailers"}:
        raise error("TE says something other than trailers (RFC 9113 §8.2.2)")
    return lines, by_name, count


def _check_each(lines: list[Field], pseudo: frozenset[bytes], error: type[ValueError]) -> None:
    """The same, field by field."""
    seen: set[bytes] = set()
    for name, value in lines:
        if name.startswith(b":"):
            if name not in pseudo or name in seen or not seen <= pseudo:
                raise error(
                    "a pseudo-header field is unknown, repeated or not in front (RFC 9113 §8.3)"
                )
        elif not name or name.translate(None, _NAME_CHARACTERS):
            raise error("a field's name is not a token in lower case (RFC 9113 §8.2.1)")
        elif name in _CONNECTION_SPECIFIC:
            raise error(f"{name.decode()} is about a connection of HTTP/1.1 (RFC 9113 §8.2.2)")
        if one_line(value) != value or value.strip(b" \t") != value:
            raise error("a value has NUL, CR or LF in it, or white space around it (RFC 9113 §8.2.1)")
        seen.add(name)


def with_one_length(fields: list[Field], error: type[ValueError]) -> list[Field]:
    """Fields with one Content-Length in place of several that say the same (RFC 9110 §8.6)."""
    lengths = [field for field in fields if field[0] == b"content-length"]
    if len(lengths) < 2:
        return fields
    if len(set(lengths)) > 1:
        raise error("Content-Length comes with different values (RFC 9110 §8.6)")
    return [*(field for field in fields if field[0] != b"content-length"), lengths[0]]


def content_length(values: dict[bytes, bytes], error: type[ValueError]) -> int | None:
    """The number in a Content-Length (RFC 9110 §8.6); None without one."""
    value = values.get(b"content-length")
    if value is not None and not _LENGTH.match(value):
        raise error("Content-Length is not a number of at most 18 digits (RFC 9110 §8.6)")
    return None if value is None else int(value)


def sent_fields(fields: Iterable[Field], dropped: frozenset[bytes]) -> list[Field]:
    """
    Fields as HTTP/2 has them: names in lower case, values clean; without those that have no valid name,
    or that Connection names (RFC 9110 §7.6.1).

    :param dropped: the names, in lower case, of others that are left out.
    """
    lowered = [
        (_known_name(name) if len(name) <= _LONGEST_REMEMBERED else _sent_name(name), value)
        for name, value in fields
    ]
    if options := [value for name, value in lowered if name == b"connection"]:
        named = connection_options(options)
        dropped = dropped.union(option.encode("latin-1") for option in named)
    return [(name, clean(value)) for name, value in lowered if name and name not in dropped]


def _sent_name(name: bytes) -> bytes:
    """A name in lower case; nothing if it is no valid one."""
    name = name.lower()
    return b"" if name.translate(None, _NAME_CHARACTERS) else name


# Most names come again and again. The bounds keep strangers from filling the memory.
_LONGEST_REMEMBERED = 64
_known_name = lru_cache(256)(_sent_name)


def clean(value: bytes) -> bytes:
    """A value without what RFC 9113 §8.2.1 forbids."""
    # Stripped last: at its ends, a CR, LF or NUL is white space now.
    return one_line(value).strip(b" \t")
