"""
:func:`whole_answer`: an answer in one go.

Nearly every answer is plain, and comes in one piece: those are read here, with one regular expression
that is stricter than h11. What it does not match is read by an exchange: it neither refuses nor
corrects anything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from ..fields import MOST_LISTS_OF_NAMES
from .exchange_heads import LONGEST_HEAD, TOKEN, VALUE, for_h11
from .exchange_interfaces import IExchangeListener

if TYPE_CHECKING:
    from .exchange import Exchange
    from .exchange_interfaces import ExchangeHead

__all__ = ["IAsker", "WholeAnswer", "whole_answer"]

_LENGTH, _CONNECTION = rb"(?i:Content-Length):", rb"(?i:Connection):"
# A final answer. No white space at either end of a value, and one space in front of it. (The lines are
# no possessive group: re loses count of a group within one.)
_ANSWER = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2}) (%b)\r\n"
    rb"((?:(?:%b ([0-9]{1,18}+)|%b (?i:keep-alive)"
    rb"|(?!%b|%b)%b: (?:(?![ \t\r])%b(?<![ \t]))?+)\r\n)+)\r\n"
    % (VALUE, _LENGTH, _CONNECTION, _LENGTH, _CONNECTION, TOKEN, VALUE)
)
# The name in a line of what that matches.
_NAME = re.compile(rb"([^:]++)[^\r]++\r\n")

_WITHOUT_BODY = (b"204", b"304")


class WholeAnswer(NamedTuple):
    """
    An answer that is as long as its Content-Length says, or has no body: as it has come, and behind it
    nothing. If it has a Connection, that says ``keep-alive``, as some servers always do.
    """

    code: int
    phrase: bytes
    names: tuple[bytes, ...]
    """Of its fields."""
    size: int
    """How many bytes its head has, with the empty line."""
    data: bytes
    """All of it."""


class IAsker(IExchangeListener):
    """
    Sends a whole request at once (``ExchangeClient.ask``). Nearly always, the answer comes in one
    piece, too, and is plain: then it is told of that in one call. Of anything else it is told as if it
    had begun an exchange, which it then gets.
    """

    def takes_whole(answer: WholeAnswer) -> bool:  # noqa: N805 - interfaces have no self
        """
        Whether an answer is taken in one piece: :meth:`answered` is called next. Else there is an
        exchange.
        """

    def answered(answer: WholeAnswer) -> None:  # noqa: N805 - interfaces have no self
        """
        The whole answer has come. It is the last call. The connection is already there to be taken.
        """

    def asked_head() -> ExchangeHead:
        """There is to be an exchange: what has been sent?"""

    def goes_on(exchange: Exchange) -> None:  # noqa: N805 - interfaces have no self
        """
        There is an exchange now, in which the request has been sent. The calls of
        :class:`IExchangeListener` follow.
        """


def whole_answer(data: bytes, to_head: bool) -> WholeAnswer | None:
    """
    :param data: what has come.
    :param to_head: whether the request was a HEAD.
    :return: None unless it is exactly one plain answer.
    """
    match = _ANSWER.match(data)
    if match is None:
        return None
    code, phrase, length = match.group(1, 2, 4)
    size = match.end()
    names = tuple(_NAME.findall(data, *match.span(3)))
    lengths = _lengths_in(names)
    if lengths is None or lengths > 1 or size > LONGEST_HEAD:
        return None
    if to_head or code in _WITHOUT_BODY:
        length = 0
    if length is None or len(data) - size != int(length):
        return None
    return WholeAnswer(int(code), phrase, names, size, data)


@lru_cache(MOST_LISTS_OF_NAMES)
def _lengths_in(names: tuple[bytes, ...]) -> int | None:
    """
    How often Content-Length is among the names of an answer's fields; None if there are others that say
    how the answer is framed, or what becomes of the connection. (Whether Connection does, its value
    says.)
    """
    looked_at = [name.lower() for name in compress(names, for_h11(names) or ())]
    if not {b"content-length", b"connection"}.issuperset(looked_at):
        return None
    return looked_at.count(b"content-length")
