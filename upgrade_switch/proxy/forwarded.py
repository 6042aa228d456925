"""
What a proxy says about the client: ``X-Forwarded-For``, ``-Proto`` and ``-Host``, ``Forwarded`` (RFC
7239), and about itself: ``Via`` (RFC 9110 §7.6.3), and ``Max-Forwards`` (§7.6.2).

Whoever sends these fields may write anything into them. So what came with the request counts only if
its sender's address is trusted; from anybody else it is thrown away, under every name that a back end
could take for one of these (``X_Forwarded_For`` is the same variable in CGI and WSGI).

Pure, as :mod:`.fields` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from secrets import token_hex
from typing import NamedTuple, TypeAlias

from ..errors import InvalidArgument
from ..fields import is_host, is_token
from .elements import read_elements

__all__ = [
    "Client",
    "Field",
    "Trusted",
    "clean",
    "clean_fields",
    "client_address",
    "describes_client",
    "forwarded_fields",
    "hops_left",
    "lines_of",
    "new_pseudonym",
    "one_hop_less",
    "plain_name",
    "via",
    "went_through",
]

Field: TypeAlias = tuple[bytes, bytes]
Network: TypeAlias = IPv4Network | IPv6Network

# Addresses that are parsed once, and clients that are described once. The bound keeps strangers from
# filling the memory.
_MOST_REMEMBERED = 256

# CR, LF and NUL become spaces, RFC 9110 §5.5; so do the two other characters that h11 does not send.
_UNCLEAN = b"\r\n\0\v\f"
_CLEAN = bytes.maketrans(_UNCLEAN, b" " * len(_UNCLEAN))

UNIX = "unix"
"""Among the trusted: the clients of a UNIX socket, which have no address."""

# A "Forwarded" that ends within a quoted string would swallow what is appended to it (RFC 7239 §4).
_CLOSED_QUOTES = re.compile(rb'(?:[^"]++|"(?:[^"\\]++|\\.)*+")*+\Z', re.DOTALL)

# RFC 7239 §6: an obfuscated identifier. "unknown" is the other one that is no address.
_OBFUSCATED = re.compile(r"_[A-Za-z0-9._\-]+\Z")

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]*)?\Z")

_HOPS = re.compile(rb"[0-9]{1,18}\Z")

# What is no field value in Forwarded's quoted strings (RFC 9110 §5.6.4).
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Client(NamedTuple):
    """Who sends a request, and how."""

    address: str | None
    """Its IP address; None if it came through a UNIX socket."""
    is_secure: bool = False
    """Whether it spoke TLS."""
    authority: bytes | None = None
    """Its Host field; over HTTP/2, ``:authority``. None without one."""
    version: bytes = b"HTTP/1.1"
    """The HTTP version of its request."""

    @property
    def scheme(self) -> bytes:
        return b"https" if self.is_secure else b"http"

    @property
    def is_http2(self) -> bool:
        return self.version.startswith(b"HTTP/2")


def lines_of(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """
    The values of all lines of a field, in their order.

    :param name: the field's name in lower case.
    """
    return [value for other, value in fields if other.lower() == name]


def clean(value: bytes) -> bytes:
    """A field's value as it may be sent."""
    return value.translate(_CLEAN).strip(b" \t")


def clean_fields(fields: Iterable[Field]) -> list[Field]:
    """Fields as they may be sent."""
    stripped = [(name, value.strip(b" \t")) for name, value in fields]
    values = b"".join([value for _, value in stripped])
    # As a rule, they are: one look at all of them costs less than one at each.
    if len(values.translate(None, _UNCLEAN)) == len(values):
        return stripped
    return [(name, clean(value)) for name, value in stripped]


def plain_name(name: bytes) -> bytes:
    """A field's name as servers compare it that turn names into variables, as CGI and WSGI do."""
    return name.lower().replace(b"_", b"-")


class Trusted:
    """
    The networks whose clients may say on whose behalf they ask: other proxies.

    :ivar has_any: whether there are any.
    """

    def __init__(self, networks: Iterable[str | Network] = ()) -> None:
        """
        :param networks: addresses or networks, such as ``"10.0.0.0/8"`` or ``"::1"``, and ``"unix"``
            for the clients of a UNIX socket.
        :raises InvalidArgument: if one is something else.
        """
        if isinstance(networks, str | bytes):
            raise InvalidArgument(f"trusted is a list of networks, not {networks!r}")
        self._networks: list[Network] = []
        self._has_unix = False
        for network in networks:
            if network == UNIX:
                self._has_unix = True
            else:
                self._networks.append(_network_of(network))
        self.has_any = self._has_unix or bool(self._networks)

    def __contains__(self, address: object) -> bool:
        """Whether a client with this address is trusted; None is that of a UNIX socket."""
        if address is None:
            return self._has_unix
        if not self._networks or not isinstance(address, str):
            return False
        parsed = _address_of(address)
        # One of the other family is in no network.
        return parsed is not None and any(parsed in network for network in self._networks)


