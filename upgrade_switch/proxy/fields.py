"""
The fields that pass through a reverse proxy, both ways.

``Connection`` and what it names are for us alone; so is everything about the connection (RFC 9110
§7.6.1). What goes on is the rest, in the same order, spelled the same way; and then what this proxy
says itself, which nobody can have stripped by naming it in a Connection field (CVE-2021-32813,
CVE-2024-45410): it is added afterwards.

Pure: fields in, fields out; nothing here raises because of what comes from the network. What cannot
pass is a value: :class:`BadAnswer`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, NamedTuple, TypeAlias

from ..client.exchange_heads import written_fields
from ..client.exchange_interfaces import PlainFields
from ..errors import InvalidArgument
from ..fields import connection_options, is_host, lower_names, names_of
from ..negotiation import NO_OFFER, Offer, TokenTable, UpgradeToken
from .forwarded import (
    Client,
    Field,
    Trusted,
    clean,
    clean_fields,
    forwarded_fields,
    lines_of,
    new_pseudonym,
    one_hop_less,
    via,
)
from .names import LOOKED_AT, NEVER_IN_ANSWERS, named_by_connection, which_pass

__all__ = [
    "CHUNKED",
    "AnswerFields",
    "BadAnswer",
    "RequestFields",
    "Rules",
    "Tokens",
    "answer_fields",
    "framing",
    "host_of",
    "request_fields",
]

Length: TypeAlias = int | Literal["chunked"] | None
"""The body of a message: how many bytes, or ``CHUNKED`` if nobody knows; None: it has none."""

CHUNKED: Literal["chunked"] = "chunked"

_LENGTH = re.compile(rb"[0-9]{1,18}\Z")

_SWITCHING_PROTOCOLS = 101
_UPGRADE_REQUIRED = 426


class Tokens:
    """The tokens that a proxy passes on; what else is offered is not asked for."""

    def __init__(self, tokens: Iterable[str]) -> None:
        """
        :param tokens: as the keys of an ``UpgradeResource``: a name stands for any version or none,
            ``name/version`` for that version alone.
        :raises InvalidToken: if one breaks the grammar.
        :raises InvalidArgument: if it is a single string.
        :raises InvalidUpgrades: if one is not a string.
        """
        if isinstance(tokens, str | bytes):
            raise InvalidArgument(f"tokens is a list of tokens, not {tokens!r}")
        self._table = TokenTable[None](dict.fromkeys(tokens))

    def among(self, offer: Iterable[UpgradeToken]) -> tuple[UpgradeToken, ...]:
        """The tokens of an Upgrade field that pass, in its order and spelling."""
        return tuple(token for token, _ in self._table.known(offer))


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What holds for all messages of a proxy.

    :ivar tokens: what may be switched to.
    :ivar trusted: who may say on whose behalf they ask.
    :ivar preserve_host: whether the back end sees the client's Host, or its own.
    :ivar strip_authorization: whether Authorization ends here, being for this site's own login.
    :ivar lenient: whether a 101 without ``Connection: upgrade`` switches.
    :ivar pseudonym: this proxy's name in Via.
    """

    tokens: Tokens
    trusted: Trusted
    preserve_host: bool = True
    strip_authorization: bool = False
    lenient: bool = False
    pseudonym: bytes = field(default_factory=new_pseudonym)


class RequestFields(NamedTuple):
    """What goes to the back end."""

    fields: list[Field]
    asked: tuple[UpgradeToken, ...]
    """What it is asked to switch to; empty for plain HTTP."""
    lines: bytes | None
    """The fields as they are sent, if there was nothing to clean."""


class AnswerFields(NamedTuple):
    """What goes to the client."""

    fields: list[Field]
    chosen: UpgradeToken | None
    """What a 101 switches to, as the client spelled it."""


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """
    An answer that must not reach the client, which gets 502 (RFC 9110 §15.6.3).

    :ivar why: what is wrong with it.
    """

    why: str


