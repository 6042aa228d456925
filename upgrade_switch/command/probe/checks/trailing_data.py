"""Bytes of the new protocol that come with, or right behind, the request."""

from __future__ import annotations

from ..subject import Subject
from .check import Group, Level

__all__ = ["GROUP"]

GROUP = Group("Trailing data: bytes sent before the 101 was read")

_SECTION = "RFC 9110 §7.8"
_SAID = b"sixteen bytes..."


@GROUP.check("trailing-data-in-segment", Level.MUST, _SECTION)
def in_the_segment(server: Subject) -> None:
    """16 bytes of the new protocol in the segment of the request."""
    with server.open() as wire:
        wire.send(server.upgrade() + server.say(_SAID))
        server.switched(wire)
        server.hears(wire, _SAID)


@GROUP.check("trailing-data-like-http", Level.MUST, _SECTION)
def like_http(server: Subject) -> None:
    """An HTTP request as bytes of the new protocol, in the segment of the request."""
    said = b"GET / HTTP/1.1\r\nHost: inner\r\n\r\n"
    with server.open() as wire:
        wire.send(server.upgrade() + server.say(said))
        server.switched(wire)
        server.hears(wire, said)
