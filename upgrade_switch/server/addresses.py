"""
:class:`AddressedChannel`: an ``HTTPChannel`` that knows its connection's addresses by heart.

Each request of Twisted's asks for them, and a transport asks the kernel, and makes an address anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import ISSLTransport

from .. import _twisted
from .receiving import ReceivingChannel

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

__all__ = ["AddressedChannel"]


class AddressedChannel(ReceivingChannel):
    """
    Twisted's HTTP/1.1 server protocol; what it speaks is not changed.

    :ivar accepted: the address that the site was given when the channel was built.
    """

    accepted: IAddress | None = None
    _host: IAddress | None = None
    _peer: IAddress | None = None

    def getHost(self) -> IAddress:
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def getPeer(self) -> IAddress:
        if self._peer is None:
            # A port knows it of the socket that it has accepted, where there is nothing between.
            accepted, transport = self.accepted, self.transport
            if isinstance(accepted, IPv4Address) and _twisted.is_bare(transport):
                self._peer = accepted
            else:
                self._peer = transport.getPeer()
        return self._peer

    def isSecure(self) -> bool:
        # The same as Twisted's, which adapts.
        return not _twisted.is_bare(self.transport) and ISSLTransport.providedBy(self.transport)
