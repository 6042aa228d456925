"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.

All names are imported when they are asked for (PEP 562): most programs need a few, and the command
``upgrade-switch`` nothing before it knows what it is to do.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
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
    # Modules, which have names for users.
    "errors": "errors",
    "interfaces": "interfaces",
    "observe": "observe",
    "protocols": "protocols",
    "proxy": "proxy",
    "testing": "testing",
}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
