"""
HTTP Upgrade for Twisted: one port, many protocols, and no byte lost between them.
"""

from .negotiation import Offer, UpgradeToken
from .request import UpgradeRequest
from .resource import UpgradeResource, upgrade_required
from .site import IDrainable, UpgradeService, UpgradeSite
from .takeover import SwitchedConnection
