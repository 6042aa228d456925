"""
Where the client names the destination: :class:`Destinations` says which are allowed, and
:func:`connect_to` connects to them for the method CONNECT.
"""

from .destinations import Destinations
from .server import connect_to

__all__ = ["Destinations", "connect_to"]
