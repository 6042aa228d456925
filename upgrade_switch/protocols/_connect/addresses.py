"""
Which addresses are global: reachable from everywhere, and so not of the network behind a proxy. Pure.

Python's ``is_global`` says something else in each of its versions, and takes an address for global that
only wraps one that is not. So the tables are here, from IANA's registries of special-purpose addresses
(RFC 6890). Where these, or Python's versions, make exceptions inside a block, there are none here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

__all__ = ["Address", "Network", "is_global", "unmapped", "unmapped_network"]

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_NOT_GLOBAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 is this host, for Linux
            "10.0.0.0/8",  # private, RFC 1918
            "100.64.0.0/10",  # shared by the customers of a provider, RFC 6598
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; clouds have their metadata there
            "172.16.0.0/12",  # private, RFC 1918
            "192.0.0.0/24",  # IETF protocol assignments
            "192.0.2.0/24",  # documentation, RFC 5737
            "192.168.0.0/16",  # private, RFC 1918
            "198.18.0.0/15",  # benchmarks, RFC 2544
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

_NOT_GLOBAL_6 = tuple(
    map(
        IPv6Network,
        (
            "64:ff9b:1::/48",  # NAT64 within one network, RFC 8215
            "100::/64",  # discard, RFC 6666
            "2001::/23",  # IETF protocol assignments; Teredo, which wraps IPv4 addresses
            "2001:db8::/32",  # documentation, RFC 3849
            "2002::/16",  # 6to4, which wraps IPv4 addresses, RFC 3056
            "3fff::/20",  # documentation, RFC 9637
            "5f00::/16",  # segment routing, RFC 9602
            "fc00::/7",  # private, RFC 4193
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local, which RFC 3879 deprecates
            "ff00::/8",  # multicast
        ),
    )
)

_MAPPED = IPv6Network("::ffff:0:0/96")

# In their last 32 bits, these have the IPv4 address that they lead to. Those of the first also hold ::
# and ::1.
_WRAPS_IPV4 = (
    IPv6Network("::/96"),  # IPv4-compatible, which RFC 4291 §2.5.5.1 deprecates
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 7915
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
)

_IPV4 = 0xFFFFFFFF


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one stands for (RFC 4291 §2.5.5.2); else the address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def unmapped_network(network: Network) -> Network:
    """:func:`unmapped`, for a network all of whose addresses are IPv4-mapped."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        base = IPv4Address(int(network.network_address) & _IPV4)
        return IPv4Network((base, network.prefixlen - _MAPPED.prefixlen))
    return network


def is_global(address: Address) -> bool:
    """
    Whether an address is global: neither loopback, private, shared (RFC 6598), link-local, multicast,
    unspecified, reserved nor for documentation, nor one that wraps such an address.
    """
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_GLOBAL_4)
    if any(address in network for network in _WRAPS_IPV4):
        return is_global(IPv4Address(int(address) & _IPV4))
    return not any(address in network for network in _NOT_GLOBAL_6)