def request_fields(
    fields: Sequence[Field],
    client: Client,
    rules: Rules,
    *,
    method: bytes,
    length: Length,
    authority: bytes,
    offer: Offer = NO_OFFER,
) -> RequestFields:
    """
    The fields of a request as they go to the back end.

    :param fields: as they came from the client.
    :param length: of the body, as it will be sent.
    :param authority: the back end's; its Host, unless the client's is kept.
    :param offer: what the client offers to switch to; empty if its request is not eligible.
    """
    asked = rules.tokens.among(offer) if offer else ()
    names = names_of(fields)
    there = lower_names(names)
    passes = which_pass(
        names,
        named_by_connection(fields) if b"connection" in there else frozenset(),
        client.address in rules.trusted,
        _may_expect(client, length),
        not rules.strip_authorization,
    )
    kept = list(compress(fields, passes))
    if client.is_http2:
        kept = _with_one_cookie(kept)
    if method in (b"OPTIONS", b"TRACE"):
        kept = [one_hop_less(name, clean(value)) for name, value in kept]
    passed = [
        (b"Host", host_of(client, rules.preserve_host, authority)),
        *kept,
        *framing(length),
        *forwarded_fields(fields, client, rules.trusted),
        via(fields if b"via" in there else (), client.version, rules.pseudonym),
        *_offering(asked, fields),
    ]
    lines = written_fields(passed)
    return RequestFields(passed if lines is not None else clean_fields(passed), asked, lines)


def host_of(client: Client, preserve_host: bool, authority: bytes) -> bytes:
    """The one Host field (RFC 9110 §7.2); HTTP/1.0 need not have any."""
    sent = client.authority
    return sent if preserve_host and sent is not None and is_host(sent) else authority


def _may_expect(client: Client, length: Length) -> bool:
    """
    Whether ``Expect: 100-continue`` passes: not without a body, and not from HTTP/1.0, where it means
    nothing (RFC 9110 §10.1.1).
    """
    return bool(length) and client.version != b"HTTP/1.0"


def framing(length: Length) -> list[Field]:
    """How long the body is (RFC 9112 §6): what the server has read says so, not the client's fields."""
    if length is None:
        return []
    if length == CHUNKED:
        return [(b"Transfer-Encoding", b"chunked")]
    return [(b"Content-Length", b"%d" % length)]


def _with_one_cookie(fields: list[Field]) -> list[Field]:
    """HTTP/2 may cut Cookie into several lines, HTTP/1.1 has one (RFC 9113 §8.2.3)."""
    cookies = lines_of(fields, b"cookie")
    if len(cookies) < 2:
        return fields
    others = [each for each in fields if each[0].lower() != b"cookie"]
    return [*others, (b"Cookie", b"; ".join(map(clean, cookies)))]


def _offering(asked: Sequence[UpgradeToken], fields: Iterable[Field]) -> list[Field]:
    """
    Our own Upgrade and Connection (RFC 9110 §7.8). A proxy that was told to pass h2c passes its
    settings (RFC 7540 §3.2.1), else nobody could accept it.
    """
    if not asked:
        return []
    settings = lines_of(fields, b"http2-settings")
    has_settings = len(settings) == 1 and any(token.key == ("h2c", None) for token in asked)
    if has_settings:
        return [
            (b"HTTP2-Settings", settings[0]),
            *_upgrade_fields(asked, b"Upgrade, HTTP2-Settings"),
        ]
    return _upgrade_fields(asked)


def _upgrade_fields(tokens: Iterable[UpgradeToken], connection: bytes = b"Upgrade") -> list[Field]:
    names = ", ".join(map(str, tokens)).encode("latin-1")
    return [(b"Connection", connection), (b"Upgrade", names)]


