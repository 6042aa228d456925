"""
What a switched byte costs over TLS.

- ``raw``: a Twisted protocol on a port with TLS, without HTTP;
- ``service``: the same protocol, switched to on an ``UpgradeSite`` with an ``UpgradeService``;
- ``node``: Node's ``https``, and its event 'upgrade'.

The load is this process, with Python's ``ssl``. It sends on all connections, and then reads from all.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from figures import CPU, TURNS, Comparison, Goal, Work, chosen, options_of, peer_rounds, publish
from load import Done, Turn
from peers import Peer
from processes import Server, check, prepare
from report import ECHO
from secured import make_certificate, secured
from servers import MEGABYTE
from switching import ECHOING, IDLE, ORDINARY, SMALL

DOWN, UP = "1 MiB to the client", "1 MiB from the client"
SERVERS_FILE = str(Path(__file__).with_name("servers.py"))

_NODE = """
const [port, certificate] = process.argv.slice(2);
const pem = require('fs').readFileSync(certificate);
const megabyte = Buffer.alloc(1 << 20);
const server = require('https').createServer({key: pem, cert: pem});
server.on('upgrade', (request, socket, head) => {
  let does, received = 0;
  socket.on('error', () => socket.destroy());
  const fields = 'Connection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n';
  socket.write(`HTTP/1.1 101 Switching Protocols\\r\\n${fields}`);
  socket.unshift(head);
  socket.on('data', (data) => {
    if (!does) {
      does = String.fromCharCode(data[0]);
      data = data.subarray(1);
    }
    if (does === 'e') {
      if (data.length) socket.write(data);
    } else if (does === 'd') {
      for (const _ of data) socket.write(megabyte);
    } else {
      received += data.length;
      if (received >= megabyte.length) {
        received -= megabyte.length;
        socket.write('u');
      }
    }
  });
});
server.listen(+port, '127.0.0.1', () => console.log('ready'));
"""


def servers_of(certificate: Path) -> Sequence[Peer]:
    """Those that are compared."""
    script = certificate.with_name("tls.js")
    script.write_text(_NODE)
    talk = [SERVERS_FILE, "talk", str(certificate)]
    switched_talk = [SERVERS_FILE, "switched-talk", str(certificate)]
    return (
        Peer("raw", "a Twisted protocol on a port with TLS", "", talk, ["Twisted"]),
        Peer(
            "service", "UpgradeSite, with an UpgradeService", "echo", switched_talk, ["upgrade_switch"]
        ),
        Peer("node", "Node https", "echo", [str(script), str(certificate)], runs="node"),
    )


GOALS = (
    *(Goal(table, CPU, "service", "raw", "<=", 1.05) for table in (ECHO, UP)),
    Goal(DOWN, CPU, "service", "raw", "<=", 1.05),
    *(Goal(table, CPU, "service", "node") for table in (ECHO, DOWN, UP)),
    Goal(IDLE, "KiB", "service", "raw"),
)


class Size(NamedTuple):
    """How much is done: of each thing, by each server, in each round."""

    small: int = 800
    bulk: int = 60
    idle: int = 150


def opened(server: Server, does: bytes) -> ssl.SSLSocket:
    """
    A connection with TLS that has been switched, where that is needed.

    :param does: what the server is to do on it.
    """
    connection = secured(server)
    if server.kind != "raw":
        connection.sendall(ORDINARY)
        check(connection.recv(4096).startswith(b"HTTP/1.1 101 "))
    connection.sendall(does)
    return connection


def read(connection: ssl.SSLSocket, count: int, buffer: bytearray) -> None:
    while count:
        size = connection.recv_into(buffer)
        check(0 < size <= count)
        count -= size


@contextmanager
def exchanging(
    server: Server, does: bytes, connections: int, message: bytes, answer: int, times: int
) -> Iterator[Turn]:
    """Send a message on all of the connections, and read the answers, so many times in a turn."""
    opened_ = [opened(server, does) for _ in range(connections)]
    buffer = bytearray(1 << 16)

    def exchange() -> Iterator[float]:
        began = []
        for connection in opened_:
            began.append(time.perf_counter())
            connection.sendall(message)
        for connection, then in zip(opened_, began, strict=True):
            read(connection, answer, buffer)
            yield time.perf_counter() - then

    def turn() -> Done:
        cpu, now, own = server.cpu, time.perf_counter(), time.process_time()
        took = [each for _ in range(times) for each in exchange()]
        own, seconds, cpu = time.process_time() - own, time.perf_counter() - now, server.cpu - cpu
        return Done(len(took), seconds, cpu, own, took)

    try:
        # Compilers at run time need to have seen some.
        turn()
        turn()
        yield turn
    finally:
        for connection in opened_:
            connection.close()


def hold(comparison: Comparison, server: Server, count: int) -> None:
    """What an idle connection takes."""
    with ExitStack() as stack:
        for _ in range(count):
            # Those of the first time fill the room that has been left since the server was started.
            stack.enter_context(opened(server, b"e"))
        before = server.memory
        for _ in range(count):
            stack.enter_context(opened(server, b"e"))
        comparison.add(IDLE, "KiB", server.kind, (server.memory - before) / count / 1024)


def measure(comparison: Comparison, servers: Sequence[Server], size: Size) -> None:
    """One round: each server in turn, thing by thing."""

    def compare(
        table: str, does: bytes, connections: int, message: bytes, answer: int, times: int
    ) -> None:
        def begin(server: Server) -> AbstractContextManager[Turn]:
            return exchanging(server, does, connections, message, answer, times // TURNS)

        comparison.take_turns([Work(table, server, begin) for server in servers])

    comparison.each(servers, lambda server: hold(comparison, server, size.idle))
    compare(ECHO, b"e", ECHOING, SMALL, len(SMALL), size.small)
    compare(DOWN, b"d", 1, b"d", len(MEGABYTE), size.bulk)
    compare(UP, b"u", 1, MEGABYTE, 1, size.bulk)


def main() -> None:
    options = options_of("What a switched byte costs over TLS.", 15, 2)
    core = prepare()
    size = Size(200, 20, 50) if options.is_quick else Size()
    with TemporaryDirectory() as folder:
        servers = servers_of(make_certificate(Path(folder)))
        comparison, peers = chosen("TLS", servers, options)
        for running in peer_rounds(comparison, peers, core):
            measure(comparison, running, size)
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
