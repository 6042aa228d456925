"""
TLS on a connection that began without it (RFC 2817): a server has :func:`tls`, and :func:`tls_required`
to insist on it; :class:`TLSUpgradePool` is a client that sends its requests inside TLS or not at all.
"""

from .client import TLSUpgradePool
from .server import tls, tls_required

__all__ = ["TLSUpgradePool", "tls", "tls_required"]
