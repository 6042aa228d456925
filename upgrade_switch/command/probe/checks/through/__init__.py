"""The checks of ``upgrade-switch probe --through``, a module for each group."""

from __future__ import annotations

from ..check import Group
from . import bodies, early, ends, fields, refusals, switches, tokens

__all__ = ["GROUPS"]

GROUPS: tuple[Group, ...] = (
    early.GROUP,
    ends.GROUP,
    switches.GROUP,
    refusals.GROUP,
    fields.GROUP,
    bodies.GROUP,
    tokens.GROUP,
)
"""All groups, in the order in which they are run and reported."""
