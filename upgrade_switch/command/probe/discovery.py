"""
What a server switches to: the tokens that it names, those that it is asked for, and HTTP/2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...errors import InvalidToken
from ...fields import printable
from ...negotiation import UpgradeToken
from .subject import HTTP11, Subject
from .wire import SWITCHING, Broken, NotHTTP, Wire

__all__ = ["Answer", "NotReached", "discover"]

# A server may name any number of tokens.
_MOST_NAMED = 8

# RFC 9113 §3.4, §4.1, §6.5; RFC 8441 §3.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_ENABLE_CONNECT_PROTOCOL = 8
_LONGEST_FRAME = 16384


class NotReached(Exception):
    """There is no HTTP server; the message says what there is."""


@dataclass(frozen=True)
class Answer:
    """What a server answers to one kind of upgrade."""

    token: str
    answer: str
    switched: bool
    milliseconds: float


def discover(server: Subject, tokens: Sequence[str]) -> Iterator[Answer]:
    """
    Ask a server what it switches to, with a handful of requests.

    :param tokens: those to try, beside those that the server names, ``websocket`` and ``h2c``.
    :raises NotReached: if there is no HTTP server.
    """
    named = _named(server)
    # RFC 9113 §3.3: over TLS, HTTP/2 is chosen by ALPN.
    usual = ["websocket"] if server.is_secure else ["websocket", "h2c"]
    for token in dict.fromkeys([*tokens, *named, *usual]):
        yield _timed(token, partial(_asked_for, replace(server, token=token)))
    if server.is_secure:
        yield _timed("CONNECT over HTTP/2", partial(_extended_connect, server))


def _named(server: Subject) -> list[str]:
    """The tokens that a server names in its answers to GET and OPTIONS (RFC 9110 §7.8)."""
    named: list[str] = []
    for method in ("GET", "OPTIONS"):
        own = server.for_a_check()
        try:
            with own.open() as wire:
                wire.send(own.request("Connection: close", method=method))
                response = wire.head()
        except Broken as fault:
            if method == "GET":
                raise NotReached(_what_is_there(fault, server)) from None
            continue
        named += [token for token in response.elements(b"upgrade") if _is_token(token)]
    return list(dict.fromkeys(named))[:_MOST_NAMED]


def _what_is_there(fault: Broken, server: Subject) -> str:
    if isinstance(fault, NotHTTP):
        if fault.data.startswith(b"SSH-"):
            return f"{server.host} speaks SSH, not HTTP"
        # RFC 8446 §5.1: an alert, or a handshake.
        if fault.data[:2] in (b"\x15\x03", b"\x16\x03"):
            return f"{server.host} speaks TLS: the URL has to begin with https"
    if "WRONG_VERSION_NUMBER" in fault.came:
        return f"{server.host} does not speak TLS: the URL has to begin with http"
    return f"no HTTP server at {server.host}: {fault.came}"


def _is_token(text: str) -> bool:
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


def _asked_for(server: Subject) -> tuple[str, bool]:
    own = server.for_a_check()
    with own.open() as wire:
        wire.send(own.upgrade())
        response = wire.head()
    if response.status != SWITCHING:
        return str(response), False
    return f"{response} to {', '.join(response.elements(b'upgrade'))}", True


def _extended_connect(server: Subject) -> tuple[str, bool]:
    """Whether upgrades may be asked for on the streams of HTTP/2 (RFC 8441 §3)."""
    own = server.for_a_check()
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
        raise Broken("something else than SETTINGS", expected)
    content = wire.exactly(size, expected)
    pairs = [content[start : start + 6] for start in range(0, size, 6)]
    return {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
