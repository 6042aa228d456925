"""
:class:`Destinations`: which hosts and ports a client may name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from twisted.internet.address import IPv4Address as TwistedIPv4Address
from twisted.internet.address import IPv6Address as TwistedIPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer

from ...errors import AddressProhibited, DestinationNotAllowed, InvalidArgument, NameNotResolved
from ...fields import printable
from .addresses import Address, Network, is_global, unmapped, unmapped_network
from .hosts import parse_host, parse_name

__all__ = ["Destinations"]

# What is tried for one name. A stranger's name may have thousands of addresses.
_MOST_ADDRESSES: Final = 16
# Resolvers keep what they are asked until they know the answer, whether somebody still wants it or not.
_MOST_LOOKUPS: Final = 200

_MOST_PORT: Final = 65535

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

_ENTRY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*):(\*|([0-9]{1,5})(?:-([0-9]{1,5}))?)\Z", re.ASCII)


class _Entry(NamedTuple):
    """One entry: its host, which is a name, a suffix with its dot, or a network, and its ports."""

    ports: range
    network: Network | None = None
    name: str | None = None
    suffix: str | None = None
    """``.example.com``, for ``*.example.com``; empty for ``*``."""

    def passes_name(self, name: str) -> bool:
        if self.name is not None:
            return name == self.name
        return self.suffix is not None and name.endswith(self.suffix)


class Destinations:
    """
    Which destinations a client may name: those that one of the entries allows.

    An entry is ``HOST:PORTS``. PORTS is a number, a range (``8000-8099``) or ``*``. HOST is one of

    - a name, ``example.com``: this one alone;
    - ``*.example.com``: every name below it, but not itself;
    - ``*``: every name and every global address;
    - an address or a network: ``192.0.2.1``, ``10.0.0.0/8``, and in brackets ``[2001:db8::/32]``.

    A name passes if an entry names it, or if a network entry holds an address that it resolves to.
    Addresses that are not global pass only if an address or network entry holds them, whatever name
    leads there: loopback, private (RFC 1918, RFC 4193) and shared (RFC 6598), link-local, multicast,
    unspecified, reserved ones and those for documentation, and those that wrap such an address
    (IPv4-mapped, NAT64, 6to4). The name ``localhost`` in an entry stands for the loopback addresses
    when a client names ``localhost``.

    IPv4-mapped addresses count as the IPv4 addresses that they stand for. An IPv4 address in an unusual
    form (``0x7f.1``, ``2130706433``), an address with a zone and a name with percent-encoded characters
    are not allowed, whatever the entries say.
    """

    def __init__(self, *entries: str) -> None:
        """
        :param entries: what is allowed; without any, nothing is.
        :raises InvalidArgument: if an entry is wrong.
        """
        self._text = entries
        self._entries = tuple(map(_parse_entry, entries))
        self._lookups = 0

    def __repr__(self) -> str:
        return f"Destinations({', '.join(map(repr, self._text))})"

    def addresses(
        self, host: str, port: int, resolver: IHostnameResolver | None, transport: str = "TCP"
    ) -> Deferred[list[Address]]:
        """
        The addresses of a destination that are allowed. A name is looked up once: the caller connects
        to these addresses, and does not look the name up again.

        :param host: a name or an address as a client wrote it; an IPv6 address may have brackets.
        :param port: the port.
        :param resolver: looks names up; not asked for an address, nor for a name that cannot pass. A
            reactor in memory may have none.
        :param transport: ``"TCP"`` or ``"UDP"``, for the resolver.
        :return: fires with at least one address, in the resolver's order; fails with
            :class:`~upgrade_switch.errors.DestinationNotAllowed` if the name or the port is not
            allowed, with :class:`~upgrade_switch.errors.AddressProhibited` if the address is not, or
            none of a name's is, and with :class:`~upgrade_switch.errors.NameNotResolved` if a name has
            no address. Cancelling it drops the resolver's answer.
        """
        here = [entry for entry in self._entries if port in entry.ports]
        try:
            parsed = parse_host(host)
        except ValueError as error:
            return fail(DestinationNotAllowed(f"{_shown(host)} is not a host: {error}"))
        if not here:
            return fail(DestinationNotAllowed(f"port {port} is not allowed"))
        if not isinstance(parsed, str):
            is_any = any(entry.suffix == "" for entry in here)
            if _passes(parsed, here, by_name=is_any):
                return succeed([parsed])
            return fail(AddressProhibited(f"the address {parsed} is not allowed"))
        naming = [entry for entry in here if entry.passes_name(parsed)]
        if not naming and not any(entry.network for entry in here):
            return fail(DestinationNotAllowed(f"the name {parsed} is not allowed"))
        return self._look_up(parsed, port, resolver, transport).addCallback(
            _allowed, parsed, here, naming
        )

    def _look_up(
        self, name: str, port: int, resolver: IHostnameResolver | None, transport: str
    ) -> Deferred[list[Address]]:
        if self._lookups >= _MOST_LOOKUPS:
            return fail(NameNotResolved("too many names are being looked up"))
        self._lookups += 1
        receiver = _Receiver(self._looked_up)
        try:
            assert resolver is not None
            resolver.resolveHostName(receiver, name, portNumber=port, transportSemantics=transport)
        except Exception:
            self._looked_up()
            return fail()
        return receiver.done

    def _looked_up(self) -> None:
        self._lookups -= 1


@implementer(IResolutionReceiver)
class _Receiver:
    """
    Is told what a resolver finds.

    :ivar done: fires with all addresses.
    """

    def __init__(self, completed: Callable[[], None]) -> None:
        """
        :param completed: called when the resolver has finished, even if nobody waits for it any more.
        """
        self._completed = completed
        self._addresses: list[Address] = []
        self.done: Deferred[list[Address]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        # Those of Twisted's resolver cannot be cancelled.
        pass

    def addressResolved(self, address: IAddress) -> None:
        with suppress(ValueError):
            if isinstance(address, TwistedIPv4Address | TwistedIPv6Address):
                self._addresses.append(_with_zone(address))

    def resolutionComplete(self) -> None:
        self._completed()
        # Where it was cancelled, that has called it.
        if not self.done.called:
            self.done.callback(self._addresses)


def _with_zone(address: TwistedIPv4Address | TwistedIPv6Address) -> Address:
    zone = getattr(address, "scopeID", 0)
    has_zone = not zone or "%" in address.host
    return unmapped(ip_address(address.host if has_zone else f"{address.host}%{zone}"))


def _allowed(
    found: list[Address], name: str, here: list[_Entry], naming: list[_Entry]
) -> list[Address]:
    if not found:
        raise NameNotResolved(f"the name {name} has no address")
    is_localhost = name == "localhost" and any(entry.name == name for entry in naming)
    passing = [
        address
        for address in dict.fromkeys(found)
        if _passes(address, here, by_name=bool(naming))
        or (is_localhost and any(address in network for network in _LOOPBACK))
    ]
    if not passing:
        raise AddressProhibited(f"no address of {name} is allowed")
    return passing[:_MOST_ADDRESSES]


def _passes(address: Address, here: list[_Entry], by_name: bool) -> bool:
    """Whether an address that is global is allowed by name, or an entry holds the address itself."""
    if by_name and is_global(address):
        return True
    return any(entry.network is not None and address in entry.network for entry in here)


def _parse_entry(entry: str) -> _Entry:
    match = _ENTRY.match(entry) if isinstance(entry, str) else None
    if match is None:
        hint = "" if not isinstance(entry, str) or entry.count(":") < 2 else _BRACKETS
        raise InvalidArgument(f"a destination is 'HOST:PORTS', not {entry!r}{hint}")
    host, ports, first, last = match.groups()
    allowed = range(1, _MOST_PORT + 1) if ports == "*" else range(int(first), int(last or first) + 1)
    if not allowed or allowed[0] < 1 or allowed[-1] > _MOST_PORT:
        raise InvalidArgument(f"{entry!r}: ports are from 1 to {_MOST_PORT}, not {ports}")
    try:
        return _parse_host(host, allowed)
    except ValueError as error:
        raise InvalidArgument(f"{entry!r}: not a name, an address or a network: {error}") from None


_BRACKETS = " (an IPv6 address has brackets around it)"


def _parse_host(host: str, ports: range) -> _Entry:
    if host == "*":
        return _Entry(ports, suffix="")
    if host.startswith("*."):
        return _Entry(ports, suffix=f".{parse_name(host[2:])}")
    if host.startswith("["):
        if "%" in host:
            raise ValueError("an address with a zone")
        return _Entry(ports, unmapped_network(IPv6Network(host[1:-1])))
    if "/" in host:
        return _Entry(ports, ip_network(host))
    parsed = parse_host(host)
    if isinstance(parsed, IPv4Address):
        return _Entry(ports, IPv4Network(parsed))
    return _Entry(ports, name=str(parsed))


def _shown(host: str) -> str:
    """A host that may be anything, for an error's message."""
    return repr(printable(host[:80]))
