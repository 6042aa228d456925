"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.
"""

from ._version import __version__
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
from .splice import splice

__all__ = [
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
