"""
What a server can do wrong, as the checks are told of it.
"""

from __future__ import annotations

__all__ = ["Broken", "Closed", "NotHTTP", "Silent"]


class Broken(Exception):
    """
    A server did something else than it should have done.

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
