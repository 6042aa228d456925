"""
The opening handshake on the server's side (RFC 6455 §4.2): which requests are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from twisted.web.resource import IResource

from ...errors import InvalidArgument
from ...fields import is_token, printable
from ...negotiation import UpgradeToken
from ...server.pages import StatusPage
from ...server.request import UpgradeRequest

__all__ = ["HandshakeRefused", "check_request", "shown", "subprotocol_names"]

# RFC 6455 §4.2.1: base64 that gives 16 bytes when it is decoded. Four bits of the last character are
# not used, and may be set, as they are in the example key of §4.1.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==\Z")

_VERSION = b"13"

# Characters of what a stranger has sent, in the reason of a refusal.
_MOST_SHOWN = 200


class HandshakeRefused(Exception):
    """
    Raised where a handshake is refused.

    :ivar answer: the answer in HTTP.
    :ivar detail: why, for whoever operates the site; empty if the answer says it all.
    """

    def __init__(self, answer: IResource, detail: str = "") -> None:
        super().__init__(answer)
        self.answer = answer
        self.detail = detail


def shown(text: str) -> str:
    """What a stranger has sent, safe for a log, and not too long for one line of it."""
    text = printable(text)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def check_request(
    request: UpgradeRequest, token: UpgradeToken
) -> tuple[bytes | None, str | None, list[str]]:
    """
    Check a request (RFC 6455 §4.2.1), except for Host, Upgrade and Connection, which have been checked
    when the offer was read.

    :return: its key (None over HTTP/2, which needs none: RFC 8441 §5), origin and subprotocols.
    :raises HandshakeRefused: if it is not a valid handshake.
    """
    if request.method != b"GET":
        page = StatusPage(405, "Method Not Allowed", "A WebSocket begins with GET.", {b"allow": b"GET"})
        raise HandshakeRefused(page, "the method of a WebSocket's handshake is GET")
    header = request.requestHeaders.getRawHeaders
    if token.version is not None or header(b"sec-websocket-version") != [_VERSION]:
        fields = {
            b"sec-websocket-version": _VERSION,
            b"upgrade": b"websocket",
            b"connection": b"Upgrade",
        }
        page = StatusPage(426, "Upgrade Required", "WebSocket, version 13.", fields)
        raise HandshakeRefused(page, "Sec-WebSocket-Version is not 13")
    keys = header(b"sec-websocket-key") or ()
    key = keys[0] if len(keys) == 1 and not request.is_stream else None
    if not request.is_stream and (key is None or not _KEY.match(key)):
        raise _bad_request("A handshake has one Sec-WebSocket-Key, of 16 bytes in base64.")
    origins = header(b"origin") or ()
    if len(origins) > 1:
        raise _bad_request("A handshake has one Origin at most.")
    origin = origins[0].decode("latin-1") if origins else None
    return key, origin, _subprotocols(header(b"sec-websocket-protocol") or ())


def _bad_request(detail: str) -> HandshakeRefused:
    return HandshakeRefused(StatusPage(400, "Bad Request", detail), f"bad handshake: {detail}")


def _subprotocols(lines: Sequence[bytes]) -> list[str]:
    """
    The subprotocols in all lines of Sec-WebSocket-Protocol: together, they are one list (RFC 6455
    §11.3.4) of tokens, none of which appears twice (§4.1, item 10).
    """
    elements = [e.strip(" \t") for line in lines for e in line.decode("latin-1").split(",")]
    names = [element for element in elements if element]
    if not all(map(is_token, names)) or len(set(names)) != len(names):
        raise _bad_request("Sec-WebSocket-Protocol is a list of different tokens.")
    return names


def subprotocol_names(names: Iterable[str]) -> Sequence[str]:
    """
    :return: the subprotocols that a user has given.
    :raises InvalidArgument: if they are not different tokens (RFC 6455 §4.1, item 10).
    """
    if isinstance(names, str | bytes):
        raise InvalidArgument(f"subprotocols is a list of names, not {names!r}")
    listed = list(names)
    for name in listed:
        if not isinstance(name, str) or not is_token(name):
            raise InvalidArgument(f"not the name of a subprotocol: {name!r}")
    if len(set(listed)) != len(listed):
        raise InvalidArgument(f"a subprotocol appears twice: {listed!r}")
    return listed
