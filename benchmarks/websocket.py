"""
What a WebSocket's handshake costs, and its messages.

- ``autobahn``: its ``WebSocketServerFactory``, listening on a port;
- ``messages``: ``message_stream(handler)`` of an ``UpgradeSite``;
- ``stream``: ``byte_stream(factory)`` of an ``UpgradeSite``;
- ``ours``: autobahn's factory, as ``websocket(factory)`` of an ``UpgradeSite``;
- ``aiohttp``, ``websockets``, ``uvicorn``, ``tornado-websocket``: the programs of ``peers/``.

An ``UpgradeService`` listens with each of the sites. Servers, load and figures are as in
``switching.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from figures import CPU, TURNS, Comparison, Goal, chosen, options_of, peer_rounds, publish
from load import Dialogue, Done, echo_many, idle, switch_many
from peers import PEERS
from processes import Server, prepare
from report import ECHO, SWITCH
from servers import peer_of
from switching import ECHOING, IDLE, LARGE_ECHO

# Chromium's request, without its offer of permessage-deflate: some would take it.
REQUEST = (
    b"GET /echo HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    b"(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\n"
    b"Origin: http://localhost:8080\r\nSec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK = b"\x37\xfa\x21\x3d"
WARM_UP = 400

HANDSHAKE = "a handshake"

SERVERS = (
    peer_of("autobahn", "autobahn alone", "autobahn"),
    peer_of("messages", "UpgradeSite, message_stream"),
    peer_of("stream", "UpgradeSite, byte_stream"),
    peer_of("ours", "UpgradeSite, websocket with autobahn's factory"),
    *(peer for peer in PEERS if peer.name in ("aiohttp", "websockets", "uvicorn", "tornado-websocket")),
)

GOALS = (
    Goal(HANDSHAKE, CPU, "ours", "autobahn", "<=", 0.7),
    Goal(HANDSHAKE, CPU, "messages", "websockets"),
    Goal(HANDSHAKE, CPU, "messages", "aiohttp"),
    # The rate in a CPU second is to be 1.1 times that of autobahn.
    Goal(ECHO, CPU, "ours", "autobahn", "<=", 0.91),
    *(Goal(ECHO, CPU, "messages", other) for other in ("ours", "websockets", "uvicorn", "aiohttp")),
    Goal(LARGE_ECHO, CPU, "ours", "autobahn"),
    Goal(IDLE, "KiB", "ours", "autobahn"),
)


class Size(NamedTuple):
    """How much is done: of each thing, by each server, in each round."""

    handshakes: int = 1000
    small: int = 1500
    large: int = 100
    idle: int = 1500


def message(length: int) -> Dialogue:
    """A binary message of zeros. A client's is masked; it comes back without a mask."""
    if length < 126:
        head = bytes([0x82, 0x80 | length])
    elif length < 1 << 16:
        head = b"\x82\xfe" + length.to_bytes(2, "big")
    else:
        head = b"\x82\xff" + length.to_bytes(8, "big")
    # A mask over zeros is the mask.
    return Dialogue(REQUEST, head + MASK + (MASK * (length // 4 + 1))[:length], len(head) + length)


NOTHING = Dialogue(REQUEST, b"", 0)


def measure(comparison: Comparison, servers: Sequence[Server], size: Size) -> None:
    """One round: each server in turn, thing by thing."""

    def switch(table: str, said: Dialogue) -> None:
        count = size.handshakes // TURNS
        comparison.compare(table, servers, lambda server: switch_many(server, said, count))

    def echo(table: str, among: Sequence[Server], length: int, times: int) -> None:
        def echoed(server: Server) -> Done:
            return echo_many(server, message(length), ECHOING, times // TURNS)

        comparison.each(among, echoed)
        comparison.compare(table, among, echoed)

    comparison.each(servers, warm_up)
    comparison.each(servers, lambda server: hold(comparison, server, size.idle))
    switch(HANDSHAKE, NOTHING)
    switch(SWITCH, message(16))
    echo(ECHO, servers, 128, size.small)
    # A stream knows no messages: what has come of a long one is sent back before its end.
    with_messages = [server for server in servers if server.kind != "stream"]
    echo(LARGE_ECHO, with_messages, 64 * 1024, size.large)


def warm_up(server: Server) -> None:
    """Before anything counts."""
    switch_many(server, message(16), WARM_UP)


def hold(comparison: Comparison, server: Server, count: int) -> None:
    """What an idle WebSocket takes."""
    before = server.memory
    with idle(server, message(16), count):
        comparison.add(IDLE, "KiB", server.kind, (server.memory - before) / count / 1024)


def main() -> None:
    options = options_of("What a WebSocket costs, beside other servers.", 15, 3)
    core = prepare()
    size = Size(500, 300, 30, 500) if options.is_quick else Size()
    comparison, peers = chosen("WebSocket", SERVERS, options)
    for servers in peer_rounds(comparison, peers, core):
        measure(comparison, servers, size)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
