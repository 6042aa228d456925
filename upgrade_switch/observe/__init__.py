"""
Who is told what happens to the connections of a site: observers (``UpgradeSite(observers=[...])``), a
log, and a status page.

The page is imported when it is asked for (PEP 562): it needs ``twisted.web``'s server, which a program
that only writes a log does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..interfaces import Declined, ISwitchObserver
from .events import IFloodObserver, why_ended
from .log import SwitchLog

if TYPE_CHECKING:
    from .page import StatusResource
    from .status import Status

__all__ = [
    "Declined",
    "IFloodObserver",
    "ISwitchObserver",
    "Status",
    "StatusResource",
    "SwitchLog",
    "why_ended",
]

_MODULES = {"Status": "status", "StatusResource": "page"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    # From now on, Python finds it without asking this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
