"""
Origins (RFC 6454): where a page that opens a WebSocket comes from.

Pure: strings in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ..errors import InvalidUpgrades
from ..fields import is_host

__all__ = ["AllowedOrigins", "is_same_origin", "normal_origin"]

_ANY = "*"

# RFC 6454 §7: a serialized origin is "null", or scheme, host and perhaps a port; no path, no user.
# React Native sends a slash behind it.
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.\-]*)://(\[[0-9a-f:.]+\]|[!$&'()*+,;=%a-z0-9\-._~]+)(?::([0-9]{1,5}))?/?\Z",
    re.ASCII,
)

# RFC 6454 §4 makes "null" of a file's origin; Cordova and arduinoWebSockets send these.
_FILES = ("file://", "file:///")

_LARGEST_PORT = 65535

_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(256)
def normal_origin(text: str) -> str | None:
    """
    The normal spelling of an origin: in lower case, without a default port or a slash at its end.

    :return: None if the string is not an origin.
    """
    if not text.isascii():
        # The lower case of a letter outside ASCII may be an ASCII letter.
        return None
    lower = text.lower()
    if lower == "null":
        return lower
    if lower in _FILES:
        return _FILES[0]
    match = _ORIGIN.match(lower)
    if match is None:
        return None
    scheme, host, port = match.groups()
    if host.startswith("[") and not is_host(host.encode("ascii")):
        return None
    if port is not None and int(port) > _LARGEST_PORT:
        return None
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def is_same_origin(origin: str, authority: str) -> bool:
    """
    Whether an origin has the host and port that a request is sent to. The scheme does not count, since
    a proxy in front of the site may end TLS.

    :param authority: the value of the request's Host field.
    """
    scheme, _, _ = origin.partition("://")
    normal = normal_origin(origin)
    return normal is not None and normal == normal_origin(f"{scheme}://{authority}")


class AllowedOrigins:
    """A set of origins: an origin is in it if scheme, host and port are the same."""

    def __init__(self, origins: Iterable[str]) -> None:
        """
        :param origins: such as ``https://example.com``, ``http://localhost:8080``, ``file://``,
            ``null``; ``*`` for any, also for one that is not an origin.
        :raises InvalidUpgrades: if one of them is not an origin.
        """
        if isinstance(origins, str):
            raise InvalidUpgrades(f"allowed_origins is a list of origins, not a string: {origins!r}")
        self._any = False
        self._origins = set()
        for origin in origins:
            if origin == _ANY:
                self._any = True
                continue
            normal = normal_origin(origin) if isinstance(origin, str) else None
            if normal is None:
                raise InvalidUpgrades(f"not an origin (scheme://host[:port]): {origin!r}")
            self._origins.add(normal)

    def __contains__(self, origin: object) -> bool:
        return self._any or (isinstance(origin, str) and normal_origin(origin) in self._origins)
