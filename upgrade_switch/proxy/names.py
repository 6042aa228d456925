"""
Which fields of a message pass, as far as their names decide.

A client or server sends the same names in each of its messages, so the results for a list of names are
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ..fields import MOST_LISTS_OF_NAMES, connection_options
from .forwarded import Field, describes_client, lines_of, plain_name

__all__ = ["LOOKED_AT", "NEVER_IN_ANSWERS", "named_by_connection", "which_pass"]

# RFC 9110 §7.6.1, §7.8, §10.1.4, §11.7; RFC 9112 §6.1, Appendix C.2.2 (Proxy-Connection); RFC 7540
# §3.2.1. Whatever Connection says, they are about one connection.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# What this proxy itself sets in a request. And "Proxy", which is not a field of HTTP, but which CGI
# turns into HTTP_PROXY, where programs look for a proxy to use (CVE-2016-5385).
_NEVER_IN_REQUESTS = _HOP_BY_HOP | {b"content-length", b"host", b"proxy", b"via"}

NEVER_IN_ANSWERS = _HOP_BY_HOP | {b"via"}
# Fields that are looked at in an answer.
LOOKED_AT = NEVER_IN_ANSWERS | {b"content-length"}

# What forwarded_fields sets; it includes a trusted client's own lines.
_OURS_TO_SAY = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})


def named_by_connection(fields: Iterable[Field]) -> frozenset[bytes]:
    """The names of the fields that Connection names, in lower case (RFC 9110 §7.6.1)."""
    return _encoded(connection_options(lines_of(fields, b"connection")))


@lru_cache(MOST_LISTS_OF_NAMES)
def _encoded(options: frozenset[str]) -> frozenset[bytes]:
    return frozenset(option.encode("latin-1") for option in options)


@lru_cache(MOST_LISTS_OF_NAMES)
def which_pass(
    names: tuple[bytes, ...],
    named: frozenset[bytes],
    is_trusted: bool,
    may_expect: bool,
    may_authorize: bool,
) -> tuple[bool, ...]:
    """
    For each name of a request's fields, whether the field is for the back end (RFC 9110 §7.6.1).

    :param named: those that Connection names.
    :param is_trusted: whether the client may say on whose behalf it asks.
    :param may_expect: whether Expect passes.
    :param may_authorize: whether Authorization passes.
    """
    # Connection must not remove the fields that tell the back end who asks: a trusted proxy in front
    # may pass on a Connection that its client has written.
    dropped = {name for name in named if not describes_client(plain_name(name))}
    if not may_authorize:
        dropped.add(b"authorization")
    if not may_expect:
        dropped.add(b"expect")
    return tuple(_passes(name, is_trusted) and name.lower() not in dropped for name in names)


def _passes(name: bytes, is_trusted: bool) -> bool:
    """Whether a request's field passes if Connection does not name it."""
    plain = plain_name(name)
    return plain not in _NEVER_IN_REQUESTS and (
        not describes_client(plain) or (is_trusted and plain not in _OURS_TO_SAY)
    )
