"""What several checks do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..subject import Subject
from ..wire import SWITCHING, Broken, Closed, Response, Wire
from .check import Skipped

__all__ = [
    "UNKNOWN",
    "chunked",
    "does_not_switch",
    "heard",
    "idle_seconds",
    "is_answered",
    "lines_of",
    "only_with_an_echo",
    "stays_open",
    "switched_early",
    "switched_with_content",
    "trying",
]

UNKNOWN = "probe-unknown"
"""A token that no server knows."""


def only_with_an_echo(server: Subject) -> None:
    """
    For checks that say bytes as they are.

    :raises Skipped: for WebSocket.
    """
    if server.is_websocket:
        raise Skipped("it is only for targets that echo")


def idle_seconds(subject: Subject) -> float:
    """
    How many seconds to leave a connection alone.

    :raises Skipped: if ``--slow`` was not given, or there is not enough time left.
    """
    if subject.idle is None:
        raise Skipped("it needs --slow")
    if subject.idle >= subject.bound.left():
        raise Skipped(f"--slow {subject.idle:g} takes longer than the time that is left for all checks")
    return subject.idle


def lines_of(size: int) -> bytes:
    """At least this many bytes, of which no part is like another: numbered lines."""
    return b"".join(b"%07d\n" % number for number in range((size + 7) // 8))


def chunked(content: bytes) -> bytes:
    """Content in two chunks, and the last one (RFC 9112 §7.1)."""
    half = len(content) // 2
    parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:]) if part]
    return b"".join(parts) + b"0\r\n\r\n"


@contextmanager
def trying(what: str) -> Iterator[None]:
    """For checks that try several things: a failure says which of them was tried."""
    try:
        yield
    except Broken as fault:
        raise type(fault)(f"{fault.came} ({what})", fault.expected) from None


@contextmanager
def stays_open(response: Response) -> Iterator[None]:
    """
    For what is asked after a response on the same connection. A server may close that: as the response
    says, or without a word (RFC 9112 §9.5, §9.6).

    :raises Skipped: if it does.
    """
    closes = Skipped(f"the server closes the connection behind {response}")
    if _says_close(response):
        raise closes
    try:
        yield
    except Closed:
        raise closes from None


def switched_early(server: Subject, wire: Wire) -> None:
    """
    Read the 101 to a request that was followed at once by bytes of the new protocol.

    :raises Skipped: if the server refuses that with an error and closes, so that the client learns of
        it.
    :raises Broken: if something else comes.
    """
    expected = f"101 Switching Protocols to {server.token}, and what was said to arrive"
    response = wire.response(expected=expected)
    if response.status >= 400 and _says_close(response):
        raise Skipped(f"the server refuses early bytes: {response}")
    if response.status != SWITCHING:
        raise Broken(str(response), expected)


def _says_close(response: Response) -> bool:
    return "close" in map(str.lower, response.elements(b"connection"))


def switched_with_content(server: Subject, wire: Wire) -> None:
    """
    Read the 101 to a request that has content.

    :raises Skipped: if the server does not switch in that case.
    """
    try:
        response = wire.response(expected=f"101 Switching Protocols to {server.token}")
    except Closed:
        raise Skipped("the server closes the connection when a request has content") from None
    if response.status != SWITCHING:
        raise Skipped(f"the server does not switch after content: {response}")


def heard(server: Subject, wire: Wire, said: bytes) -> None:
    """
    Check that what was sent comes back, once, and so does what is sent after it.

    :raises Broken: if it does not.
    """
    server.hears(wire, said)
    server.talks(wire)


def does_not_switch(server: Subject, request: bytes) -> Response:
    """
    Send a request on a connection of its own.

    :return: the head of the answer.
    :raises Broken: if it is a 101, or none comes.
    """
    expected = "an HTTP response other than 101"
    with server.open() as wire:
        wire.send(request)
        response = wire.head(expected=expected)
    if response.status == SWITCHING:
        raise Broken(f"{response} to {response.listed(b'upgrade')}", expected)
    return response


def is_answered(server: Subject, request: bytes, *statuses: int) -> None:
    """
    Send a request on a new connection; it has to be answered with one of these statuses.

    :raises Broken: if it is not.
    """
    expected = " or ".join(map(str, statuses))
    with server.open() as wire:
        wire.send(request)
        response = wire.head(expected=expected)
    if response.status not in statuses:
        raise Broken(str(response), expected)
