"""
What a parent and its workers say to one another: lines of JSON, through a pipe each way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["FROM_PARENT", "TO_PARENT", "Lines", "Message", "written"]

FROM_PARENT, TO_PARENT = 3, 4
"""A worker's descriptors; those of the ports come behind them."""

Message = dict[str, Any]
"""What is said. ``say`` is its kind."""


def written(message: Message) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode("ascii") + b"\n"


class Lines:
    """Reads messages, whatever pieces they come in."""

    def __init__(self, heard: Callable[[Message], None]) -> None:
        """
        :param heard: called with each message.
        """
        self._heard = heard
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read on."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._heard(json.loads(line))
