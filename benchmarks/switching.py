"""
What a switch costs, and an echo after it: ``UpgradeSite`` beside the two things that it is measured by,
and beside other servers whose users may answer any token.

- ``raw``: a Twisted echo protocol on a port, without HTTP;
- ``trick``: a plain ``twisted.web.server.Site`` with a resource that steals the transport;
- ``switch``: an ``UpgradeSite`` with an ``UpgradeResource``, on a port of the reactor's;
- ``guard``: the same with an ``UpgradeService`` and a password, by ``twisted.web.guard``;
- ``service``: the same without the password. Where an ``UpgradeService`` listens, switched connections
  send at once;
- ``node``, ``go``, ``tornado``: the programs of ``peers/``.

Each is a server in a process of its own, all on one core; the load (``load.py``) is on another core.
Every round starts new servers, which take turns, and a ratio is the median of the rounds' ratios: the
ratios are the result, the absolute figures are this machine's, now.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

from figures import CPU, P99, TURNS, Comparison, Goal, chosen, options_of, peer_rounds, publish
from load import Dialogue, Done, echo_many, idle, switch_many
from peers import PEERS
from processes import Server, prepare
from report import ECHO, SWITCH
from servers import peer_of

# A browser's request, and one with as few fields as an upgrade has: the fewer there are to read, the
# more of a ratio is the switch itself.
BARE = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ORDINARY = BARE[:-2] + (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Origin: http://localhost\r\nCookie: session=0123456789abcdef\r\nPragma: no-cache\r\n\r\n"
)
PASSWORD = b"Authorization: Basic " + base64.b64encode(b"user:password") + b"\r\n"

SHORT, SMALL, LARGE = bytes(16), bytes(128), bytes(64 * 1024)
ECHOING = 8
WARM_UP = 1500
"""Node's compiler needs to have seen as many."""

THREE, LARGE_ECHO, IDLE = "a switch, three fields", "an echo of 64 KiB", "an idle connection"

SERVERS = (
    peer_of("raw", "a Twisted protocol on a port, without HTTP", "Twisted"),
    peer_of("trick", "twisted.web with a stolen transport", "Twisted"),
    peer_of("switch", "UpgradeSite, on a port of the reactor's"),
    peer_of("guard", "UpgradeSite, with an UpgradeService and twisted.web.guard"),
    peer_of("service", "UpgradeSite, with an UpgradeService"),
    *(peer for peer in PEERS if peer.name in ("node", "go", "tornado")),
)

GOALS = (
    Goal(SWITCH, CPU, "service", "trick", "<", 1.0),
    Goal(SWITCH, CPU, "service", "raw", "<=", 1.8),
    Goal(THREE, CPU, "service", "trick"),
    Goal(THREE, CPU, "service", "raw"),
    Goal(SWITCH, P99, "service", "raw", "<=", 1.5),
    *(Goal(SWITCH, CPU, "service", peer) for peer in ("node", "go", "tornado")),
    # The rate in a CPU second is to be 1.5 times that of raw.
    Goal(ECHO, CPU, "service", "raw", "<=", 0.67),
    Goal(ECHO, CPU, "service", "switch"),
    Goal(LARGE_ECHO, CPU, "service", "raw", "<=", 1.05),
    Goal(IDLE, "KiB", "service", "raw", "<=", 1.35),
)


class Size(NamedTuple):
    """How much is done: of each thing, by each server, in each round."""

    switches: int = 1500
    small: int = 1500
    large: int = 250
    idle: int = 2000


def dialogue(kind: str, message: bytes, request: bytes = ORDINARY) -> Dialogue:
    """What is said to a server."""
    if kind == "raw":
        request = b""
    elif kind == "guard":
        request = request[:-2] + PASSWORD + b"\r\n"
    return Dialogue(request, message, len(message))


def measure(comparison: Comparison, servers: Sequence[Server], size: Size) -> None:
    """One round: each server in turn, thing by thing."""

    def switch(table: str, request: bytes) -> None:
        def switched(server: Server) -> Done:
            said = dialogue(server.kind, SHORT, request)
            return switch_many(server, said, size.switches // TURNS)

        comparison.compare(table, servers, switched)

    def echo(table: str, message: bytes, times: int) -> None:
        def echoed(server: Server) -> Done:
            return echo_many(server, dialogue(server.kind, message), ECHOING, times // TURNS)

        # Compilers at run time need to have seen some.
        comparison.each(servers, echoed)
        comparison.compare(table, servers, echoed)

    comparison.each(servers, warm_up)
    comparison.each(servers, lambda server: hold(comparison, server, size.idle))
    switch(SWITCH, ORDINARY)
    switch(THREE, BARE)
    echo(ECHO, SMALL, size.small)
    echo(LARGE_ECHO, LARGE, size.large)


def warm_up(server: Server) -> None:
    """Before anything counts."""
    switch_many(server, dialogue(server.kind, SHORT), WARM_UP)


def hold(comparison: Comparison, server: Server, count: int) -> None:
    """What an idle connection takes."""
    before = server.memory
    with idle(server, dialogue(server.kind, SHORT), count):
        comparison.add(IDLE, "KiB", server.kind, (server.memory - before) / count / 1024)


def main() -> None:
    options = options_of("What a switch costs, beside raw TCP, the trick and other servers.", 15, 2)
    core = prepare()
    size = Size(500, 250, 50, 1000) if options.is_quick else Size()
    comparison, peers = chosen("Switching", SERVERS, options)
    for servers in peer_rounds(comparison, peers, core):
        measure(comparison, servers, size)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
