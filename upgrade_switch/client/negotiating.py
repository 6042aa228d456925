"""
:class:`NegotiatingClient`: a new connection, until its server has chosen the version of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from twisted.internet.interfaces import IHandshakeListener, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import _twisted

if TYPE_CHECKING:
    from ..interfaces import IStreamTransport

__all__ = ["NegotiatingClient", "NegotiatingFactory"]

_HTTP2 = b"h2"
_OFFERED = [_HTTP2, b"http/1.1"]


class Decider(TypingProtocol):
    """Who wants to know."""

    def chosen(self, client: NegotiatingClient, is_http2: bool) -> None:
        """The server has chosen, or is not asked: the connection is to go on with ``go_on``."""

    def not_chosen(self, client: NegotiatingClient, reason: Failure) -> None:
        """The connection has ended before."""


@implementer(IHandshakeListener)
class NegotiatingClient(Protocol):
    """
    Offers HTTP/2 and HTTP/1.1 by ALPN (RFC 7301), on this connection alone: what makes connections may
    make others, which are for HTTP/1.1. Where there is no TLS, or something stands between TLS and this
    protocol that would not tell of the choice, it is HTTP/1.1 without a question.
    """

    transport: IStreamTransport

    def __init__(self, decider: Decider) -> None:
        self._decider: Decider | None = decider
        self._asks = False

    def connectionMade(self) -> None:
        transport = self.transport
        # The layer makes its connection, then tells of it, and only then begins the handshake. Where an
        # endpoint waits for that by itself, there is a certificate by now.
        if isinstance(transport, TLSMemoryBIOProtocol) and transport.getPeerCertificate() is None:
            self._asks = True
            transport.getHandle().set_alpn_protos(_OFFERED)

    def given_away(self) -> None:
        """The endpoint has connected, and has given the connection away."""
        if not self._asks:
            self._decide()

    def handshakeCompleted(self) -> None:
        self._decide()

    @property
    def is_decided(self) -> bool:
        """Whether somebody has been told."""
        return self._decider is None

    def _decide(self) -> None:
        decider, self._decider = self._decider, None
        if decider is not None:
            decider.chosen(self, getattr(self.transport, "negotiatedProtocol", None) == _HTTP2)

    def go_on(self, protocol: IProtocol) -> None:
        """Give the connection to what speaks the version that was chosen."""
        _twisted.slot_of(self.transport).set(protocol)
        protocol.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        decider, self._decider = self._decider, None
        if decider is not None:
            decider.not_chosen(self, reason)


class NegotiatingFactory(Factory):
    """
    Gives an endpoint a client, once: it does not keep it, since what an endpoint connects keeps the
    factory.
    """

    noisy = False

    def __init__(self, client: NegotiatingClient) -> None:
        self._client: NegotiatingClient | None = client

    def buildProtocol(self, addr: object) -> NegotiatingClient | None:
        client, self._client = self._client, None
        return client
