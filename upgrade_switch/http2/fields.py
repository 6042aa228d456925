"""
The heads and trailers of HTTP/2 messages (RFC 9113 §8.3, §8.5; RFC 8441 §4): those that come are
checked and taken apart, once; those that are sent are made clean.

Pure: decoded header lists in, values out; no Twisted, no h2, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..fields import elements, is_authority, is_host, is_token, split_protocol
from .lists import NEVER_SENT, Field, clean, content_length, read_list, sent_fields, with_one_length

__all__ = [
    "MalformedRequest",
    "MalformedResponse",
    "RequestHead",
    "ResponseHead",
    "check_trailers",
    "read_request_head",
    "read_response_head",
    "request_fields",
    "response_fields",
]

_OF_REQUESTS = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_OF_RESPONSES = frozenset({b":status"})
_OF_TRAILERS: frozenset[bytes] = frozenset()

# These need no look at their grammar.
_USUAL_METHODS = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT"}
)

# RFC 9110 §7.2. (Two logins are a valid list, which the request is answered 400 for.)
_ONCE = (b"host",)

# RFC 3986 §3.1. In a path, visible characters without "#": fragments are not sent (RFC 9110 §7.1).
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*\Z")
_PATH = re.compile(rb"/[!\"$-~]*\Z")
_PATH_OF_OTHER_SCHEMES = re.compile(rb"[!\"$-~]+\Z")

# Clients ask the same hosts again and again. The bounds keep strangers from filling the memory.
_LONGEST_REMEMBERED = 128
_is_known_host = lru_cache(256)(is_host)

_STATUS = re.compile(rb"[1-9][0-9]{2}\Z")


class MalformedRequest(ValueError):
    """A request breaks the rules of HTTP/2 (RFC 9113 §8.1.1); the message says which."""


class MalformedResponse(ValueError):
    """A response breaks the rules of HTTP/2 (RFC 9113 §8.1.1); the message says which."""


class RequestHead(NamedTuple):
    """
    The parts of a request's head.

    :ivar scheme: in lower case; None for a CONNECT without ``:protocol``, as the path is.
    :ivar authority: that of ``:authority``; without one, that of Host.
    :ivar fields: without Host, which is the authority; Cookie and Content-Length once at most.
    """

    method: bytes
    scheme: bytes | None
    authority: bytes
    path: bytes | None
    protocol: bytes | None
    fields: list[Field]
    content_length: int | None


class ResponseHead(NamedTuple):
    """The parts of a response's head."""

    status: int
    fields: list[Field]
    content_length: int | None


def read_request_head(headers: Iterable[Field]) -> RequestHead:
    """
    Check a request's header list, and take it apart (RFC 9113 §8.3.1).

    :raises MalformedRequest: if it breaks a rule.
    """
    lines, values, count = read_list(headers, _OF_REQUESTS, MalformedRequest)
    fields = lines[count:]
    if len(values) != len(lines):
        fields = _joined(fields)
    get = values.get
    method, scheme, path, protocol = get(b":method"), get(b":scheme"), get(b":path"), get(b":protocol")
    if method not in _USUAL_METHODS and (method is None or not is_token(method.decode("latin-1"))):
        raise MalformedRequest(":method is missing, or not a token (RFC 9113 §8.3.1)")
    if method == b"CONNECT":
        _check_connect(values)
    elif protocol is not None:
        raise MalformedRequest(":protocol is for CONNECT only (RFC 8441 §4)")
    if method != b"CONNECT" or protocol is not None:
        if scheme is None or path is None:
            raise MalformedRequest(":scheme or :path is missing (RFC 9113 §8.3.1)")
        if scheme != b"https":
            # Compared without case (RFC 9110 §4.2.3): HTTP has the rules of http.
            scheme = scheme.lower()
        if scheme != b"https" or not _PATH.match(path):
            _check_target(method, scheme, path)
    authority, host = get(b":authority"), get(b"host")
    if host is not None:
        authority = host if authority is None else authority
        if authority.lower() != host.lower():
            raise MalformedRequest("Host is not what :authority says (RFC 9113 §8.3.1)")
        fields = [field for field in fields if field[0] != b"host"]
    if authority is None:
        raise MalformedRequest(":authority and Host are missing (RFC 9113 §8.3.1)")
    is_valid = _is_known_host if len(authority) <= _LONGEST_REMEMBERED else is_host
    if not is_valid(authority):
        raise MalformedRequest("the authority is not a host, with or without a port (RFC 9113 §8.3.1)")
    length = content_length(values, MalformedRequest)
    return RequestHead(method, scheme, authority, path, protocol, fields, length)


