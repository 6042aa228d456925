"""
What a WebSocket's handshake costs, and its messages, beside autobahn alone.

- ``autobahn``: its ``WebSocketServerFactory``, listening on a port;
- ``messages``: ``message_stream(handler)`` of an ``UpgradeSite``;
- ``ours``: autobahn's factory, as ``websocket(factory)`` of an ``UpgradeSite``.

An ``UpgradeService`` listens with each of the sites.

Servers, load and figures are as in ``switching.py``.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from switching import (
    ECHOING,
    HOST,
    PARALLEL,
    WARM_UP,
    Load,
    Server,
    Target,
    Values,
    check,
    echo_many,
    prepare,
    report,
    rounds,
    serve,
)
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import MessageStream, message_stream, websocket

KINDS = ("autobahn", "messages", "ours")

# Chromium's request.
REQUEST = (
    b"GET /echo HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    b"(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\n"
    b"Origin: http://localhost:8080\r\nSec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
ANSWER = b"HTTP/1.1 101 "

# A binary message of 128 bytes, all of them 0; a client's is masked. It comes back without a mask.
MASK = b"\x37\xfa\x21\x3d"
MESSAGE = b"\x82\xfe\x00\x80" + MASK * 33
ECHOED = len(MESSAGE) - len(MASK)

FIGURES = {
    "CPU a handshake, µs": (Target("autobahn", "<=", 0.7), Target("messages")),
    "128-byte echoes a CPU second": (Target("autobahn", ">=", 1.1), Target("messages")),
    "busy with handshakes, %": (),
    "busy with echoes, %": (),
}


class Echo(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    """Sends each message back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


async def echo(stream: MessageStream) -> None:
    """Sends each message back."""
    async for message in stream:
        await stream.send(message)


def factory_of(kind: str) -> Any:
    """What a server listens with; the site writes no access log, which autobahn does not have."""
    factory = WebSocketServerFactory()
    factory.protocol = Echo
    if kind == "autobahn":
        return factory
    root = Resource()
    accept = message_stream(echo) if kind == "messages" else websocket(factory)
    root.putChild(b"echo", UpgradeResource({"websocket": accept}))
    site = UpgradeSite(root)
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


def begin(server: Server) -> socket.socket:
    """Connect, and ask."""
    connection = socket.create_connection((HOST, server.port))
    connection.sendall(REQUEST)
    return connection


def opened(server: Server) -> socket.socket:
    """A WebSocket."""
    connection = begin(server)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    check(connection.recv(4096).startswith(ANSWER))
    return connection


def open_many(server: Server, count: int) -> Load:
    """Connect, be answered, close; with some at the same time."""
    load = Load(server)
    for _ in range(count // PARALLEL):
        connections = [begin(server) for _ in range(PARALLEL)]
        for connection in connections:
            check(connection.recv(4096).startswith(ANSWER))
            connection.close()
    load.end()
    return load


@dataclass(frozen=True)
class Size:
    """How much is done: of each thing, by each server, in each round."""

    rounds: int
    handshakes: int = 50 * PARALLEL
    echoes: int = 1500


def measure(servers: Sequence[Server], size: Size, values: Values) -> None:
    """One round: each server in turn, thing by thing."""
    for server in servers:
        open_many(server, WARM_UP)
    for server in servers:
        load = open_many(server, size.handshakes)
        values["CPU a handshake, µs"][server.kind].append(load.cpu / size.handshakes * 1e6)
        values["busy with handshakes, %"][server.kind].append(load.busy)
    for server in servers:
        load = echo_many(server, opened, MESSAGE, size.echoes, ECHOED)
        a_second = size.echoes * ECHOING / load.cpu
        values["128-byte echoes a CPU second"][server.kind].append(a_second)
        values["busy with echoes, %"][server.kind].append(load.busy)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a WebSocket costs, beside autobahn alone.")
    parser.add_argument("--rounds", type=int, help="how many (default: 15; with --quick: 3)")
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(factory_of(options.serve), options.serve != "autobahn")
        return
    core = prepare()
    size = Size(options.rounds or 15)
    if options.quick:
        size = Size(options.rounds or 3, handshakes=20 * PARALLEL, echoes=300)
    values: Values = {name: {kind: [] for kind in KINDS} for name in FIGURES}
    for servers in rounds(size.rounds, KINDS, core, __file__):
        measure(servers, size, values)
    report(values, FIGURES)


if __name__ == "__main__":
    main()
