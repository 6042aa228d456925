"""
The opening handshake on the client's side (RFC 6455 §4.1): what a server's answer has settled.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.web.iweb import IResponse

from ..errors import InvalidResponse
from ..fields import accept_key

__all__ = ["chosen_subprotocol"]

_SWITCHING = 101


def chosen_subprotocol(response: IResponse, key: bytes, offered: Collection[str]) -> str | None:
    """
    Check an answer that switches (RFC 6455 §4.1, from "If the status code"), except its extensions.

    :param key: the request's Sec-WebSocket-Key.
    :param offered: the subprotocols that the request named.
    :return: the one that the server has chosen, if any.
    :raises InvalidResponse: if the answer breaks the rules.
    """
    header = response.headers.getRawHeaders
    # Over HTTP/2, where a 200 switches, there is no key, and so no answer to it (RFC 8441 §5).
    if response.code == _SWITCHING and header(b"sec-websocket-accept") != [accept_key(key)]:
        raise InvalidResponse("a 101 without the Sec-WebSocket-Accept to this key")
    # Some servers answer with an empty field where they choose none.
    chosen = [value for value in header(b"sec-websocket-protocol") or () if value.strip(b" \t")]
    subprotocol = chosen[0].decode("latin-1") if chosen else None
    if len(chosen) > 1 or (chosen and subprotocol not in offered):
        raise InvalidResponse(f"the server chose the subprotocol {subprotocol!r}, not offered")
    return subprotocol
