"""
What holds for all requests of a proxy, and what one of them asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from twisted.internet.interfaces import IReactorTime

    from ..client.pool import UpgradePool
    from ..negotiation import Offer
    from ..server.idle import IdleTimers
    from .backends import BackEnds
    from .fields import Length, Rules
    from .forwarded import Client, Field
    from .targets import Mounted

__all__ = ["Asked", "Settings"]


class Settings(NamedTuple):
    """What holds for all requests of a proxy."""

    reactor: IReactorTime
    timers: IdleTimers
    """The time-outs of all requests."""
    pool: UpgradePool
    back_ends: BackEnds
    rules: Rules
    rewrite_location: bool
    rewrite_cookies: bool
    connect_timeout: float
    response_timeout: float
    idle_timeout: float
    max_body: int | None
    key: Hashable
    """What keeps this proxy's connections in the pool apart from those with other certificates."""


class Asked(NamedTuple):
    """What a client has asked for."""

    client: Client
    mounted: Mounted
    headers: Mapping[bytes, Sequence[bytes]]
    """The values of each name, which is spelled as in Twisted's ``Headers``."""
    offer: Offer
    length: Length

    @property
    def fields(self) -> list[Field]:
        """The lines of these."""
        return [(name, value) for name, values in self.headers.items() for value in values]
