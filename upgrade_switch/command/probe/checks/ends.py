"""What becomes of a switched connection: how it ends, and what it does to others."""

from __future__ import annotations

import time

from ..subject import Subject
from ..wire import Broken, Wire, shown
from .check import Group, Level, Skipped
from .steps import heard, idle_seconds, lines_of, only_with_an_echo, switched_early

__all__ = ["GROUP"]

GROUP = Group("Connections: their ends, and their neighbours", needs_upgrade=True)

_SAID = b"sixteen bytes..."
_RESETS = 5


@GROUP.check("http-behind-101", Level.MUST, "RFC 9110 §7.8")
def http_behind_101(server: Subject) -> None:
    """An upgrade; when the 101 has come, an HTTP request as bytes of the new protocol."""
    only_with_an_echo(server)
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        server.talks(wire, server.request())


@GROUP.check("much-both-ways", Level.MUST, "RFC 9110 §7.8")
def much_both_ways(server: Subject) -> None:
    """An upgrade; when the 101 has come, 250 KB while what comes back is read."""
    said = lines_of(250_000)
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        wire.send_while_reading(server.say(said))
        heard(server, wire, said)


@GROUP.check("two-connections", Level.MUST, "RFC 9110 §7.8")
def two_connections(server: Subject) -> None:
    """Two upgrades on two connections, and something else said on each, the later one first."""
    with server.open() as first, server.open() as second:
        for wire in (first, second):
            wire.send(server.upgrade())
        for wire in (second, first):
            server.switched(wire)
        first.send(server.say(b"the first"))
        second.send(server.say(b"the second"))
        server.hears(second, b"the second")
        server.hears(first, b"the first")


@GROUP.check("half-close", Level.PEERS, "RFC 9293 §3.6")
def half_close(server: Subject) -> None:
    """An upgrade; when the 101 has come, 16 bytes and a FIN."""
    _half_closable(server)
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        wire.send(server.say(_SAID))
        wire.half_close()
        _hears_the_end(server, wire)


@GROUP.check("half-close-behind-request", Level.PEERS, "RFC 9293 §3.6")
def half_close_behind_request(server: Subject) -> None:
    """An upgrade with 16 bytes of the new protocol, and a FIN right behind them."""
    _half_closable(server)
    with server.open() as wire:
        wire.send(server.upgrade() + server.say(_SAID))
        wire.half_close()
        switched_early(server, wire)
        _hears_the_end(server, wire)


def _hears_the_end(server: Subject, wire: Wire) -> None:
    expected = "the bytes that were said, and the end of the connection"
    server.hears(wire, _SAID)
    if rest := wire.rest(expected):
        raise Broken(f"{shown(rest)} after the bytes that were sent", expected)


def _half_closable(server: Subject) -> None:
    # RFC 6455 §7 has a closing handshake.
    only_with_an_echo(server)
    if server.is_secure:
        raise Skipped("it is only for connections without TLS")


@GROUP.check("reset-behind-request", Level.MUST, "RFC 9112 §9.5")
def reset_behind_request(server: Subject) -> None:
    """Five upgrades with 16 bytes of the new protocol and a reset behind them; then another upgrade."""
    for _ in range(_RESETS):
        with server.again().open() as wire:
            wire.send(server.upgrade() + server.say(_SAID))
            wire.reset()
    server.again().switches()


@GROUP.check("reset-behind-101", Level.MUST, "RFC 9112 §9.5")
def reset_behind_101(server: Subject) -> None:
    """Five upgrades; when the 101 has come, 16 bytes and a reset; then another upgrade."""
    for _ in range(_RESETS):
        with server.again().open() as wire:
            wire.send(server.upgrade())
            server.switched(wire)
            wire.send(server.say(_SAID))
            wire.reset()
    server.again().switches()


@GROUP.check("idle", Level.PEERS, "RFC 9110 §7.8")
def idle(server: Subject) -> None:
    """An upgrade; then nothing for as long as --slow says; then something to be sent back."""
    seconds = idle_seconds(server)
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        time.sleep(seconds)
        wire.deadline = server.again().deadline
        server.talks(wire)
