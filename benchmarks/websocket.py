"""
What a WebSocket's handshake costs, and its messages, beside autobahn alone.

- ``raw``: a Twisted protocol on a port, without HTTP and without frames;
- ``aiohttp``: its ``WebSocketResponse``; it is left out where aiohttp is not installed;
- ``autobahn``: its ``WebSocketServerFactory``, listening on a port;
- ``messages``: ``message_stream(handler)`` of an ``UpgradeSite``;
- ``stream``: ``byte_stream(factory)`` of an ``UpgradeSite``, with ``raw``'s protocol;
- ``ours``: autobahn's factory, as ``websocket(factory)`` of an ``UpgradeSite``.

An ``UpgradeService`` listens with each of the sites.

Servers, load and figures are as in ``switching.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from switching import (
    ECHOING,
    HOST,
    PARALLEL,
    SHORT,
    SMALL,
    WARM_UP,
    Load,
    Server,
    Target,
    Values,
    check,
    echo_many,
    prepare,
    report,
    resident,
    rounds,
    serve,
)
from switching import Echo as ByteEcho
from twisted.internet.protocol import Factory
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import MessageStream, byte_stream, message_stream, websocket

AIOHTTP = ("aiohttp",) if find_spec("aiohttp") else ()
KINDS = ("raw", *AIOHTTP, "autobahn", "messages", "stream", "ours")

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
    "128-byte echoes a CPU second": (
        Target("autobahn", ">=", 1.1),
        *map(Target, ("messages", "stream", "raw", *AIOHTTP)),
    ),
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
    plain: Factory[Any] = Factory.forProtocol(ByteEcho)
    if kind == "raw":
        return plain
    factory = WebSocketServerFactory()
    factory.protocol = Echo
    if kind == "autobahn":
        return factory
    root = Resource()
    accept = {
        "messages": lambda: message_stream(echo),
        "stream": lambda: byte_stream(plain),
        "ours": lambda: websocket(factory),
    }[kind]()
    root.putChild(b"echo", UpgradeResource({"websocket": accept}))
    site = UpgradeSite(root)
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


async def serve_aiohttp() -> None:
    """Be aiohttp's server, until standard input ends."""
    from aiohttp import WSMsgType, web

    async def echoing(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse(compress=False)
        await answer.prepare(request)
        async for message in answer:
            if message.type is WSMsgType.BINARY:
                await answer.send_bytes(message.data)
        return answer

    app = web.Application()
    app.add_routes([web.get("/echo", echoing)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    answers = {
        b"port": lambda: runner.addresses[0][1],
        b"cpu": time.process_time_ns,
        b"memory": resident,
    }
    while line := await reader.readline():
        print(answers[line.strip()](), flush=True)


def begin(server: Server) -> socket.socket:
    """Connect, and ask; with ``raw``, say something."""
    connection = socket.create_connection((HOST, server.port))
    connection.sendall(SHORT if server.kind == "raw" else REQUEST)
    return connection


def check_answer(server: Server, connection: socket.socket) -> None:
    """Get what has been asked for."""
    answer = connection.recv(4096)
    check(answer == SHORT if server.kind == "raw" else answer.startswith(ANSWER))


def opened(server: Server) -> socket.socket:
    """A WebSocket."""
    connection = begin(server)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    check_answer(server, connection)
    return connection


def open_many(server: Server, count: int) -> Load:
    """Connect, be answered, close; with some at the same time."""
    load = Load(server)
    for _ in range(count // PARALLEL):
        connections = [begin(server) for _ in range(PARALLEL)]
        for connection in connections:
            check_answer(server, connection)
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
        message, comes = (SMALL, len(SMALL)) if server.kind == "raw" else (MESSAGE, ECHOED)
        load = echo_many(server, opened, message, size.echoes, comes)
        a_second = size.echoes * ECHOING / load.cpu
        values["128-byte echoes a CPU second"][server.kind].append(a_second)
        values["busy with echoes, %"][server.kind].append(load.busy)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a WebSocket costs, beside autobahn alone.")
    parser.add_argument("--rounds", type=int, help="how many (default: 15; with --quick: 3)")
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "aiohttp":
        with suppress(KeyboardInterrupt):
            asyncio.run(serve_aiohttp())
        return
    if options.serve:
        serve(factory_of(options.serve), options.serve not in ("raw", "autobahn"))
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