def answer_fields(
    fields: Sequence[Field],
    client: Client,
    rules: Rules,
    *,
    code: int,
    version: bytes = b"HTTP/1.1",
    asked: Sequence[UpgradeToken] = (),
) -> AnswerFields | BadAnswer:
    """
    The fields of an answer as they go to the client.

    :param fields: as they came from the back end.
    :param version: in which version of HTTP.
    :param asked: what it was asked to switch to.
    """
    looked_at = LOOKED_AT & lower_names(names_of(fields))
    lengths = lines_of(fields, b"content-length") if b"content-length" in looked_at else []
    length = None if b"transfer-encoding" in looked_at else _length_of(lengths, code)
    if isinstance(length, BadAnswer):
        return length
    upgrade: Sequence[UpgradeToken] | BadAnswer = ()
    if b"upgrade" in looked_at or code in (_SWITCHING_PROTOCOLS, _UPGRADE_REQUIRED):
        upgrade = _upgrade_of(fields, code, rules, asked)
    if isinstance(upgrade, BadAnswer):
        return upgrade
    # As a rule, there is nothing but the length, in one line.
    is_plain = not looked_at or (len(looked_at) == 1 and lengths == [length])
    kept = fields if is_plain else _kept(fields, looked_at, length)
    own = via(fields if b"via" in looked_at else (), version, rules.pseudonym)
    kept = [*kept, own] if isinstance(fields, PlainFields) else clean_fields([*kept, own])
    # RFC 9113 §8.2.2: HTTP/2 has neither.
    kept += [] if client.is_http2 or not upgrade else _upgrade_fields(upgrade)
    return AnswerFields(kept, upgrade[0] if code == _SWITCHING_PROTOCOLS else None)


def _kept(fields: Sequence[Field], looked_at: Collection[bytes], length: bytes | None) -> list[Field]:
    """
    The fields of an answer that are for the client (RFC 9110 §7.6.1).

    :param looked_at: the names of those that are not kept as they are, perhaps.
    :param length: the one Content-Length that the client gets.
    """
    dropped = NEVER_IN_ANSWERS
    if b"connection" in looked_at:
        # The length of a body is no matter of one connection, whatever Connection says.
        dropped |= named_by_connection(fields) - {b"content-length"}
    kept: list[Field] = []
    for name, value in fields:
        lower = name.lower()
        if lower in dropped:
            continue
        if lower == b"content-length":
            if length is None:
                continue
            value, length = length, None
        kept.append((name, value))
    return kept


def _length_of(lines: Sequence[bytes], code: int) -> bytes | BadAnswer | None:
    """
    The Content-Length that the client gets, once: to HEAD and in a 304, too, where it describes a body
    that is not sent. It does not count beside Transfer-Encoding (RFC 9112 §6.3), and 1xx and 204 have
    none (RFC 9110 §8.6).

    :param lines: all of them, where there is no Transfer-Encoding.
    """
    if not lines or code < 200 or code == 204:
        return None
    if len(lines) == 1 and _LENGTH.match(lines[0]):
        return lines[0]
    lengths = {length.strip(b" \t") for length in b",".join(lines).split(b",")}
    length = lengths.pop()
    if lengths or not _LENGTH.match(length):
        return BadAnswer("its Content-Length is not one length")
    return length


def _upgrade_of(
    fields: Sequence[Field], code: int, rules: Rules, asked: Sequence[UpgradeToken]
) -> Sequence[UpgradeToken] | BadAnswer:
    """
    The tokens that an answer's Upgrade field names for the client: of a 101, the one that is switched
    to; of any other answer, those that this proxy passes (RFC 9110 §7.8). Without any, a 426 would ask
    for nothing that the client can do (§15.5.22).
    """
    named = Offer.parse(lines_of(fields, b"upgrade"))
    if code != _SWITCHING_PROTOCOLS:
        passed = rules.tokens.among(named)
        if code == _UPGRADE_REQUIRED and not passed:
            return BadAnswer(f"a 426 that wants {named or 'nothing'}, which is not passed on")
        return passed
    options = connection_options(lines_of(fields, b"connection"))
    if not rules.lenient and "upgrade" not in options:
        return BadAnswer("a 101 without Connection: upgrade")
    # Layers are named from the first to the last (RFC 2817 §3.3): the first is what was asked for.
    for token in asked:
        if named.tokens[:1] == (token,):
            return (token,)
    return BadAnswer(f"a 101 to {named or 'nothing'}, which was not asked for")