def _network_of(network: str | Network) -> Network:
    if not isinstance(network, str | IPv4Network | IPv6Network):
        # ip_network takes numbers, and bytes.
        raise InvalidArgument(f"not an address and not a network: {network!r}")
    try:
        return ip_network(network)
    except ValueError as error:
        raise InvalidArgument(f"not an address and not a network: {error}") from None


@lru_cache(_MOST_REMEMBERED)
def _address_of(text: str) -> IPv4Address | IPv6Address | None:
    """An address without its zone; one of IPv4 that is written as one of IPv6 is one of IPv4."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


@lru_cache(_MOST_REMEMBERED)
def _spelled(address: str | None) -> str:
    """An address as X-Forwarded-For has it; ``unknown`` if it is not an address (RFC 7239 §6.2)."""
    parsed = None if address is None else _address_of(address)
    return "unknown" if parsed is None else str(parsed)


def describes_client(name: bytes) -> bool:
    """
    Whether a field says on whose behalf a request comes. From a client that is not trusted, none of
    these passes: not ``X-Forwarded-Port`` or ``-Prefix`` either, which this proxy does not send.

    :param name: as :func:`plain_name` has it.
    """
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip")


def forwarded_fields(fields: Sequence[Field], client: Client, trusted: Trusted) -> list[Field]:
    """
    What this proxy says about the client of a request.

    ``X-Forwarded-For`` and ``Forwarded`` are lists: each proxy appends what it sees. Where a trusted
    one has sent only one of them, the other has the same chain (RFC 7239 §7.4).
    ``X-Forwarded-Proto`` and ``-Host`` are what the first client asked, one value: they stay as a
    trusted proxy has sent them. Given ``https, http``, uvicorn and gunicorn compare the whole, and
    tornado and Werkzeug take the last: each would take a client with TLS for one without. What every
    proxy saw is in ``Forwarded``. There is no ``X-Forwarded-Port``: the port is in the host.

    :param fields: those of the request, as they came.
    :return: the fields that take the place of those.
    """
    if client.address not in trusted:
        # Clients ask several times.
        return list(_said_alone(client))
    return _said(fields, client)


@lru_cache(_MOST_REMEMBERED)
def _said_alone(client: Client) -> tuple[Field, ...]:
    return tuple(_said((), client))


def _said(known: Sequence[Field], client: Client) -> list[Field]:
    """
    :param known: the fields of the request, as far as they are believed.
    """
    nodes, first_proto, first_host = _chain(known)
    said = [(b"X-Forwarded-For", b", ".join([*nodes, _spelled(client.address).encode("ascii")]))]
    proto = b", ".join(_values(known, b"x-forwarded-proto")) or first_proto or client.scheme
    said.append((b"X-Forwarded-Proto", proto))
    host = b", ".join(_values(known, b"x-forwarded-host")) or first_host or client.authority
    if host:
        said.append((b"X-Forwarded-Host", host))
    return [*said, (b"Forwarded", _forwarded(known, client))]


def _chain(known: Sequence[Field]) -> tuple[list[bytes], bytes, bytes]:
    """
    Who has asked, as X-Forwarded-For has it, and the scheme and host that the first client asked, as
    far as Forwarded has to tell them. A proxy that speaks only Forwarded is translated: else a server
    that knows only X-Forwarded-* would take that proxy for the client.
    """
    nodes = _values(known, b"x-forwarded-for")
    if nodes:
        return nodes, b"", b""
    elements = read_elements(b", ".join(_values(known, b"forwarded")))
    if not elements:
        return [], b"", b""
    chain = [_known_node(node.decode("latin-1")).encode("latin-1") for node, _, _ in elements]
    _, proto, host = elements[0]
    return chain, proto if is_token(proto.decode("latin-1")) else b"", host if is_host(host) else b""


def _values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    return list(filter(None, lines_of(fields, name)))


def _forwarded(known: Sequence[Field], client: Client) -> bytes:
    """
    The value of Forwarded (RFC 7239 §4): what is known, and an element for the client.

    A proxy that speaks only X-Forwarded-For is translated (RFC 7239 §7.4). Else a server that prefers
    Forwarded would take that proxy for the client.
    """
    received = b", ".join(_values(known, b"forwarded"))
    own = _element(_spelled(client.address), client.scheme, client.authority)
    if received and _CLOSED_QUOTES.match(received):
        return received + b", " + own
    chain = b",".join(_values(known, b"x-forwarded-for")).decode("latin-1")
    nodes = [node for entry in chain.split(",") if (node := entry.strip(" \t"))]
    proto = b",".join(_values(known, b"x-forwarded-proto")).partition(b",")[0].strip(b" \t")
    host = b",".join(_values(known, b"x-forwarded-host")).partition(b",")[0].strip(b" \t")
    # What the first client asked belongs to the first element.
    firsts = [_element(_known_node(node), proto, host) for node in nodes[:1]]
    others = [_element(_known_node(node), None, None) for node in nodes[1:]]
    return b", ".join([*firsts, *others, own])


def _known_node(node: str) -> str:
    """An entry of X-Forwarded-For, without the port that some servers add."""
    match = _WITH_PORT.match(node)
    address = _spelled(match[1] or match[2] if match else node)
    return node if address == "unknown" and _OBFUSCATED.match(node) else address


def _element(node: str, proto: bytes | None, host: bytes | None) -> bytes:
    """One element of Forwarded (RFC 7239 §4, §5, §6): IPv6 has brackets and quotes."""
    pairs = [b"for=" + _quoted((f"[{node}]" if ":" in node else node).encode("latin-1"))]
    if proto:
        pairs.append(b"proto=" + _quoted(proto))
    if host:
        pairs.append(b"host=" + _quoted(host))
    return b";".join(pairs)


def _quoted(value: bytes) -> bytes:
    """A value of Forwarded: a token, or else a quoted string (RFC 9110 §5.6.4)."""
    if is_token(value.decode("latin-1")):
        return value
    clean = _CONTROLS.sub(b" ", value)
    return b'"' + clean.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def client_address(fields: Sequence[Field], client: Client, trusted: Trusted) -> str | None:
    """
    The address of the first client, as far as those are trusted who tell of it: the last one in
    ``X-Forwarded-For``, or else in ``Forwarded``, that is not a trusted proxy's.

    :return: the address; None for a UNIX socket's client of which nothing is known.
    """
    address = None if client.address is None else _spelled(client.address)
    chain = b",".join(_chain(fields)[0]).decode("latin-1").split(",")
    while address in trusted and chain:
        node = _known_node(chain.pop().strip(" \t"))
        if _address_of(node) is None:
            break
        address = node
    return address


def new_pseudonym() -> bytes:
    """A name in ``Via`` that no other proxy has: by it, one that reaches itself knows it."""
    return b"upgrade_switch-" + token_hex(4).encode("ascii")


def via(fields: Iterable[Field], version: bytes, pseudonym: bytes) -> Field:
    """
    ``Via``, with this proxy at its end (RFC 9110 §7.6.3), in one line.

    :param fields: those of the message, as they came.
    :param version: in which version of HTTP it came, ``b"HTTP/1.1"`` for example.
    :param pseudonym: what this proxy calls itself.
    """
    own = version.removeprefix(b"HTTP/") + b" " + pseudonym
    return b"Via", b", ".join([*_values(fields, b"via"), own]) if fields else own


def went_through(fields: Iterable[Field], pseudonym: bytes) -> bool:
    """
    Whether a request has been here before: a proxy must not send it round for ever (RFC 9110 §7.6).
    """
    entries = b",".join(_values(fields, b"via")).split(b",")
    return any(entry.split()[1:2] == [pseudonym] for entry in entries)


def hops_left(method: bytes, fields: Iterable[Field]) -> int | None:
    """
    How many more proxies an OPTIONS or a TRACE may pass (RFC 9110 §7.6.2). If it is 0, this one has to
    answer it.

    :return: None if there is no limit.
    """
    lines = lines_of(fields, b"max-forwards") if method in (b"OPTIONS", b"TRACE") else []
    return int(lines[0]) if len(lines) == 1 and _HOPS.match(lines[0]) else None


def one_hop_less(name: bytes, value: bytes) -> Field:
    """A field of an OPTIONS or a TRACE as it goes on."""
    if name.lower() != b"max-forwards" or not _HOPS.match(value):
        return name, value
    return name, b"%d" % max(int(value) - 1, 0)
