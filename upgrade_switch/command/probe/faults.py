"""
What a server can do wrong, as the checks see it.
"""

from __future__ import annotations

from ...fields import printable

__all__ = ["Broken", "Closed", "NotHTTP", "Silent", "brief"]


def brief(text: str, most: int = 100) -> str:
    """What a server has sent, for a person: safe for a terminal, and shortened if it is long."""
    return printable(text if len(text) <= most else f"{text[:most]}...")


class Broken(Exception):
    """
    A server did something other than it should have done.

    :ivar came: what came, as the end of a sentence.
    :ivar expected: what should have come.
    """

    def __init__(self, came: str, expected: str) -> None:
        super().__init__(f"{came}; expected {expected}")
        self.came = came
        self.expected = expected


class Silent(Broken):
    """Nothing came in time."""


class Closed(Broken):
    """The connection ended, or could not be made."""


class NotHTTP(Broken):
    """
    What came is not an HTTP/1.1 response.

    :ivar data: how it begins.
    """

    def __init__(self, came: str, expected: str, data: bytes = b"") -> None:
        super().__init__(came, expected)
        self.data = data
