"""
Who is told what happens to the connections of a site: observers (``UpgradeSite(observers=[...])``), a
log, and a status page.

The page is imported when it is asked for (PEP 562): it needs ``twisted.web``'s server, which a program
that only writes a log does without.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names
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

__getattr__, __dir__ = lazy_names(globals(), {"Status": "status", "StatusResource": "page"})
