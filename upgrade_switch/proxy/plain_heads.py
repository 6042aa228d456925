"""
The heads of plain messages, both ways, each in one go.

What :mod:`.fields` makes of a message depends, as a rule, on the names of its fields alone. What is
found out about these is remembered: for a request, how its lines are written; for an answer, which of
them pass as they have come. Any message may go through :mod:`.fields`, field by field, and the outcome
is the same; those that are not plain have to.

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
from .names import LOOKED_AT, NEVER_IN_ANSWERS, named_by_connection, which_pass

__all__ = ["Passing", "head_for_client", "passing", "plain_lines"]

_MOST_REMEMBERED = 256

# What depends on more than the names and the client.
_NOT_PLAIN = frozenset({b"via", b"expect", b"upgrade", b"max-forwards"})

# What may be in a plain answer, of what is looked at. The last two are never for the client.
_MAY_BE_IN_ANSWERS = frozenset({b"content-length", b"connection", b"keep-alive"})

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


class Passing(NamedTuple):
    """What becomes of a plain answer's fields."""

    kept: tuple[bool, ...] | None
    """Which are for the client; None if all are."""
    has_date: bool


@lru_cache(MOST_LISTS_OF_NAMES)
def passing(
    names: tuple[bytes, ...], code: int, locations: bool, cookies: bool, learns: bool
) -> Passing | None:
    """
    What becomes of a plain answer's fields, as ``answer_fields`` and ``answer_places`` have it.

    :param names: those of all fields; there is one Content-Length at most, which is valid, and
        Connection names nothing but ``keep-alive``.
    :param locations: whether Location and Content-Location are changed.
    :param cookies: whether Set-Cookie is.
    :param learns: whether somebody wants to know of its cookies.
    :return: None if something has to be changed, or looked at.
    """
    lower = [name.lower() for name in names]
    looked_at = LOOKED_AT.intersection(lower)
    if not _MAY_BE_IN_ANSWERS.issuperset(looked_at) or code == _UPGRADE_REQUIRED:
        return None
    # RFC 9110 §8.6.
    if code == _NO_CONTENT and b"content-length" in looked_at:
        return None
    if learns and b"set-cookie" in lower:
        return None
    if has_places([(name, b"") for name in names], locations=locations, cookies=cookies):
        return None
    kept = tuple(name not in NEVER_IN_ANSWERS for name in lower)
    return Passing(None if all(kept) else kept, b"date" in lower)


def head_for_client(head: bytes, fields: Passing, pseudonym: bytes, date: bytes) -> bytes:
    """
    The head of a plain answer as the client gets it.

    :param head: as it has come, with its empty line.
    :param date: the Date that it gets if it has none.
    """
    lines = head[:-2]
    if fields.kept is not None:
        first, *each = lines.splitlines(True)
        lines = first + b"".join(compress(each, fields.kept))
    if not fields.has_date:
        lines += b"Date: " + date + b"\r\n"
    return lines + via_line(pseudonym) + b"\r\n"


@lru_cache(_MOST_REMEMBERED)
def via_line(pseudonym: bytes) -> bytes:
    """What a plain answer gets behind its fields."""
    name, value = via((), b"HTTP/1.1", pseudonym)
    return name + b": " + value + b"\r\n"
