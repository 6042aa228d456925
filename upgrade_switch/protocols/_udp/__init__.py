"""
UDP through HTTP (RFC 9298), in capsules (RFC 9297): :func:`connect_udp` for a server,
:func:`open_udp` for a client.
"""

from .client import open_udp
from .server import connect_udp

__all__ = ["connect_udp", "open_udp"]
