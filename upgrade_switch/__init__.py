"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.

All names are imported when they are asked for (PEP 562): most programs need a few, and the command
``upgrade-switch`` nothing before it knows what it is to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

__all__ = [
    "ConnectEndpoint",
    "IDrainable",
    "NotSwitched",
    "Offer",
    "SwitchedConnection",
    "UpgradeEndpoint",
    "UpgradePool",
    "UpgradeRequest",
    "UpgradeResource",
    "UpgradeService",
    "UpgradeSite",
    "UpgradeToken",
    "__version__",
    "splice",
    "switched_connection",
    "upgrade_required",
]

if TYPE_CHECKING:
    from .client.connect import ConnectEndpoint
    from .client.endpoint import UpgradeEndpoint
    from .client.pool import UpgradePool, switched_connection
    from .connection import SwitchedConnection
    from .errors import NotSwitched
    from .interfaces import IDrainable
    from .negotiation import Offer, UpgradeToken
    from .server.request import UpgradeRequest
    from .server.resource import UpgradeResource, upgrade_required
    from .server.service import UpgradeService
    from .server.site import UpgradeSite
    from .splicing import splice

_MODULES = {
    "ConnectEndpoint": "client.connect",
    "IDrainable": "interfaces",
    "NotSwitched": "errors",
    "Offer": "negotiation",
    "SwitchedConnection": "connection",
    "UpgradeEndpoint": "client.endpoint",
    "UpgradePool": "client.pool",
    "switched_connection": "client.pool",
    "UpgradeRequest": "server.request",
    "UpgradeResource": "server.resource",
    "upgrade_required": "server.resource",
    "UpgradeService": "server.service",
    "UpgradeSite": "server.site",
    "UpgradeToken": "negotiation",
    "splice": "splicing",
}


# Those that have names for users.
_PUBLIC_MODULES = frozenset({"errors", "interfaces", "observe", "protocols", "proxy", "testing"})


def __getattr__(name: str) -> object:
    if name in _PUBLIC_MODULES:
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    # From now on, Python finds it without asking this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PUBLIC_MODULES})
