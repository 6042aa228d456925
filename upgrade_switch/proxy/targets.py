"""
The path that a back end is asked for: its base path, and what is below the proxy's mount point as the
client has sent it.

Nothing is decoded, encoded or tidied up on the way: ``%2F``, ``//`` and an empty ``?`` arrive as they
are, since only the application knows what they mean. But a path that leaves the base path by dot
segments, in any reading that some server has, is refused: what is behind the proxy is what its URL
names, and no more.

Pure: bytes in, bytes or :class:`BadTarget` out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["BadTarget", "Mounted", "climbs", "split_mount", "target_of"]

# RFC 9112 §3.2 with RFC 3986 §2, as far as browsers keep to it: no white space, no control character,
# nothing but ASCII, and no fragment, of which nobody knows where the path ends.
_TARGET = re.compile(rb"[!\"$-~]+\Z")

# RFC 3986 §2.3, §6.2.2.2: an encoded dot is a dot.
_DOT = re.compile(rb"%2e", re.IGNORECASE)

# How some servers read a path: a backslash as a slash, and an encoded one, too.
_ANY_SLASH = re.compile(rb"[/\\]|%2f|%5c", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BadTarget:
    """
    A request target that is not passed on: the client gets 400 (RFC 9112 §3.2).

    :ivar why: what is wrong with it.
    """

    why: str


class Mounted(NamedTuple):
    """A request target, cut at the point where the proxy is mounted."""

    mount: bytes
    """The path of the proxy itself, such as ``/app``; empty at the root."""
    below: bytes
    """The rest of the path: empty, or from a slash on."""
    query: bytes
    """With its question mark; empty without one."""


def split_mount(uri: bytes, consumed: int) -> Mounted | BadTarget:
    """
    Cut a request target where the proxy is mounted.

    :param uri: the target in origin-form, as the client sent it (``request.uri``).
    :param consumed: how many segments of the path led to the proxy (``len(request.prepath)``).
    """
    if uri == b"*" and not consumed:
        # OPTIONS asks about the server as a whole (RFC 9112 §3.2.4).
        return Mounted(b"", b"*", b"")
    if not uri.startswith(b"/") or not _TARGET.match(uri):
        return BadTarget("a request target with characters that have no place in it")
    path, mark, query = uri.partition(b"?")
    if not consumed:
        return Mounted(b"", path, mark + query)
    segments = path.split(b"/")[1:]
    if len(segments) < consumed:
        return BadTarget("a request target that ends above the proxy")
    mount = b"".join(b"/" + segment for segment in segments[:consumed])
    return Mounted(mount, path[len(mount) :], mark + query)


def target_of(mounted: Mounted, base: bytes) -> bytes | BadTarget:
    """
    The request target for the back end.

    :param mounted: the client's.
    :param base: the path of the back end's URL. Its slash at the end says what the mount point itself
        is: with ``/base/`` it is that, with ``/base`` that.
    """
    if mounted.below == b"*":
        return b"*"
    if (b".." in mounted.below or b"%" in mounted.below) and climbs(mounted.below):
        return BadTarget("a path that leaves what is behind the proxy")
    path = base.removesuffix(b"/") + mounted.below if mounted.below else base
    return (path or b"/") + mounted.query


def climbs(path: bytes) -> bool:
    """
    Whether dot segments lead out of a path (RFC 3986 §5.2.4): as it stands; if its encoded slashes and
    backslashes are slashes; if several slashes are one; if what follows a semicolon is no part of a
    segment (``..;x``), as in Java.
    """
    plain = _DOT.sub(b".", path)
    return _climbs(plain.split(b"/")) or _climbs(_ANY_SLASH.split(plain))


def _climbs(segments: Iterable[bytes]) -> bool:
    depth = 0
    for segment in segments:
        name = segment.partition(b";")[0]
        if name == b"..":
            depth -= 1
            if depth < 0:
                return True
        # Where several slashes are kept, each empty segment would be one more to climb.
        elif name not in (b"", b"."):
            depth += 1
    return False
