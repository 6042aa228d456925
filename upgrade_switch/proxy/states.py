"""
How far a request has come on its way to a back end, and its answer on its way back. It goes through
these states in this order, leaving out what does not come::

    CONNECTING ──> WAITING ──> ANSWERING ──> OVER
         │            │  └───> SWITCHED ──────┘
         └────────────┴───────────────────────┘
"""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["State"]


class State(Enum):
    """How far a request has come."""

    CONNECTING = auto()
    WAITING = auto()
    """The back end has the request, or is getting it."""
    ANSWERING = auto()
    """The client is getting the answer."""
    SWITCHED = auto()
    """Both connections are spliced."""
    OVER = auto()
