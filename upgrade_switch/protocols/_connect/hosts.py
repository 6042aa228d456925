"""
Hosts as clients name them, and what they are: a name, or an address. Pure.

A resolver takes more for an address than it looks like: ``0x7f.1`` and ``2130706433`` are 127.0.0.1 for
``getaddrinfo``. So what is neither an address in its usual form nor a name that no resolver can take
for one is no host here.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

from .addresses import Address, unmapped

__all__ = ["parse_host", "parse_name"]

# RFC 1123 §2.1, and the underscore, which names in private networks have.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}\Z")

# A resolver takes a name whose last label is a number for an IPv4 address (WHATWG URL, "ends in a
# number").
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")

# RFC 1035 §2.3.4, without the dot at the end.
_LONGEST_NAME = 253


def parse_host(host: str) -> Address | str:
    """
    What a host is (RFC 3986 §3.2.2).

    :param host: an IPv6 address with or without brackets, an IPv4 address, or a name; an
        internationalised one, too.
    :return: an address, an IPv4-mapped one as the IPv4 address; or a name, as :func:`parse_name` has
        it.
    :raises ValueError: if it is neither. An IPv6 address with a zone is not one, since a zone is this
        machine's; nor is an IPv4 address in an unusual form; nor are percent-encoded characters.
    """
    if host[:1] == "[" and host[-1:] == "]":
        return _parse_ipv6(host[1:-1])
    if ":" in host:
        return _parse_ipv6(host)
    name = _ascii(host)
    try:
        return IPv4Address(name)
    except AddressValueError:
        return _checked(name)


def parse_name(name: str) -> str:
    """
    A name in the one form in which names are compared: lower case, A-labels (RFC 5891), no dot at the
    end.

    :raises ValueError: if it is not a name.
    """
    return _checked(_ascii(name))


def _parse_ipv6(text: str) -> Address:
    # Python takes a zone for a part of the address.
    if "%" in text:
        raise ValueError("an IPv6 address with a zone")
    return unmapped(IPv6Address(text))


def _ascii(host: str) -> str:
    """A name, or an IPv4 address, in ASCII and in lower case, without one dot at the end."""
    if not host.isascii():
        if len(host) > _LONGEST_NAME:
            raise ValueError("not a name")
        try:
            # It maps, for example, full-width digits to the usual ones: what comes out is looked at.
            host = idna.encode(host, uts46=True).decode("ascii")
        except UnicodeError as error:
            raise ValueError(str(error)) from None
    return host.lower().removesuffix(".")


def _checked(name: str) -> str:
    labels = name.split(".")
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.match, labels)):
        raise ValueError("not a name")
    if _NUMBER.match(labels[-1]):
        raise ValueError("an IPv4 address in an unusual form")
    return name
