"""
What an extra of this package brings, or a clear error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtra

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """
    Import what an extra brings.

    :raises MissingExtra: where it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error}: pip install 'upgrade_switch[{name}]'") from error
