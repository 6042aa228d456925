"""
Where ``forward`` listens, as a person types it: a port, a host and a port, or an endpoint string.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IListeningPort
from twisted.python.usage import UsageError

from ..certificates import is_address
from ..exits import say
from ..listening import address_of

__all__ = ["LOCAL_WANTED", "local_endpoint_string", "warn_if_open"]

LOCAL_WANTED = "a port (5432), an address and a port (127.0.0.1:5432), or a server endpoint string"
"""What users may type."""

_PORT = re.compile(r"[0-9]{1,9}\Z")
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,9})\Z")

_LOOPBACK = "127.0.0.1"
_MOST_PORT = 65535


def local_endpoint_string(text: str, is_udp: bool = False) -> str:
    """
    The endpoint string for what a user has typed: ``5432``, which is on loopback, ``127.0.0.1:5432``,
    ``[::1]:5432`` or ``localhost:5432``. Anything else is an endpoint string already.

    :raises UsageError: if there is no such port.
    """
    kind = "udp" if is_udp else "tcp"
    if _PORT.match(text):
        return f"{kind}:{_checked(text)}:interface={_LOOPBACK}"
    match = _HOST_AND_PORT.match(text)
    host = match and (match[1] or match[2].lower())
    # Other names may be kinds of endpoints: unix:5432 is the file 5432.
    if match is None or not host or not (host == "localhost" or is_address(host)):
        return text
    interface = _LOOPBACK if host == "localhost" else host
    return f"{kind}:{_checked(match[3])}:interface={quoteStringArgument(interface)}"


def _checked(port: str) -> int:
    number = int(port)
    if number > _MOST_PORT:
        raise UsageError(f"a port is a number up to {_MOST_PORT}, not {port}")
    return number


def warn_if_open(port: IListeningPort) -> None:
    """Say so if a port takes connections from everywhere: the user's credentials stand behind it."""
    address = port.getHost()
    if isinstance(address, IPv4Address | IPv6Address) and _is_everywhere(address.host):
        say(
            f"warning: {address_of(port)} is on every interface: whoever reaches this machine can use "
            f"the connection, as you; 'forward {address.port} ...' listens on {_LOOPBACK} only"
        )


def _is_everywhere(host: str) -> bool:
    address = ip_address(host)
    # ::ffff:0.0.0.0 is the same of IPv4, to a socket of IPv6.
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_unspecified or (mapped is not None and mapped.is_unspecified)