def _check_connect(values: dict[bytes, bytes]) -> None:
    """Check what is special about CONNECT (RFC 9113 §8.5), and the extended one (RFC 8441 §4)."""
    authority, protocol = values.get(b":authority"), values.get(b":protocol")
    if b"content-length" in values:
        raise MalformedRequest("a CONNECT has no content, hence no Content-Length (RFC 9110 §9.3.6)")
    if authority is None:
        raise MalformedRequest("a CONNECT needs :authority (RFC 9113 §8.5)")
    if protocol is not None:
        if split_protocol(protocol.decode("latin-1")) is None:
            raise MalformedRequest(":protocol is not an upgrade token (RFC 8441 §4)")
    elif b":scheme" in values or b":path" in values:
        raise MalformedRequest("a CONNECT has neither :scheme nor :path (RFC 9113 §8.5)")
    elif not is_authority(authority):
        raise MalformedRequest("the authority of a CONNECT is a host and a port (RFC 9113 §8.5)")


def _check_target(method: bytes, scheme: bytes, path: bytes) -> None:
    """Check a target that is not plain: ``*``, or of a scheme other than ``https``."""
    if not _SCHEME.match(scheme):
        raise MalformedRequest(":scheme is not a scheme (RFC 9113 §8.3.1)")
    grammar = _PATH if scheme in (b"https", b"http") else _PATH_OF_OTHER_SCHEMES
    if not grammar.match(path) and (method, path) != (b"OPTIONS", b"*"):
        raise MalformedRequest(":path is not a path, nor the * of OPTIONS (RFC 9113 §8.3.1)")


def _joined(fields: list[Field]) -> list[Field]:
    """A request's fields, some of which come more than once."""
    names = [name for name, _ in fields]
    for name in _ONCE:
        if names.count(name) > 1:
            raise MalformedRequest(f"{name.decode()} comes more than once (RFC 9110 §5.3)")
    if names.count(b"cookie") > 1:
        # RFC 9113 §8.2.3.
        crumbs = [value for name, value in fields if name == b"cookie" and value]
        fields = [field for field in fields if field[0] != b"cookie"]
        fields.append((b"cookie", b"; ".join(crumbs)))
    return with_one_length(fields, MalformedRequest)


def check_trailers(headers: Iterable[Field]) -> None:
    """
    Check a request's trailers (RFC 9113 §8.1).

    :raises MalformedRequest: if they break a rule.
    """
    read_list(headers, _OF_TRAILERS, MalformedRequest)


def read_response_head(headers: Iterable[Field]) -> ResponseHead:
    """
    Check a response's header list, and take it apart (RFC 9113 §8.3.2).

    :raises MalformedResponse: if it breaks a rule.
    """
    lines, values, count = read_list(headers, _OF_RESPONSES, MalformedResponse)
    status = values.get(b":status", b"")
    if not _STATUS.match(status) or status == b"101":
        raise MalformedResponse(":status is missing, no number, or 101 (RFC 9113 §8.3.2, §8.6)")
    fields = with_one_length(lines[count:], MalformedResponse)
    return ResponseHead(int(status), fields, content_length(values, MalformedResponse))


def response_fields(code: int, fields: Iterable[Field]) -> list[Field]:
    """
    The header list of a response (RFC 9113 §8.3.2): names in lower case, values clean; what is about a
    connection of HTTP/1.1, and what has no valid name, is left out.
    """
    return [(b":status", b"%d" % code), *sent_fields(fields, NEVER_SENT)]


def request_fields(
    method: bytes,
    scheme: bytes | None,
    authority: bytes,
    path: bytes | None,
    fields: Iterable[Field],
    protocol: bytes | None = None,
) -> list[Field]:
    """
    The header list of a request (RFC 9113 §8.3.1), with fields as in :func:`response_fields`, but
    without Host, which is the authority.

    :param scheme: None for a CONNECT without ``:protocol``, as the path is.
    """
    fields = list(fields)
    values = (method, scheme, authority, path, protocol)
    names = (b":method", b":scheme", b":authority", b":path", b":protocol")
    sent = [
        (name, clean(value)) for name, value in zip(names, values, strict=True) if value is not None
    ]
    sent += sent_fields(fields, NEVER_SENT | {b"host"})
    # With HTTP/1.1, Connection has to name TE (RFC 9110 §10.1.4): here that does not count.
    if "trailers" in elements(value.lower() for name, value in fields if name.lower() == b"te"):
        sent.append((b"te", b"trailers"))
    return sent
