"""
:class:`HandshakeKey`: what HTTP/1.1 has in the handshake of a WebSocket, and HTTP/2 has not (RFC 8441
§5).
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..fields import accept_key
from .fields import BadAnswer
from .forwarded import lines_of

if TYPE_CHECKING:
    from .forwarded import Field

__all__ = ["HandshakeKey"]

_KEY, _ACCEPT = b"Sec-WebSocket-Key", b"Sec-WebSocket-Accept"


class HandshakeKey:
    """A key of this proxy's own, for a client that speaks HTTP/2 to a back end that does not."""

    def __init__(self) -> None:
        self._key = b64encode(os.urandom(16))

    def added_to(self, fields: Iterable[Field]) -> list[Field]:
        """The fields of a request, with the key."""
        others = [(name, value) for name, value in fields if name.lower() != _KEY.lower()]
        return [*others, (_KEY, self._key)]

    def taken_from(self, fields: Sequence[Field]) -> list[Field] | BadAnswer:
        """The fields of the 101, without the answer to the key (RFC 6455 §4.1)."""
        if lines_of(fields, _ACCEPT.lower()) != [accept_key(self._key)]:
            return BadAnswer("a 101 that does not accept the WebSocket's key")
        return [(name, value) for name, value in fields if name.lower() != _ACCEPT.lower()]
