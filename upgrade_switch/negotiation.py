"""
What a client offers to switch to, the choice among it, and why there was none: :class:`UpgradeToken`,
:class:`Offer`, :class:`Declined`.

Pure: text in, values out; no Twisted, no I/O. :meth:`Offer.of_request` takes whatever comes from the
network and never raises; only :meth:`UpgradeToken.parse` raises, which is for what a program's own
author writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Generic, TypeVar

from .errors import InvalidToken, InvalidUpgrades
from .fields import connection_options, elements, split_protocol

__all__ = ["NO_OFFER", "Declined", "Offer", "TokenTable", "UpgradeToken"]

V = TypeVar("V")

# Clients send much the same lines: short ones are parsed once. The bounds keep strangers from filling
# the memory.
_LONGEST_REMEMBERED = 128
_MOST_REMEMBERED = 256

# Nobody offers more; and a field of 16 KiB would cost as much time as a thousand requests.
_MOST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class UpgradeToken:
    """
    One ``protocol-name["/"protocol-version]`` of an Upgrade field (RFC 9110 §7.8).

    Names compare without case, versions exactly; ``str()`` gives the spelling that was parsed.

    :ivar name: the protocol's name, as it was spelled.
    :ivar version: its version, None without one.
    """

    name: str
    version: str | None = None
    #: What the token is equal by.
    key: tuple[str, str | None] = field(init=False, repr=False)
    #: As it was spelled.
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.name.lower(), self.version))
        text = self.name if self.version is None else f"{self.name}/{self.version}"
        object.__setattr__(self, "text", text)

    @classmethod
    def parse(cls, text: str | bytes) -> UpgradeToken:
        """
        Parse one token.

        :raises InvalidToken: if the string breaks the grammar.
        """
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        parts = split_protocol(text)
        if parts is None:
            raise InvalidToken(f"not an upgrade token (name or name/version): {text!r}")
        return cls(*parts)

    def answers(self, wanted: UpgradeToken) -> bool:
        """
        Whether this token is what ``wanted`` names: ``echo`` names any version or none, ``chat/2``
        that version alone.
        """
        name, version = wanted.key
        return self.key[0] == name and version in (None, self.version)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, UpgradeToken) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Offer:
    """
    All that a request's client is willing to switch to, in its order of preference; empty when
    there is nothing or when the request is not eligible.

    Iterating gives :class:`UpgradeToken`; ``"echo" in offer`` asks for the name in any version or
    none, ``"chat/2" in offer`` for that version alone.

    :ivar tokens: the tokens, first choice first.
    :ivar ineligible: why an Upgrade field was ignored; None where there was none, or where it counts.
    """

    tokens: tuple[UpgradeToken, ...] = ()
    ineligible: str | None = None

    @classmethod
    def of_request(
        cls,
        method: bytes,
        version: bytes,
        upgrade: Sequence[bytes] | None,
        connection: Sequence[bytes] | None,
    ) -> Offer:
        """
        What a request offers (RFC 9110 §7.8).

        :param method: the request's method.
        :param version: its HTTP version, such as ``b"HTTP/1.1"``.
        :param upgrade: the values of all its Upgrade lines; None or empty without any.
        :param connection: the values of all its Connection lines.
        :return: never raises: what is not eligible or breaks the grammar is an empty offer.
        """
        if not upgrade:
            return NO_OFFER
        if version != b"HTTP/1.1":
            return cls((), f"Upgrade is HTTP/1.1's, this is {version.decode('latin-1')}")
        if method == b"CONNECT":
            return cls((), "CONNECT does not use Upgrade")
        connection = connection or ()
        if len(upgrade) == len(connection) == 1:
            (line,), (options,) = upgrade, connection
            if len(line) + len(options) <= _LONGEST_REMEMBERED:
                return _offer_of_lines(line, options)
        return cls._of_lines(upgrade, connection)

    @classmethod
    def _of_lines(cls, upgrade: Sequence[bytes], connection: Sequence[bytes]) -> Offer:
        if "upgrade" not in connection_options(connection):
            return cls((), "Connection does not name upgrade")
        return cls.parse(upgrade)

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Offer:
        """The tokens of all lines of an Upgrade field; never raises."""
        if len(lines) == 1 and len(lines[0]) <= _LONGEST_REMEMBERED:
            return _offer_of_line(lines[0])
        return cls._parse(lines)

    @classmethod
    def _parse(cls, lines: Iterable[bytes]) -> Offer:
        tokens: list[UpgradeToken] = []
        for element in elements(lines):
            if len(tokens) == _MOST_TOKENS:
                return cls((), "Upgrade names too many protocols")
            parts = split_protocol(element)
            if parts is None:
                return cls((), "Upgrade breaks the grammar")
            tokens.append(UpgradeToken(*parts))
        return cls(tuple(tokens), None if tokens else "Upgrade names no protocol")

    def first(self, wanted: str | UpgradeToken) -> UpgradeToken | None:
        """
        The token of this offer that ``wanted`` names, in the client's spelling, or None.

        :param wanted: a string (as for ``in``), or one of the offer's own tokens.
        """
        if isinstance(wanted, UpgradeToken):
            if wanted in self.tokens:
                return self.tokens[self.tokens.index(wanted)]
        else:
            try:
                wanted = UpgradeToken.parse(wanted)
            except InvalidToken:
                return None
        return next((token for token in self.tokens if token.answers(wanted)), None)

    def __contains__(self, wanted: object) -> bool:
        return isinstance(wanted, str | UpgradeToken) and self.first(wanted) is not None

    def __iter__(self) -> Iterator[UpgradeToken]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __str__(self) -> str:
        return ", ".join(map(str, self.tokens))


@lru_cache(_MOST_REMEMBERED)
def _offer_of_line(line: bytes) -> Offer:
    return Offer._parse((line,))


@lru_cache(_MOST_REMEMBERED)
def _offer_of_lines(upgrade: bytes, connection: bytes) -> Offer:
    return Offer._of_lines((upgrade,), (connection,))


NO_OFFER = Offer()


class Declined(StrEnum):
    """Why an upgrade was answered in HTTP."""

    INELIGIBLE = "ineligible"
    """The request may not switch: ``request.offer.ineligible`` says why (RFC 9110 §7.8)."""
    UNKNOWN = "unknown token"
    """The resource knows none of the tokens that the client offers."""
    ANSWERED = "answered"
    """The acceptor, or the factory, chose to answer in HTTP; the response's code says more."""
    FULL = "full"
    """``max_switched`` connections are switched already."""
    ADDRESS_FULL = "address full"
    """``max_per_address`` connections of this client's address are switched already."""
    DRAINING = "going down"
    """The site drains."""
    TIMEOUT = "too slow"
    """The acceptor has taken longer than ``accept_timeout``."""
    FAILED = "failed"
    """The acceptor raised, or its result is neither a protocol nor a resource."""
    LEFT = "client left"
    """The client was gone before there was a decision."""


