"""
The opening handshake on the server's side (RFC 6455 §4.2): which requests are one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from twisted.web.resource import IResource

from ..errors import InvalidArgument
from ..fields import is_token, printable
from ..negotiation import UpgradeToken
from ..server.pages import StatusPage
from ..server.request import UpgradeRequest
from ._origin import AllowedOrigins, is_same_origin

__all__ = [
    "MAX_MESSAGE_SIZE",
    "SAME_ORIGIN",
    "HandshakeRefused",
    "OriginCheck",
    "check_origin",
    "check_request",
    "check_size",
    "origin_check",
    "refuse",
    "shown",
    "subprotocol_names",
]

# RFC 6455 §4.2.1: base64 that gives 16 bytes when it is decoded. Four bits of the last character are
# not used, and may be set, as they are in the example key of §4.1.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==\Z")

_VERSION = b"13"

# Characters of what a stranger has sent, in the reason of a refusal.
_MOST_SHOWN = 200


MAX_MESSAGE_SIZE = 16 * 2**20
"""Bytes; the default of acceptors."""

SAME_ORIGIN = ("same origin",)
"""For ``allowed_origins``: only pages of the host and port that the request is sent to."""

OriginCheck: TypeAlias = Callable[[str, UpgradeRequest], bool]
"""Whether an origin may open a WebSocket."""


class HandshakeRefused(Exception):
    """
    Raised where a handshake is refused.

    :ivar answer: the answer in HTTP.
    :ivar detail: why, for the site's operator; empty if the answer says it all.
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


def refuse(request: UpgradeRequest, refused: HandshakeRefused) -> IResource:
    """The answer to a handshake that is refused; the request gets to know why."""
    if refused.detail:
        request.decline_detail = refused.detail
    return refused.answer


def origin_check(allowed_origins: Iterable[str]) -> OriginCheck:
    """
    :param allowed_origins: as for :func:`~upgrade_switch.protocols.websocket`.
    :return: what says whether a request's origin is among them.
    :raises InvalidUpgrades: if an origin is invalid.
    """
    if allowed_origins is SAME_ORIGIN:
        return _is_from_same_site
    allowed = AllowedOrigins(allowed_origins)
    return lambda origin, request: origin in allowed


def _is_from_same_site(origin: str, request: UpgradeRequest) -> bool:
    (host,) = request.requestHeaders.getRawHeaders(b"host") or (b"",)
    return is_same_origin(origin, host.decode("latin-1"))


def check_origin(origin: str, is_allowed: bool) -> None:
    """
    :raises HandshakeRefused: if it is not.
    """
    if not is_allowed:
        page = StatusPage(403, "Forbidden", "Not from this origin.")
        raise HandshakeRefused(page, f"origin {shown(origin)} is not allowed")


def check_size(max_message_size: int | None) -> None:
    """
    :raises InvalidArgument: if it is neither None nor a number of bytes above 0.
    """
    if max_message_size is not None and (
        isinstance(max_message_size, bool)
        or not isinstance(max_message_size, int)
        or max_message_size < 1
    ):
        raise InvalidArgument(f"max_message_size is None or a size in bytes, not {max_message_size!r}")


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
