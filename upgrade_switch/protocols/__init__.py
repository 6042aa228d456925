"""
What connections are switched to: one module each.

A module is called by the name of its chief function, and can be called as that: ``from
upgrade_switch.protocols import tunnel`` and ``from upgrade_switch.protocols.tunnel import tunnel`` are
the same to whoever calls it. A module is read when it is asked for, since some need an extra.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["connect_websocket", "h2c", "tls", "tunnel", "websocket"]

if TYPE_CHECKING:
    from .h2c import h2c
    from .tls import tls
    from .tunnel import tunnel
    from .websocket import connect_websocket, websocket


class _Callable(ModuleType):
    """A module that is called like its function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)[self.__name__.rpartition(".")[2]](*args, **kwargs)


def make_callable(name: str) -> None:
    """Make a module of this package's one that can be called; it says so itself."""
    sys.modules[name].__class__ = _Callable


def __getattr__(name: str) -> Any:
    if name == "connect_websocket":
        from .websocket import connect_websocket

        return connect_websocket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
