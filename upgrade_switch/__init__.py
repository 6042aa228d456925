"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.

The names of the two sides are imported when they are asked for (PEP 562): most programs need one.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._version import __version__
from .connection import SwitchedConnection
from .errors import NotSwitched
from .interfaces import IDrainable
from .negotiation import Offer, UpgradeToken

# At once, since its module has the same name, which would stand in its place otherwise.
from .splice import splice

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
    from .server.request import UpgradeRequest
    from .server.resource import UpgradeResource, upgrade_required
    from .server.service import UpgradeService
    from .server.site import UpgradeSite

_MODULES = {
    "ConnectEndpoint": "client.connect",
    "UpgradeEndpoint": "client.endpoint",
    "UpgradePool": "client.pool",
    "switched_connection": "client.pool",
    "UpgradeRequest": "server.request",
    "UpgradeResource": "server.resource",
    "upgrade_required": "server.resource",
    "UpgradeService": "server.service",
    "UpgradeSite": "server.site",
}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
