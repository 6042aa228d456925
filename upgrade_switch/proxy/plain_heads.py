"""
The heads of plain messages, both ways, each in one go.

What :mod:`.fields` makes of a message depends, as a rule, on the names of its fields alone. What is
found out about these is remembered: for a request, how its lines are written; for an answer, that it
passes as it has come. Any message may go through :mod:`.fields`, field by field, and the outcome is the
same; those that are not plain have to.

Pure, as :mod:`.fields` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

from ..client.exchange_heads import are_plain, for_h11, written_fields
from ..fields import MOST_LISTS_OF_NAMES, lower_names
from .fields import Rules, framing, host_of
from .forwarded import Client, Trusted, forwarded_fields, via
from .locations import has_places
from .names import LOOKED_AT, named_by_connection, which_pass

__all__ = ["passes_as_it_is", "plain_lines", "via_line"]

_MOST_REMEMBERED = 256

# What depends on more than the names and the client.
_NOT_PLAIN = frozenset({b"via", b"expect", b"upgrade", b"max-forwards"})

_NONE: frozenset[bytes] = frozenset()

_NO_CONTENT, _UPGRADE_REQUIRED = 204, 426


class _Kept(NamedTuple):
    """Which fields of a request pass, and how these are written."""

    passes: tuple[bool, ...]
    lines: bytes
    """With a place for each value."""
    size: int
    """How many lines there are."""


def plain_lines(
    fields: Mapping[bytes, Sequence[bytes]],
    client: Client,
    rules: Rules,
    *,
    length: int | None,
    authority: bytes,
) -> bytes | None:
    """
    The fields of a request as they are sent to the back end: what ``request_fields`` has as ``lines``.

    :param fields: the values of each name, which is spelled as in Twisted's ``Headers``, of the client,
        which offers no upgrade.
    :param length: of the body; None if there is none.
    :param authority: the back end's.
    :return: None unless the request is plain.
    """
    if client.version != b"HTTP/1.1" or (rules.trusted.has_any and client.address in rules.trusted):
        return None
    try:
        values = [value for (value,) in fields.values()]
    except ValueError:
        # Some are repeated.
        return None
    named = _named_by(fields[b"Connection"][0]) if b"Connection" in fields else _NONE
    kept = _kept(tuple(fields), named, not rules.strip_authorization)
    around = _around(client, rules.preserve_host, rules.pseudonym, authority)
    if kept is None or around is None:
        return None
    lines = kept.lines % tuple(compress(values, kept.passes))
    if kept.size and not are_plain(lines, kept.size):
        return None
    host, said = around
    if length is None:
        return host + lines + said
    ((name, value),) = framing(length)
    return b"%b%b%b: %b\r\n%b" % (host, lines, name, value, said)


@lru_cache(MOST_LISTS_OF_NAMES)
def _named_by(connection: bytes) -> frozenset[bytes]:
    return named_by_connection([(b"Connection", connection)])


@lru_cache(MOST_LISTS_OF_NAMES)
def _kept(names: tuple[bytes, ...], named: frozenset[bytes], may_authorize: bool) -> _Kept | None:
    """
    :return: None unless the names are tokens, and say that the request is plain.
    """
    if for_h11(names) is None or not _NOT_PLAIN.isdisjoint(lower_names(names)):
        return None
    passes = which_pass(names, named, False, False, may_authorize)
    kept = [name.replace(b"%", b"%%") for name in compress(names, passes)]
    return _Kept(passes, b"".join([name + b": %b\r\n" for name in kept]), len(kept))


@lru_cache(_MOST_REMEMBERED)
def _around(
    client: Client, preserve_host: bool, pseudonym: bytes, authority: bytes
) -> tuple[bytes, bytes] | None:
    """
    The lines in front of those that pass, and behind them: Host, and what is said of a client of whom
    nobody else has said anything, and of the proxy.
    """
    host = written_fields([(b"Host", host_of(client, preserve_host, authority))])
    said = forwarded_fields((), client, Trusted())
    lines = written_fields([*said, via((), client.version, pseudonym)])
    return None if host is None or lines is None else (host, lines)


@lru_cache(MOST_LISTS_OF_NAMES)
def passes_as_it_is(
    names: tuple[bytes, ...], code: int, locations: bool, cookies: bool, learns: bool
) -> bool:
    """
    Whether a plain answer passes as it has come, but for :func:`via_line` behind its fields:
    ``answer_fields`` drops none of them, and ``answer_places`` changes none.

    :param names: of its fields, among which there is one Content-Length at most, which is valid.
    :param locations: whether Location and Content-Location are changed.
    :param cookies: whether Set-Cookie is.
    :param learns: whether somebody wants to know of its cookies.
    """
    lower = lower_names(names)
    looked_at = LOOKED_AT & lower
    return (
        not (looked_at - {b"content-length"} or code == _UPGRADE_REQUIRED)
        # RFC 9110 §8.6.
        and not (looked_at and code == _NO_CONTENT)
        # Else the client gets this server's.
        and b"date" in lower
        and not (learns and b"set-cookie" in lower)
        and not has_places([(name, b"") for name in names], locations=locations, cookies=cookies)
    )


@lru_cache(_MOST_REMEMBERED)
def via_line(pseudonym: bytes) -> bytes:
    """What a plain answer gets behind its fields."""
    name, value = via((), b"HTTP/1.1", pseudonym)
    return name + b": " + value + b"\r\n"
