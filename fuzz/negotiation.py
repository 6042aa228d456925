"""
The grammar of Upgrade, Connection and Host, beside one that is slow and plain.

An input is the lines of three fields: ``\\xff`` stands between fields, ``\\xfe`` between lines.
"""

from __future__ import annotations

import socket
from string import ascii_letters, digits, hexdigits

from upgrade_switch import Offer, UpgradeToken
from upgrade_switch.errors import InvalidToken
from upgrade_switch.fields import connection_options, is_host
from upgrade_switch.negotiation import TokenTable

TCHARS = set(f"!#$%&'*+-.^_`|~{digits}{ascii_letters}")
HOST_CHARS = set(f"-._~!$&'()*+,;={digits}{ascii_letters}")
MOST_TOKENS = 64


def check(data: bytes) -> None:
    """Whether package and reference agree on an input."""
    upgrade, connection, host = ([*data.split(b"\xff", 2), b"", b""])[:3]
    upgrades, connections = upgrade.split(b"\xfe"), connection.split(b"\xfe")
    # Bytes: in a text, letters that are not ASCII's have a case, too.
    options = {element for line in connections for element in elements(line.lower())}
    assert connection_options(connections) == options, connections
    assert is_host(host) == is_a_host(host), host
    check_token(upgrades[0])
    offer = Offer.parse(upgrades)
    assert [(t.name, t.version) for t in offer] == tokens_of(upgrades), upgrades
    check_offer(offer)
    eligible = Offer.of_request(b"GET", b"HTTP/1.1", upgrades, connections)
    assert eligible.tokens == (offer.tokens if "upgrade" in options else ()), connections
    assert (eligible.ineligible is None) == bool(eligible)
    for method, version in ((b"CONNECT", b"HTTP/1.1"), (b"GET", b"HTTP/1.0"), (b"GET", host)):
        if (method, version) != (b"GET", b"HTTP/1.1"):
            assert not Offer.of_request(method, version, upgrades, connections)


def elements(line: bytes) -> list[str]:
    found = [element.strip(" \t") for element in bytes_to_text(line).split(",")]
    return [element for element in found if element]


def bytes_to_text(data: bytes) -> str:
    return "".join(map(chr, data))


def token_of(text: str) -> tuple[str, str | None] | None:
    """Name and version; None if it is not a token."""
    parts = text.split("/")
    if len(parts) > 2 or not all(part and set(part) <= TCHARS for part in parts):
        return None
    return parts[0], parts[1] if len(parts) == 2 else None


def tokens_of(lines: list[bytes]) -> list[tuple[str, str | None]]:
    """What an Upgrade field offers."""
    found = [token_of(element) for line in lines for element in elements(line)]
    tokens = [token for token in found if token is not None]
    return tokens if len(tokens) == len(found) <= MOST_TOKENS else []


def check_token(line: bytes) -> None:
    """Parsing raises InvalidToken alone, and what prints is what was parsed."""
    expected = token_of(bytes_to_text(line))
    for text in (line, bytes_to_text(line)):
        try:
            token = UpgradeToken.parse(text)
        except InvalidToken:
            assert expected is None, line
        else:
            assert (token.name, token.version) == expected
            assert str(token).encode("ascii") == line
            assert token == UpgradeToken.parse(line.swapcase() if token.version is None else line)


def check_offer(offer: Offer) -> None:
    """An offer prints as what it was parsed from, and has what it lists."""
    assert (offer.ineligible is None) == bool(offer) == bool(len(offer))
    if not offer:
        return
    again = Offer.parse([str(offer).encode("ascii")])
    assert [str(token) for token in again] == [str(token) for token in offer]
    assert again == offer
    table = TokenTable({str(offer.tokens[-1]): 1})
    assert (offer.tokens[-1], 1) in table.known(offer)
    for token in offer:
        first = next(t for t in offer if t.name.lower() == token.name.lower())
        assert offer.first(token) == token
        assert offer.first(token.name.upper()) is first
        assert str(token) in offer
        assert token in offer


def is_a_host(value: bytes) -> bool:
    """``uri-host [":" port]`` (RFC 3986 §3.2.2), without an empty host."""
    text = bytes_to_text(value)
    if text.startswith("["):
        literal, closing, port = text[1:].partition("]")
        return bool(closing) and is_port(port) and (is_ipv6(literal) or is_ip_future(literal))
    name, colon, port = text.partition(":")
    return bool(name) and is_port(colon + port) and is_registered_name(name)


def is_port(text: str) -> bool:
    return not text or (text[0] == ":" and set(text[1:]) <= set(digits))


def is_registered_name(name: str) -> bool:
    first, *escapes = name.split("%")
    if not set(first) <= HOST_CHARS:
        return False
    return all(
        len(e) >= 2 and set(e[:2]) <= set(hexdigits) and set(e[2:]) <= HOST_CHARS for e in escapes
    )


def is_ipv6(text: str) -> bool:
    if not text.isascii() or "\0" in text:
        return False
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


def is_ip_future(text: str) -> bool:
    version, dot, address = text.partition(".")
    hexadecimal = version[1:]
    return (
        version[:1] in ("v", "V")
        and bool(hexadecimal and dot and address)
        and set(hexadecimal) <= set(hexdigits)
        and set(address) <= HOST_CHARS | {":"}
    )
