"""
What ``Forwarded`` says (RFC 7239 §4): :func:`read_elements`.

Pure: bytes in, values out; nothing here raises.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Element", "read_elements"]

# A pair, or nothing, and what stands behind it: a semicolon before the next pair, a comma before the
# next element, or the end. RFC 9110 §5.6.2 and §5.6.4 have tokens and quoted strings.
_PAIR = re.compile(
    rb"[ \t]*+(?:(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]++)="
    rb"(?:(?P<token>[!#$%&'*+\-.^_`|~0-9A-Za-z]++)|\"(?P<quoted>(?:[^\"\\]++|\\.)*+)\")[ \t]*+)?"
    rb"(?P<behind>[;,]|\Z)",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Element(NamedTuple):
    """What one proxy says about who has asked it. What it does not say is empty."""

    node: bytes
    """``for``: an address, with brackets if it is one of IPv6, perhaps a port; or some other name."""
    proto: bytes
    host: bytes


def read_elements(value: bytes) -> list[Element] | None:
    """
    :param value: of all lines of the field together.
    :return: one for each proxy, that of the first client in front; None if it breaks the grammar.
    """
    elements: list[Element] = []
    pairs: dict[bytes, bytes] = {}
    position = 0
    while True:
        match = _PAIR.match(value, position)
        if match is None:
            return None
        name, token, quoted, behind = match.group("name", "token", "quoted", "behind")
        if name is not None:
            if name.lower() in pairs:
                # §4: once in each element.
                return None
            pairs[name.lower()] = _ESCAPED.sub(rb"\1", quoted) if token is None else token
        if behind != b";" and pairs:
            elements.append(Element(*[pairs.get(each, b"") for each in (b"for", b"proto", b"host")]))
            pairs = {}
        if not behind:
            return elements
        position = match.end()
