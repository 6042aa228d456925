"""
The grammar of the fields that a switch depends on: tokens, ``Host``, ``Connection``, and values that
are safe to write.

Pure: bytes or text in, values out; no Twisted, no I/O. Whatever comes from the network, nothing here
raises.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha1
from ipaddress import AddressValueError, IPv6Address

__all__ = [
    "MOST_LISTS_OF_NAMES",
    "accept_key",
    "connection_options",
    "elements",
    "is_authority",
    "is_host",
    "is_token",
    "lower_names",
    "names_of",
    "one_line",
    "options_without",
    "printable",
    "says_continue",
    "split_absolute",
    "split_protocol",
    "written_head",
]

# RFC 9110 §5.6.2: token = 1*tchar. Anchored with \Z: "$" would take a trailing newline.
_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = re.compile(rf"{_TCHAR}+\Z")
_PROTOCOL = re.compile(rf"({_TCHAR}+)(?:/({_TCHAR}+))?\Z")

# RFC 9110 §5.6.3: OWS is SP and HTAB. bytes.strip() without arguments takes VT and FF as well.
_OWS = " \t"

# RFC 9110 §5.5: CR, LF and NUL are dangerous in a field; each becomes a SP.
_SPACED = bytes.maketrans(b"\r\n\0", b"   ")

# Clients send much the same lines: short ones are parsed once. The bounds keep strangers from filling
# the memory.
_LONGEST_REMEMBERED = 128
_MOST_REMEMBERED = 256

#: How many lists of names are remembered with what was found out about them: a hostile one has 30 KB.
MOST_LISTS_OF_NAMES = 100

# Those of 65535, and some zeros in front.
_MOST_PORT_DIGITS = 9

# RFC 3986 §3.2.2: reg-name (which IPv4 addresses match, too) or an IP literal; RFC 9110 §4.2.1:
# "http" has no empty host. The port may be empty.
_HOST = re.compile(
    rb"(?:\[(?:(?P<v6>[0-9A-Fa-f:.]+)|[vV][0-9A-Fa-f]+\.[\w\-.~!$&'()*+,;=:]+)\]"
    rb"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::(?P<port>[0-9]*))?\Z",
    re.ASCII,
)


# RFC 3986 §3.1, §3.2; the rest is whatever follows.
_ABSOLUTE = re.compile(
    rb"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):(?://(?P<authority>[^/?#]*)(?P<rest>.*)|.*)\Z", re.DOTALL
)


def is_token(text: str) -> bool:
    """Whether a string is a ``token`` (RFC 9110 §5.6.2), as methods and field names are."""
    return _TOKEN.match(text) is not None


def split_protocol(text: str) -> tuple[str, str | None] | None:
    """
    Split ``protocol-name["/"protocol-version]`` (RFC 9110 §7.8).

    :return: the name and the version (None without one); None if the string breaks the grammar.
    """
    match = _PROTOCOL.match(text)
    return None if match is None else (match[1], match[2])


def is_host(value: bytes) -> bool:
    """
    Whether a ``Host`` field's value is ``uri-host [":" port]`` with a host in it (RFC 9110 §7.2,
    §4.2.1; RFC 3986 §3.2.2).
    """
    return _is_short_host(value) if len(value) <= _LONGEST_REMEMBERED else _is_host(value)


def _is_host(value: bytes) -> bool:
    match = _HOST.match(value)
    if match is None:
        return False
    literal = match["v6"]
    if literal is None:
        return True
    try:
        IPv6Address(literal.decode("ascii"))
    except AddressValueError:
        return False
    return True


_is_short_host = lru_cache(_MOST_REMEMBERED)(_is_host)


def is_authority(value: bytes) -> bool:
    """
    Whether the target of a CONNECT is ``uri-host ":" port`` with a port from 1 to 65535 (RFC 9112
    §3.2.3; RFC 9110 §9.3.6).
    """
    match = _HOST.match(value)
    if match is None or not is_host(value):
        return False
    port: bytes = match["port"] or b"0"
    return len(port) <= _MOST_PORT_DIGITS and 0 < int(port) < 65536


def split_absolute(target: bytes) -> tuple[bytes, bytes] | None:
    """
    Split a request target in absolute-form (RFC 9112 §3.2.2).

    :return: its authority, and the rest in origin-form (``b""`` without path and query); None if the
        target has another form. The authority is empty if it is not valid, or the scheme is neither
        ``http`` nor ``https``.
    """
    match = _ABSOLUTE.match(target)
    if match is None:
        return None
    authority = match["authority"] or b""
    if match["scheme"].lower() not in (b"http", b"https") or not is_host(authority):
        return b"", target
    rest: bytes = match["rest"] or b""
    return authority, b"/" + rest if rest.startswith(b"?") else rest


def elements(lines: Iterable[bytes]) -> Iterator[str]:
    """
    The elements of a list-based field, of all its lines together, empty ones skipped (RFC 9110
    §5.6.1, §5.3). They are decoded as Latin-1, which keeps every byte: no element becomes valid by it.
    """
    for line in lines:
        for element in line.decode("latin-1").split(","):
            stripped = element.strip(_OWS)
            if stripped:
                yield stripped


def connection_options(lines: Sequence[bytes]) -> frozenset[str]:
    """
    The connection options of all ``Connection`` lines together, in lower case (RFC 9110 §7.6.1).
    """
    if len(lines) == 1 and len(lines[0]) <= _LONGEST_REMEMBERED:
        return _options_of_line(lines[0])
    return frozenset(elements(line.lower() for line in lines))


@lru_cache(_MOST_REMEMBERED)
def _options_of_line(line: bytes) -> frozenset[str]:
    return frozenset(elements((line.lower(),)))


def says_continue(lines: Iterable[bytes]) -> bool:
    """Whether a 100 (Continue) is among the expectations of all ``Expect`` lines (RFC 9110 §10.1.1)."""
    return any(element.lower() == "100-continue" for element in elements(lines))


def options_without(lines: Iterable[bytes], dropped: Collection[str]) -> list[str]:
    """
    The options of all ``Connection`` lines together, in their order and spelling, without some.

    :param dropped: the options to leave out, in lower case.
    """
    return [option for option in elements(lines) if option.lower() not in dropped]


def names_of(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """
    The names of a message's fields. Whoever sends several messages uses the same names in them, so what
    can be said of all names together is found out once, and remembered.
    """
    return tuple([name for name, _ in fields])


@lru_cache(MOST_LISTS_OF_NAMES)
def lower_names(names: tuple[bytes, ...]) -> frozenset[bytes]:
    """The names in lower case."""
    return frozenset(map(bytes.lower, names))


def one_line(value: bytes) -> bytes:
    """A field's value with a space in place of each CR, LF and NUL (RFC 9110 §5.5)."""
    return value.translate(_SPACED)


def written_head(lines: Sequence[bytes]) -> bytes:
    """
    A head as it is sent: its lines and an empty one. CR, LF and NUL within a line become spaces.

    :param lines: the status line, and one for each field.
    """
    written = b"\r\n".join(lines)
    if b"\0" in written or not written.count(b"\r") == written.count(b"\n") == len(lines) - 1:
        written = b"\r\n".join(map(one_line, lines))
    return written + b"\r\n\r\n"


def printable(text: str) -> str:
    """
    A string that is safe for a terminal and for a log: each character that is not printable, such as
    a control character or one that changes the direction of the text, becomes a question mark.
    """
    return "".join(character if character.isprintable() else "?" for character in text)


# RFC 6455 §4.2.2.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept to a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _MAGIC, usedforsecurity=False).digest())
