"""
What is private in Twisted's client endpoints: where they lead to. A log line has to say it, and of all
of Twisted's endpoints only ``HostnameEndpoint`` does.
"""

from __future__ import annotations

from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    _WrapperEndpoint,
)
from twisted.python.reflect import safe_repr

__all__ = ["endpoint_text"]


def endpoint_text(endpoint: object) -> str:
    """
    A client endpoint as people write it: ``192.0.2.1:22``, ``[2001:db8::1]:22``, a UNIX socket's path;
    for any other endpoint its ``repr``, such as ``<HostnameEndpoint example.com:22>``.
    """
    if isinstance(endpoint, _WrapperEndpoint):
        # wrapClientTLS puts it around another one.
        return endpoint_text(endpoint._wrappedEndpoint)
    if isinstance(endpoint, TCP4ClientEndpoint | TCP6ClientEndpoint | SSL4ClientEndpoint):
        host = str(endpoint._host)
        return f"[{host}]:{endpoint._port}" if ":" in host else f"{host}:{endpoint._port}"
    if isinstance(endpoint, UNIXClientEndpoint):
        return str(endpoint._path)
    text: str = safe_repr(endpoint)
    return text
