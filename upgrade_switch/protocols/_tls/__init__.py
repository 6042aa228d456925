"""
TLS on a connection that began without it (RFC 2817): :func:`tls` on a server, :func:`tls_required` to
insist on it; :class:`TLSUpgradePool` is the client that goes on with nothing else.
"""

from .client import TLSUpgradePool
from .server import tls, tls_required

__all__ = ["TLSUpgradePool", "tls", "tls_required"]
