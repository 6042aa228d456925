"""
The heads of an exchange: the request's, as it is sent, and the answer's, as it is told.

h11 looks at every field of a head, one by one. A proxy passes some ten of them each way, of which h11
needs those that say how the body is framed and what becomes of the connection. So a head that regular
expressions know to be valid is given to h11 as a *shadow*, with these alone. Any other head goes to h11
as it is: the shortcut neither refuses nor corrects anything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import h11

from ..errors import InvalidArgument
from ..fields import MOST_LISTS_OF_NAMES, names_of
from .exchange_interfaces import ExchangeHead, Fields, PlainFields, framings
from .request import Head

__all__ = [
    "LONGEST_HEAD",
    "TOKEN",
    "VALUE",
    "AnswerHead",
    "RequestHead",
    "are_plain",
    "for_h11",
    "request_head",
    "shadow_of",
    "told",
    "written_fields",
    "written_head",
]

#: How many bytes an answer's head may have.
LONGEST_HEAD = 16 * 1024

# What h11 looks at in a head, and what we ask it about.
_FOR_H11 = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}
)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
VALUE = rb"[\t -~\x80-\xff]*+"

_REQUEST_LINE = re.compile(TOKEN + rb" [!-~]++\Z")
# Several, with a line feed between two.
_NAMES = re.compile(rb"%b(?:\n%b)*+\Z" % (TOKEN, TOKEN))
# No white space at either end of a value.
_LINES = re.compile(rb"(?:[^:]++: (?:(?![ \t\r])%b(?<![ \t]))?+\r\n)++\Z" % VALUE)

_ANSWER = re.compile(
    rb"HTTP/(1\.[01]) ([0-9]{3}) (%b)\r\n((?:%b:%b\r\n)*+)\r\n\Z" % (VALUE, TOKEN, VALUE)
)
_FIELD = re.compile(rb"([^:]+):[\t ]*([^\r]*)\r\n")

# The codes of answers that have a body as long as they say (RFC 9112 §6.3).
_FINAL = re.compile(rb"(?!204|304)[2-5]")
# h11 takes 20 digits.
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")

# Clients send much the same: a shadow is made once. The bound keeps strangers from filling the memory.
_MOST_REMEMBERED = 256


class RequestHead(NamedTuple):
    """The head of a request that breaks no rule of HTTP."""

    method: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """For the parser of the connection."""
    data: bytes | None
    """What is sent; None for what that parser makes of the event."""
    length: int | None
    """
    How long the request's body is. None if that is not known, or if something in the head says what
    becomes of the connection, or how the answer is framed: then the parser has to know of the request.
    """
    target: bytes = b"/"

    @property
    def event(self) -> h11.Request:
        """For the parser of the connection."""
        make = _event if self.data is None else _shadow
        return make(self.method, self.target, self.fields)


def request_head(head: ExchangeHead) -> RequestHead:
    """
    :raises InvalidArgument: if the head breaks HTTP's rules, or if it is a CONNECT's.
    """
    data = _written(head)
    if data is None:
        request = RequestHead(head.method, tuple(head.fields), None, None, head.target)
    else:
        fields = tuple(compress(head.fields, for_h11(names_of(head.fields)) or ()))
        request = RequestHead(head.method, fields, data, _counted(head.method, fields))
    if request.length is None:
        # It raises what has to be raised; that of a counted one is only made if it is needed.
        request.event  # noqa: B018
    return request


def _counted(method: bytes, fields: Fields) -> int | None:
    """
    :param fields: those that h11 looks at, Host in front.
    :return: the length of a plain head.
    """
    if method in (b"HEAD", b"CONNECT") or len(fields) > 2:
        return None
    if len(fields) == 1:
        return 0
    name, value = fields[1]
    return int(value) if name.lower() == b"content-length" and _LENGTH.match(value) else None


def _written(head: ExchangeHead) -> bytes | None:
    """A head as it is sent, if all of its fields are plain, and Host comes first."""
    method, target, fields, lines = head
    if lines is None:
        lines = written_fields(fields)
    if lines is None or fields[0][0].lower() != b"host":
        return None
    return written_head(method, target, lines)


def written_head(method: bytes, target: bytes, lines: bytes) -> bytes | None:
    """
    A head as it is sent.

    :param lines: its fields, as :func:`written_fields` has them.
    :return: None unless its request line is plain.
    """
    line = method + b" " + target
    return b"%b HTTP/1.1\r\n%b\r\n" % (line, lines) if _REQUEST_LINE.match(line) else None


def written_fields(fields: Fields) -> bytes | None:
    """
    :return: fields as they are sent, one on each line; None unless there are some, and all are plain.
    """
    lines = b"".join([name + b": " + value + b"\r\n" for name, value in fields])
    is_plain = are_plain(lines, len(fields)) and for_h11(names_of(fields)) is not None
    return lines if is_plain else None


def are_plain(lines: bytes, count: int) -> bool:
    """Whether the values in so many lines are plain, if the names are known to be."""
    return lines.count(b"\n") == count and _LINES.match(lines) is not None


@lru_cache(MOST_LISTS_OF_NAMES)
def for_h11(names: tuple[bytes, ...]) -> tuple[bool, ...] | None:
    """
    :return: for each name, whether h11 looks at that field; None unless all of them are tokens.
    """
    if b"\n" in b"".join(names) or not _NAMES.match(b"\n".join(names)):
        return None
    return tuple(name.lower() in _FOR_H11 for name in names)


@lru_cache(_MOST_REMEMBERED)
def _shadow(method: bytes, target: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> h11.Request:
    return _event(method, target, fields)


def _event(method: bytes, target: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> h11.Request:
    try:
        request = h11.Request(method=method, target=target, headers=list(fields))
    except h11.LocalProtocolError as error:
        raise InvalidArgument(f"not the head of a request: {error}") from error
    if request.method == b"CONNECT":
        raise InvalidArgument("an exchange has no CONNECT")
    if len(framings(fields)) > 1:
        raise InvalidArgument("a request has one framing: Content-Length, or Transfer-Encoding")
    return request


class AnswerHead(NamedTuple):
    """The head of an answer, of a 1xx too."""

    code: int
    phrase: bytes
    fields: Fields
    """As they were sent."""
    version: bytes
    event: Head | None
    """What h11 has made of it, or of its shadow; None if it was not asked."""


class Shadow(NamedTuple):
    """A valid head, and what h11 gets in its place."""

    code: int
    phrase: bytes
    fields: Fields
    length: int | None
    """
    How long the body is that follows, if only Content-Length says so, in HTTP/1.1, and nothing says
    what becomes of the connection. (The answer to HEAD has none.)
    """
    version: bytes
    looked_at: Fields
    """Those of the fields that h11 looks at."""

    @property
    def data(self) -> bytes:
        lines = [b"HTTP/%b %d " % (self.version, self.code)]
        lines += [name + b": " + value for name, value in self.looked_at]
        return b"\r\n".join([*lines, b"", b""])


def shadow_of(head: bytes) -> Shadow | None:
    """
    What h11 is given in place of an answer's head.

    :param head: a complete one.
    :return: None unless it is plain.
    """
    match = _ANSWER.match(head)
    if match is None:
        return None
    version, code, phrase, lines = match.groups()
    fields = PlainFields(_FIELD.findall(lines))
    if b" \r" in lines or b"\t\r" in lines:
        fields = PlainFields((name, value.rstrip(b" \t")) for name, value in fields)
    looked_at = list(compress(fields, for_h11(names_of(fields)) or ()))
    length = None
    if version == b"1.1" and len(looked_at) == 1 and _FINAL.match(code):
        ((name, value),) = looked_at
        if name.lower() == b"content-length" and _LENGTH.match(value):
            length = int(value)
    return Shadow(int(code), phrase, fields, length, version, looked_at)


def told(event: Head, shadow: Shadow | None) -> AnswerHead:
    """
    The head of an answer as its listener is told of it.

    :param event: what h11 has made of the head, or of its shadow.
    """
    version = bytes(event.http_version)
    if shadow is None:
        fields = event.headers.raw_items()
        return AnswerHead(event.status_code, bytes(event.reason), fields, version, event)
    return AnswerHead(event.status_code, shadow.phrase, shadow.fields, version, event)
