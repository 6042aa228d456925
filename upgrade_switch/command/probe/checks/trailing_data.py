"""Bytes of the new protocol that come with, or right behind, the request."""

from __future__ import annotations

from ..subject import Subject
from ..wire import Broken
from .check import Group, Level, Skipped
from .steps import (
    chunked,
    heard,
    lines_of,
    only_with_an_echo,
    switched_early,
    switched_with_content,
    trying,
)

__all__ = ["GROUP"]

GROUP = Group("Trailing data: bytes sent before the 101 was read", needs_upgrade=True)

_SECTION = "RFC 9110 §7.8"
_SAID = b"sixteen bytes..."
_CONTENT = b"GET /content HTTP/1.1\r\nHost: content\r\n\r\n"


def _keeps(server: Subject, *segments: bytes, said: bytes = _SAID) -> None:
    """
    :param segments: the request, and what is said behind it.
    """
    with server.open() as wire:
        wire.send_apart(*segments)
        switched_early(server, wire)
        heard(server, wire, said)


def _with_content(server: Subject, field: str) -> bytes:
    """An upgrade whose content follows: of a POST, or of a GET where RFC 6455 §4.1 demands that."""
    return server.upgrade(field, method="GET" if server.is_websocket else "POST")


# RFC 6455 §4.1 forbids a client of WebSocket to send before the answer.
@GROUP.check("trailing-data-in-segment", Level.MUST, _SECTION, websocket=Level.PEERS)
def in_the_segment(server: Subject) -> None:
    """16 bytes of the new protocol in the segment of the request."""
    _keeps(server, server.upgrade() + server.say(_SAID))


@GROUP.check("trailing-data-split-at-seam", Level.MUST, _SECTION, websocket=Level.PEERS)
def split_at_the_seam(server: Subject) -> None:
    """
    A request and 16 bytes of the new protocol in two segments, cut at each of the 6 bytes around the
    end of the request.
    """
    request, said = server.upgrade(), server.say(_SAID)
    everything = request + said
    # Where that is refused, nothing can be said of cuts; else none of them may make a difference.
    _keeps(server, everything)
    for offset in range(-6, min(6, len(said)) + 1):
        cut = len(request) + offset
        with trying(f"cut {offset:+} bytes from the end of the request"):
            try:
                _keeps(server.again(), everything[:cut], everything[cut:])
            except Skipped as refused:
                raise Broken(str(refused), "what came without a cut: a 101") from None


@GROUP.check("trailing-data-while-deciding", Level.MUST, _SECTION, websocket=Level.PEERS)
def while_deciding(server: Subject) -> None:
    """A request, and right behind it 16 bytes of the new protocol in segments of a byte each."""
    said = server.say(_SAID)
    _keeps(server, server.upgrade(), *(said[at : at + 1] for at in range(len(said))))


@GROUP.check("trailing-data-100-kb", Level.MUST, _SECTION, websocket=Level.PEERS)
def much_of_it(server: Subject) -> None:
    """100 KB of the new protocol right behind the request, while what comes back is read."""
    said = lines_of(100_000)
    with server.open() as wire:
        wire.send_while_reading(server.upgrade() + server.say(said))
        switched_early(server, wire)
        heard(server, wire, said)


@GROUP.check("trailing-data-like-http", Level.MUST, _SECTION)
def like_http(server: Subject) -> None:
    """An HTTP request as bytes of the new protocol, in the segment of the request."""
    only_with_an_echo(server)
    said = b"GET / HTTP/1.1\r\nHost: inner\r\n\r\n"
    _keeps(server, server.upgrade() + said, said=said)


@GROUP.check("trailing-data-empty-lines", Level.MUST, _SECTION)
def empty_lines(server: Subject) -> None:
    """Two empty lines and a word as bytes of the new protocol: between requests, HTTP skips them."""
    only_with_an_echo(server)
    said = b"\r\n\r\nword"
    _keeps(server, server.upgrade() + said, said=said)


@GROUP.check("trailing-data-any-bytes", Level.MUST, _SECTION)
def any_bytes(server: Subject) -> None:
    """All 256 bytes that there are, in the segment of the request."""
    only_with_an_echo(server)
    said = bytes(reversed(range(256)))
    _keeps(server, server.upgrade() + said, said=said)


@GROUP.check("trailing-data-behind-length", Level.MUST, "RFC 9112 §6.2", websocket=Level.PEERS)
def behind_a_length(server: Subject) -> None:
    """
    In one segment: a request with content (Content-Length) that looks like a request, and 16 bytes of
    the new protocol.
    """
    request = _with_content(server, f"Content-Length: {len(_CONTENT)}")
    with server.open() as wire:
        wire.send(request + _CONTENT + server.say(_SAID))
        switched_with_content(server, wire)
        heard(server, wire, _SAID)


@GROUP.check("trailing-data-behind-chunks", Level.MUST, "RFC 9112 §7.1", websocket=Level.PEERS)
def behind_chunks(server: Subject) -> None:
    """In one segment: a request with chunked content, and 16 bytes of the new protocol."""
    request = _with_content(server, "Transfer-Encoding: chunked")
    with server.open() as wire:
        wire.send(request + chunked(_CONTENT) + server.say(_SAID))
        switched_with_content(server, wire)
        heard(server, wire, _SAID)


@GROUP.check("trailing-data-behind-late-content", Level.MUST, _SECTION, websocket=Level.PEERS)
def behind_late_content(server: Subject) -> None:
    """
    In three segments: a request's head, half of its content, and the other half with 16 bytes of the
    new protocol.
    """
    half = len(_CONTENT) // 2
    request = _with_content(server, f"Content-Length: {len(_CONTENT)}")
    with server.open() as wire:
        wire.send_apart(request, _CONTENT[:half], _CONTENT[half:] + server.say(_SAID))
        switched_with_content(server, wire)
        heard(server, wire, _SAID)