class TokenTable(Generic[V]):
    """
    A mapping from tokens to what they lead to, looked up with what a client offers.

    :ivar names: the keys as they were written, in their order: an Upgrade field of a 426.
    """

    def __init__(self, entries: Mapping[str, V]) -> None:
        """
        :raises InvalidToken: if a key breaks the grammar.
        :raises InvalidUpgrades: if a key is not a string, or two keys are the same token.
        """
        self.names = tuple(entries)
        self._values: dict[tuple[str, str | None], V] = {}
        for key, value in entries.items():
            if not isinstance(key, str):
                raise InvalidUpgrades(f"a token is a str, not {key!r}")
            token = UpgradeToken.parse(key)
            if token.key in self._values:
                raise InvalidUpgrades(f"{key!r} is given twice: names compare without regard to case")
            self._values[token.key] = value

    def known(self, offer: Iterable[UpgradeToken]) -> Iterator[tuple[UpgradeToken, V]]:
        """
        The tokens of an offer that are known here, and what each leads to: the client's order
        decides among tokens, the exact version wins over any.
        """
        for token in offer:
            for key in (token.key, (token.key[0], None)):
                if key in self._values:
                    yield token, self._values[key]
                    break

    def find(self, token: UpgradeToken) -> V | None:
        """What a token leads to; None if it is not known here."""
        found = self._values.get(token.key)
        return self._values.get((token.key[0], None)) if found is None else found
