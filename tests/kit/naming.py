"""
A resolver of the tests' own, and reactors that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from tests.kit.harness import reactor

__all__ = ["MemoryReactor", "Names", "NamingReactor"]


@implementer(IHostnameResolver)
class Names:
    """
    A resolver that knows what it is told, and keeps what it was asked.

    :ivar asked: the names.
    :ivar unanswered: receivers of names that it never finds.
    """

    def __init__(self, known: Mapping[str, Sequence[str] | None]) -> None:
        """
        :param known: the addresses of each name; None: it never answers.
        """
        self.known = dict(known)
        self.asked: list[str] = []
        self.transports: list[str] = []
        self.unanswered: list[Any] = []

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        self.asked.append(hostName)
        self.transports.append(transportSemantics)
        resolutionReceiver.resolutionBegan(self)
        addresses = self.known.get(hostName, ())
        if addresses is None:
            self.unanswered.append(resolutionReceiver)
            return self
        for address in addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver)
class NamingReactor:
    """The reactor, with other names."""

    def __init__(self, names: Names) -> None:
        self.nameResolver = names

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@implementer(IReactorPluggableNameResolver)
class MemoryReactor(MemoryReactorClock):
    """Twisted's reactor in memory, with names; in Twisted 24.7 it has none."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.nameResolver = names  # type: ignore[assignment]
