"""
``serve --tunnel``: paths at which upgrades lead to other servers.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.python.usage import UsageError

from ...errors import InvalidToken
from ...negotiation import UpgradeToken
from .paths import is_path

__all__ = ["TunnelOption", "tunnel_of_words"]

_PROXY_PROTOCOL = "proxy-protocol"


class TunnelOption(NamedTuple):
    """What one option says."""

    path: str
    token: str
    where: str
    """An endpoint string, or the name of a file that has them."""
    proxy_protocol: bool
    """Whether the server is told the client's address."""


def tunnel_of_words(option: str, where: str, value: str) -> TunnelOption:
    """
    Read the value of an option: ``PATH TOKEN ENDPOINT``, or the same and ``proxy-protocol``.

    :param option: the option's name, for messages, and ``where``: that of its third word.
    :raises UsageError: if a word is missing or wrong.
    """
    parts = value.split(None, 2)
    if len(parts) != 3 or not is_path(parts[0]):
        raise UsageError(f"--{option} needs '/PATH TOKEN {where}', not {value!r}")
    path, token, there = parts
    try:
        UpgradeToken.parse(token)
    except InvalidToken as error:
        raise UsageError(f"--{option} {value!r}: {error}") from None
    # The third word may have spaces in it: a UNIX socket's path, for example.
    before, *last = there.rsplit(None, 1)
    proxy_protocol = last == [_PROXY_PROTOCOL]
    there = before if proxy_protocol else there.rstrip()
    return TunnelOption(path.rstrip("/") or "/", token, there, proxy_protocol)
