"""The checks of ``upgrade-switch probe --conformance``, a module for each group."""

from __future__ import annotations

from . import answers, choosing, ends, requests, trailing_data, websockets
from .check import Group

__all__ = ["GROUPS"]

GROUPS: tuple[Group, ...] = (
    answers.GROUP,
    choosing.GROUP,
    requests.GROUP,
    trailing_data.GROUP,
    ends.GROUP,
    websockets.GROUP,
)
"""All groups, in the order in which they are run and reported."""
