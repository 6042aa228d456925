"""
The header of the PROXY protocol, version 2, with which a tunnel tells its server who the client is.

The specification is https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2. Twisted's
``twisted.protocols.haproxy`` reads such headers; it does not write them.
"""

from __future__ import annotations

import ipaddress
import struct
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

__all__ = ["proxy_header"]

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"

# Version 2 in the upper half of the byte, and the command in the lower.
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21


_IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Place(NamedTuple):
    address: _IP
    port: int


def proxy_header(client: IAddress | None, here: IAddress | None) -> bytes:
    """
    The header for a connection, which goes in front of everything else that its server gets.

    A pair of IPv4 addresses that a socket for IPv6 has in its own spelling (``::ffff:192.0.2.1``) is
    sent as IPv4, so that a server finds the same client however it came.

    :param client: the client's address. A client that has no IP address, as on a UNIX socket, is sent
        as ``LOCAL``: there is nothing to tell of it.
    :param here: the address that the client has connected to. If that is unknown, it is sent as 0.
    """
    source, destination = _place_of(client), _place_of(here)
    if source is None:
        return _header(_LOCAL, _UNSPECIFIED, b"")
    if destination is None:
        destination = _Place(type(source.address)(0), 0)
    places = [source, destination]
    ports = struct.pack("!2H", *(place.port for place in places))
    if all(place.address.version == 4 for place in places):
        packed = b"".join(place.address.packed for place in places)
        return _header(_PROXY, _TCP4, packed + ports)
    packed = b"".join(_as_ipv6(place.address).packed for place in places)
    return _header(_PROXY, _TCP6, packed + ports)


def _header(command: int, family: int, addresses: bytes) -> bytes:
    return _SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


def _place_of(address: object) -> _Place | None:
    """An address and a port; None if it is something else."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return None
    try:
        found = ip_address(address.host)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return _Place(mapped or found, address.port)


def _as_ipv6(address: _IP) -> _IP:
    return address if address.version == 6 else ip_address(f"::ffff:{address}")
