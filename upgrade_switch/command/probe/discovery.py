"""
What a server switches to: the tokens that it names, those that it is asked for, and HTTP/2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from ...errors import InvalidToken
from ...fields import printable
from ...negotiation import UpgradeToken
from .subject import HTTP11, Subject
from .wire import SWITCHING, Broken, Deadline, NotHTTP, Response, Wire

__all__ = ["Answer", "NotReached", "answer_of", "discover", "what_is_there"]

# A server may name any number of tokens, of any length.
_MOST_NAMED = 8
_LONGEST_NAMED = 64

# RFC 9113 §3.4, §4.1, §6.5; RFC 8441 §3.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_ENABLE_CONNECT_PROTOCOL = 8
_LONGEST_FRAME = 16384


class NotReached(Exception):
    """There is no HTTP server; the message says what there is instead."""


@dataclass(frozen=True)
class Answer:
    """What a server answers to one kind of upgrade."""

    token: str
    answer: str
    switched: bool
    milliseconds: float


def discover(server: Subject, tokens: Sequence[str], bound: Deadline) -> Iterator[Answer]:
    """
    Ask a server what it switches to, with a handful of requests.

    :param tokens: those to try, in addition to those that the server names, ``websocket`` and ``h2c``.
    :param bound: when all of it has to be finished; what is left then is not asked.
    :raises NotReached: if there is no HTTP server.
    """
    named = _named_tokens(server, bound)
    # RFC 9113 §3.3: over TLS, HTTP/2 is chosen by ALPN.
    usual = ["websocket"] if server.is_secure else ["websocket", "h2c"]
    for token in dict.fromkeys([*tokens, *named, *usual]):
        yield _timed(token, partial(_asked_for, replace(server, token=token), bound))
    if server.is_secure:
        yield _timed("CONNECT over HTTP/2", partial(_extended_connect, server, bound))


def answer_of(server: Subject, bound: Deadline, method: str = "GET") -> Response:
    """
    The head of the answer to a request without Upgrade.

    :raises NotReached: if there is no HTTP server.
    """
    try:
        own = _in_time(server, bound)
        with own.open() as wire:
            wire.send(own.request("Connection: close", method=method))
            return wire.head()
    except Broken as fault:
        raise NotReached(what_is_there(fault, server)) from None


def _named_tokens(server: Subject, bound: Deadline) -> list[str]:
    """The tokens that a server names in its answers to GET and OPTIONS (RFC 9110 §7.8)."""
    answers = [answer_of(server, bound)]
    with suppress(Broken, NotReached):
        answers.append(answer_of(server, bound, "OPTIONS"))
    named = [token for answer in answers for token in answer.elements(b"upgrade") if _is_token(token)]
    return list(dict.fromkeys(named))[:_MOST_NAMED]


def _in_time(server: Subject, bound: Deadline) -> Subject:
    """
    :raises Broken: if the time for all is over.
    """
    if not bound.left():
        raise Broken("not asked: the time for all was over", "more time")
    return server.for_a_check(bound.left())


def what_is_there(fault: Broken, server: Subject, called: str = "HTTP server") -> str:
    """
    What there is instead of HTTP, in one line.

    :param called: what should be there.
    """
    if isinstance(fault, NotHTTP):
        if fault.data.startswith(b"SSH-"):
            return f"{server.host} speaks SSH, not HTTP"
        # RFC 8446 §5.1: an alert, or a handshake.
        if fault.data[:2] in (b"\x15\x03", b"\x16\x03"):
            return f"{server.host} speaks TLS: the URL has to begin with https"
    if "wrong version number" in fault.came:
        return f"{server.host} does not speak TLS: the URL has to begin with http"
    return f"no {called} at {server.host}: {fault.came}"


def _is_token(text: str) -> bool:
    if len(text) > _LONGEST_NAMED:
        return False
    try:
        UpgradeToken.parse(text)
    except InvalidToken:
        return False
    return True


def _timed(token: str, ask: Callable[[], tuple[str, bool]]) -> Answer:
    begin = time.monotonic()
    try:
        answer, switched = ask()
    except Broken as fault:
        answer, switched = fault.came, False
    return Answer(token, printable(answer), switched, (time.monotonic() - begin) * 1000)


def _asked_for(server: Subject, bound: Deadline) -> tuple[str, bool]:
    own = _in_time(server, bound)
    with own.open() as wire:
        wire.send(own.upgrade())
        response = wire.head()
    if response.status != SWITCHING:
        return str(response), False
    return f"{response} to {response.listed(b'upgrade')}", True


def _extended_connect(server: Subject, bound: Deadline) -> tuple[str, bool]:
    """Whether upgrades may be asked for on the streams of HTTP/2 (RFC 8441 §3)."""
    own = _in_time(server, bound)
    with own.open(alpn=("h2", *HTTP11)) as wire:
        if wire.alpn != "h2":
            return "no HTTP/2", False
        wire.send(_PREFACE + _EMPTY_SETTINGS)
        settings = _first_settings(wire)
    if settings.get(_ENABLE_CONNECT_PROTOCOL) == 1:
        return "HTTP/2, with extended CONNECT (RFC 8441)", True
    return "HTTP/2, without extended CONNECT", False


def _first_settings(wire: Wire) -> dict[int, int]:
    expected = "the SETTINGS of HTTP/2"
    head = wire.exactly(9, expected)
    size = int.from_bytes(head[:3], "big")
    if head[3] != _SETTINGS or size > _LONGEST_FRAME:
        raise Broken("something other than SETTINGS", expected)
    content = wire.exactly(size, expected)
    pairs = [content[start : start + 6] for start in range(0, size, 6)]
    return {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
