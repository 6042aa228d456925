"""
Origins (RFC 6454): where the page comes from that opens a WebSocket.

Pure: text in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ...errors import InvalidUpgrades
from ...fields import is_host

__all__ = ["AllowedOrigins", "is_same_origin", "normal_origin"]

ANY = "*"

# RFC 6454 §7: a serialized origin is "null", or scheme, host and perhaps a port; no path, no user.
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.\-]*)://(\[[0-9a-f:.]+\]|[!$&'()*+,;=%a-z0-9\-._~]+)(?::([0-9]{1,5}))?\Z",
    re.ASCII,
)

_LARGEST_PORT = 65535

_DEFAULT_PORTS = {"http": 80, "https": 443}


@lru_cache(256)
def normal_origin(text: str) -> str | None:
    """
    The one spelling of an origin: in lower case, without a default port.

    :return: None for what is no origin.
    """
    if not text.isascii():
        # A letter may become an ASCII one in lower case.
        return None
    lower = text.lower()
    if lower == "null":
        return lower
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
    Whether an origin is where a request goes: host and port. (A proxy that ends TLS in front of a site
    changes the scheme.)

    :param authority: the request's Host.
    """
    scheme, _, _ = origin.partition("://")
    normal = normal_origin(origin)
    return normal is not None and normal == normal_origin(f"{scheme}://{authority}")


class AllowedOrigins:
    """A set of origins; an origin is in it where scheme, host and port are the same."""

    def __init__(self, origins: Iterable[str]) -> None:
        """
        :param origins: such as ``https://example.com``, ``http://localhost:8080``, ``null``; ``*``
            for any.
        :raises InvalidUpgrades: for what is no origin.
        """
        if isinstance(origins, str):
            raise InvalidUpgrades(f"allowed_origins is a list of origins, not a text: {origins!r}")
        self._any = False
        self._origins = set()
        for origin in origins:
            if origin == ANY:
                self._any = True
                continue
            normal = normal_origin(origin) if isinstance(origin, str) else None
            if normal is None:
                raise InvalidUpgrades(f"not an origin (scheme://host[:port]): {origin!r}")
            self._origins.add(normal)

    def __contains__(self, origin: object) -> bool:
        return self._any or (isinstance(origin, str) and normal_origin(origin) in self._origins)
