"""
What is private in Twisted's client endpoints: where they lead to. A log line has to say it, and of all
of Twisted's endpoints only ``HostnameEndpoint`` does.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    _WrapperEndpoint,
)
from twisted.internet.ssl import CertificateOptions
from twisted.python.reflect import safe_repr

__all__ = ["demand_certificates", "endpoint_text", "way_of"]


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
    except for what it trusts. It is :func:`endpoint_text`; of an endpoint that says nothing of itself,
    the name of its class, since its ``repr`` has nothing but an address that another may have next.
    """
    if isinstance(endpoint, _WrapperEndpoint):
        return way_of(endpoint._wrappedEndpoint)
    text = endpoint_text(endpoint)
    if type(endpoint).__repr__ is object.__repr__ and " at 0x" in text:
        return type(endpoint).__qualname__
    return text


def demand_certificates(endpoint: object, authorities: Any) -> bool:
    """
    Have a server endpoint that speaks TLS require a certificate of its clients. Twisted's endpoint
    strings have no word for that.

    :param endpoint: it has not listened yet.
    :param authorities: who may vouch for them: a ``trustRoot`` of ``CertificateOptions``.
    :return: whether that is done; it can be for what ``ssl:`` strings make, and for nothing else.
    """
    if not isinstance(endpoint, SSL4ServerEndpoint):
        return False
    options = endpoint._sslContextFactory
    if not isinstance(options, CertificateOptions):
        return False
    # The context is made of them when it is first asked for.
    options.trustRoot, options.verify, options.requireCertificate = authorities, True, True
    return True
