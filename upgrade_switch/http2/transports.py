"""
Streams of connections over TCP and over TLS, with what their transports say of themselves.
"""

from __future__ import annotations

from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from zope.interface import implementer

from .stream import HTTP2Stream

__all__ = ["TCPStream", "TLSStream"]


@implementer(ITCPTransport)
class TCPStream(HTTP2Stream):
    """A stream of a connection over TCP."""

    def getTcpNoDelay(self) -> bool:
        return bool(ITCPTransport(self._owner.transport).getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Of the whole connection."""
        ITCPTransport(self._owner.transport).setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(ITCPTransport(self._owner.transport).getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Of the whole connection."""
        ITCPTransport(self._owner.transport).setTcpKeepAlive(enabled)


@implementer(ISSLTransport)
class TLSStream(TCPStream):
    """A stream of a connection with TLS."""

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """What the connection has agreed on by ALPN."""
        negotiated: bytes | None = getattr(self._owner.transport, "negotiatedProtocol", None)
        return negotiated

    def getPeerCertificate(self) -> object:
        return ISSLTransport(self._owner.transport).getPeerCertificate()
