"""
:class:`Limits`: how many connections a site switches, and how long-lived ones are looked after.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import NamedTuple, TypeAlias, TypeVar

from twisted.internet.interfaces import IAddress

from .._twisted import KeepAlive
from ..errors import InvalidArgument

__all__ = ["Limits", "checked_numbers", "keep_alive_of", "limits_of", "party_of"]

T = TypeVar("T", int, float)

# RFC 6177 §2: a site has at least a /64, and any of its addresses.
_IPV6_PREFIX = 64


def keep_alive_of(value: bool | tuple[int, int, int]) -> KeepAlive | None:
    """
    What ``UpgradeSite(tcp_keepalive=...)`` says.

    :raises InvalidArgument: if it is neither a bool nor three whole numbers above 0.
    """
    if isinstance(value, bool):
        return KeepAlive() if value else None
    if not (
        isinstance(value, tuple)
        and len(value) == len(KeepAlive._fields)
        and all(isinstance(number, int) and number > 0 for number in value)
    ):
        raise InvalidArgument(f"tcp_keepalive is a bool or (idle, interval, probes), not {value!r}")
    return KeepAlive(*value)


def checked_numbers(**limits: T | None) -> tuple[T | None, ...]:
    """
    Limits, as they are given.

    :raises InvalidArgument: if one is neither a number that is not negative nor None.
    """
    for name, value in limits.items():
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise InvalidArgument(f"{name} is a number, or None for no limit, not {value!r}")
    return tuple(limits.values())


class Limits(NamedTuple):
    """The limits of a site's switched connections; None: no limit."""

    max_switched: int | None = None
    max_per_address: int | None = None
    max_unsent: int | None = None
    keep_alive: KeepAlive | None = KeepAlive()


def limits_of(
    max_switched: int | None,
    max_per_address: int | None,
    max_unsent: int | None,
    tcp_keepalive: bool | tuple[int, int, int],
) -> Limits:
    """
    The limits that ``UpgradeSite`` is given.

    :raises InvalidArgument: if one is wrong.
    """
    checked_numbers(max_switched=max_switched, max_per_address=max_per_address, max_unsent=max_unsent)
    return Limits(max_switched, max_per_address, max_unsent, keep_alive_of(tcp_keepalive))


Party: TypeAlias = str | IPv6Network


def party_of(address: IAddress | None) -> Party | None:
    """
    Whom a connection is counted for: its address, or for IPv6 the /64 around it.

    :return: None for a UNIX socket, which is not counted.
    """
    host = getattr(address, "host", None)
    if not isinstance(host, str):
        return None
    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        # The PROXY protocol lets a proxy name anything.
        return host
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return IPv6Network((parsed, _IPV6_PREFIX), strict=False)
