"""
The garbage collector while the command starts. What is imported lives as long as the process, and the
collector would look through all of it again and again: that took a sixth of the time until ``connect``
has its connection.
"""

from __future__ import annotations

import gc

__all__ = ["collect_again", "wait_with_collecting"]

_is_waiting = False


def wait_with_collecting() -> None:
    """Collect nothing until :func:`collect_again`, unless somebody has turned the collector off."""
    global _is_waiting
    if gc.isenabled():
        _is_waiting = True
        gc.disable()


def collect_again() -> None:
    """Collect what is made from now on. Harmless when called again."""
    global _is_waiting
    if _is_waiting:
        _is_waiting = False
        gc.freeze()
        gc.enable()
