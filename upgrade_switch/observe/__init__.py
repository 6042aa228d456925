"""
Who is told what happens to the connections of a site: observers (``UpgradeSite(observers=[...])``), a
log, and a status page.
"""

from ..interfaces import Declined, ISwitchObserver
from .events import IFloodObserver, why_ended
from .log import SwitchLog
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
