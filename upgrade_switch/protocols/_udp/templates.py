"""
URI templates (RFC 6570), as far as RFC 9298 §2 wants them of a UDP proxy's clients. Pure.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

__all__ = ["WELL_KNOWN", "expand", "has_variables"]

WELL_KNOWN: Final = "/.well-known/masque/udp/{target_host}/{target_port}/"
"""The path of a proxy of which nothing but the host is known (RFC 9298 §2)."""

_REQUIRED: Final = ("target_host", "target_port")

# RFC 9298 §2: what a template consists of.
_PRINTABLE = re.compile(r"[!-~]*\Z")

# RFC 6570 §2.2, §2.3; of the operators, those of §3.2.2, §3.2.8 and §3.2.9. RFC 9298 §2 forbids the
# others, and the modifiers of level 4.
_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_VARIABLE: Final = r"(?:\w|%[0-9A-Fa-f]{2})(?:\.?(?:\w|%[0-9A-Fa-f]{2}))*"
_CONTENT = re.compile(rf"([?&]?)({_VARIABLE}(?:,{_VARIABLE})*)\Z", re.ASCII)

# What stands before the first variable, and between two.
_SEPARATORS = {"": ("", ","), "?": ("?", "&"), "&": ("&", "&")}


def has_variables(text: str) -> bool:
    """Whether it is a template, rather than a URL."""
    return "{" in text


def expand(template: str, host: str, port: int) -> str:
    """
    The URL to ask for a flow.

    :param template: a URI template of level 3 or below, such as
        ``https://proxy.example/masque{?target_host,target_port}``.
    :param host: the target's host; an IPv6 address without brackets.
    :param port: its port.
    :raises ValueError: if the template breaks a rule of RFC 9298 §2.
    """
    if not isinstance(template, str) or not _PRINTABLE.match(template):
        raise ValueError(f"a URI template is printable ASCII, not {template!r}")
    values = {"target_host": host, "target_port": str(port)}
    named: list[str] = []

    def expanded(match: re.Match[str]) -> str:
        content = _CONTENT.match(match[1])
        if content is None:
            raise ValueError(f"not an expression that RFC 9298 §2 allows: {match[0]!r}")
        operator, names = content[1], content[2].split(",")
        named.extend(names)
        first, between = _SEPARATORS[operator]
        parts = [
            f"{name}={quote(values[name], safe='')}" if operator else quote(values[name], safe="")
            for name in names
            if name in values
        ]
        return first + between.join(parts) if parts else ""

    url = _EXPRESSION.sub(expanded, template)
    if "{" in url or "}" in url:
        raise ValueError(f"a brace that is not part of an expression: {template!r}")
    missing = [name for name in _REQUIRED if name not in named]
    if missing:
        raise ValueError(f"a URI template without {{{missing[0]}}}: {template!r}")
    _check_place(template)
    return url


def _check_place(template: str) -> None:
    """
    :raises ValueError: if there is a variable anywhere but in the path and the query, or no path.
    """
    before, slashes, behind = template.partition("://")
    authority = re.split(r"[/?#]", behind, maxsplit=1)[0]
    if not slashes or "{" in before or "{" in authority:
        raise ValueError(f"variables are allowed in the path and the query only: {template!r}")
    if not urlsplit(_EXPRESSION.sub("", template)).path.startswith("/"):
        raise ValueError(f"a URI template has a path: {template!r}")
    if "{" in template.partition("#")[2]:
        raise ValueError(f"a variable in the fragment: {template!r}")
