"""The checks of ``upgrade-switch probe --conformance``, a module for each group."""

from __future__ import annotations

from . import trailing_data
from .check import Group

__all__ = ["GROUPS"]

GROUPS: tuple[Group, ...] = (trailing_data.GROUP,)
"""All groups, in the order in which they are run and reported."""
