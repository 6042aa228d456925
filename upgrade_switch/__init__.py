"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.
"""

from .client import UpgradePool, switched_connection
from .endpoint import UpgradeEndpoint
from .errors import NotSwitched
from .negotiation import Offer, UpgradeToken
from .request import UpgradeRequest
from .resource import UpgradeResource, upgrade_required
from .site import IDrainable, UpgradeService, UpgradeSite
from .splice import splice
from .takeover import SwitchedConnection

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
    "splice",
    "switched_connection",
    "upgrade_required",
]
