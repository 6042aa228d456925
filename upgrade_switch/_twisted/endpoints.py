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

__all__ = ["endpoint_text", "way_of"]


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


def way_of(endpoint: object) -> str:
    """
    How a client endpoint leads to a server: two with the same way make connections that do not differ,
    but for who is trusted. It is :func:`endpoint_text`; of an endpoint that says nothing of itself, the
    name of its class, since its ``repr`` has nothing but an address that another may have next.
    """
    if isinstance(endpoint, _WrapperEndpoint):
        return way_of(endpoint._wrappedEndpoint)
    text = endpoint_text(endpoint)
    if type(endpoint).__repr__ is object.__repr__ and " at 0x" in text:
        return type(endpoint).__qualname__
    return text
