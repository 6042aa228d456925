"""
What a tunnel in WebSocket's binary messages costs, beside websockify.

- ``websockify``: left out if it is not installed. It has a process for each connection;
- ``raw``: ``upgrade-switch serve --tunnel`` with a token of its own, without messages;
- ``ours``: the same with the token ``websocket``.

The servers run on one core; the client and the back end are this process, on another. All figures are
those of a server and of its children.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from figures import CPU, PER_GB, TURNS, Comparison, Goal, chosen, options_of, publish, turns
from load import Done
from peers import Peer
from processes import HOST, STUCK, Server, Wrong, listening, prepare
from report import ECHO
from switching import IDLE

MASK = b"\x37\xfa\x21\x3d"
PIECE = 1 << 20
FRAME = 1 << 16
"""What browsers and websockify's own clients send at a time, masked."""
SMALL = 128

DOWN, UP = "bytes down", "bytes up"

GOALS = (
    Goal(DOWN, PER_GB, "ours", "websockify", "<=", 1.0),
    Goal(UP, PER_GB, "ours", "websockify", "<=", 1.0),
    *(Goal(ECHO, CPU, "ours", other) for other in ("websockify", "raw")),
    *(Goal(IDLE, "KiB", "ours", other) for other in ("websockify", "raw")),
)

WEBSOCKIFY = Path(sys.executable).with_name("websockify")

PEERS = (
    Peer("websockify", "websockify", "", (), ["websockify"]),
    Peer("raw", "serve --tunnel, without messages", "", (), ["upgrade_switch"]),
    Peer("ours", "serve --tunnel, websocket", "", (), ["upgrade_switch"]),
)


class Family(Server):
    """A server, and the processes that it has started."""

    @property
    def cpu(self) -> float:
        return sum(Server(self.kind, self.port, pid).cpu for pid in self._pids())

    @property
    def memory(self) -> int:
        # In proportion: the processes share much.
        rolled_up = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self._pids()]
        return sum(int(text.partition("\nPss:")[2].split()[0]) * 1024 for text in rolled_up)

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]


class Ends(NamedTuple):
    """A connection through a tunnel."""

    client: socket.socket
    back: socket.socket

    def close(self) -> None:
        self.client.close()
        self.back.close()


class Tunnel(NamedTuple):
    """A server, and what it connects to."""

    server: Server
    listening: socket.socket

    @property
    def has_frames(self) -> bool:
        return self.server.kind != "raw"

    def connect(self) -> Ends:
        """A client that has switched, and the back end's side."""
        client = socket.create_connection((HOST, self.server.port), timeout=STUCK)
        token = b"websocket" if self.has_frames else b"raw"
        client.sendall(
            b"GET /raw HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %b\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: binary\r\n\r\n" % token
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := client.recv(1)):
                raise Wrong("it does not switch")
            head += byte
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Wrong(f"it does not switch: {head!r}")
        back, _ = self.listening.accept()
        for end in (client, back):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Ends(client, back)

    def frame(self, size: int) -> bytes:
        """What a client sends of so many bytes, all of them 0."""
        if not self.has_frames:
            return bytes(size)
        length = (
            b"\xfe" + size.to_bytes(2, "big") if size < FRAME else b"\xff" + size.to_bytes(8, "big")
        )
        return b"\x82" + length + MASK + MASK * (size // 4)

    def measure(self, count: int, run: Callable[[], list[float]]) -> Done:
        """
        What something takes.

        :param count: how many times, or bytes, it is.
        :param run: does it, and says how long each time took.
        """
        cpu, load_cpu, began = self.server.cpu, time.process_time(), time.perf_counter()
        took = run()
        seconds = time.perf_counter() - began
        return Done(count, seconds, self.server.cpu - cpu, time.process_time() - load_cpu, took)


def pour(source: socket.socket, sink: socket.socket, piece: bytes, count: int, arrives: int) -> None:
    """
    Send a piece so often.

    :param arrives: how many bytes of each are received, at least.
    """
    sending = Thread(target=lambda: [source.sendall(piece) for _ in range(count)], daemon=True)
    sending.start()
    buffer, left = bytearray(PIECE), count * arrives
    while left > 0:
        if not (size := sink.recv_into(buffer)):
            raise Wrong("it has closed the connection")
        left -= size
    sending.join()


def receive(sink: socket.socket, size: int) -> None:
    while size > 0:
        if not (data := sink.recv(size)):
            raise Wrong("it has closed the connection")
        size -= len(data)


class Size(NamedTuple):
    """How much is done: of each thing, by each server, in each round."""

    amount: int = 200_000_000
    small: int = 3000
    idle: int = 100


class Round:
    """One round: each server in turn, thing by thing."""

    def __init__(self, comparison: Comparison, tunnels: list[Tunnel], size: Size) -> None:
        self._comparison = comparison
        self._tunnels = {tunnel.server.kind: tunnel for tunnel in tunnels}
        self._servers = [tunnel.server for tunnel in tunnels]
        self._size = size

    def measure(self) -> None:
        comparison = self._comparison
        comparison.each(self._servers, self._down)
        comparison.each(self._servers, self._up)
        comparison.compare(ECHO, self._servers, self._echo)
        comparison.each(self._servers, self._hold)

    def _down(self, server: Server) -> None:
        def poured(ends: Ends, count: int) -> None:
            pour(ends.back, ends.client, bytes(PIECE), count, PIECE)

        self._bulk(server, DOWN, PIECE, poured)

    def _up(self, server: Server) -> None:
        piece = self._tunnels[server.kind].frame(FRAME)

        def poured(ends: Ends, count: int) -> None:
            pour(ends.client, ends.back, piece, count, FRAME)

        self._bulk(server, UP, FRAME, poured)

    def _bulk(self, server: Server, table: str, size: int, poured: Callable[[Ends, int], None]) -> None:
        tunnel, count = self._tunnels[server.kind], self._size.amount // size

        def run() -> list[float]:
            poured(ends, count)
            return []

        with closing(tunnel.connect()) as ends:
            poured(ends, count // 10)
            self._comparison.add_bulk(table, server.kind, tunnel.measure(count * size, run))

    def _echo(self, server: Server) -> Done:
        tunnel = self._tunnels[server.kind]
        sent, answer = tunnel.frame(SMALL), bytes(SMALL)
        comes = SMALL + (4 if tunnel.has_frames else 0)

        def there_and_back() -> float:
            began = time.perf_counter()
            ends.client.sendall(sent)
            receive(ends.back, SMALL)
            ends.back.sendall(answer)
            receive(ends.client, comes)
            return time.perf_counter() - began

        with closing(tunnel.connect()) as ends:
            for _ in range(100):
                there_and_back()
            count = self._size.small // TURNS
            return tunnel.measure(count, lambda: [there_and_back() for _ in range(count)])

    def _hold(self, server: Server) -> None:
        """What an idle connection takes."""
        tunnel, count = self._tunnels[server.kind], self._size.idle
        before = server.memory
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(closing(tunnel.connect()))
            self._comparison.add(IDLE, "KiB", server.kind, (server.memory - before) / count / 1024)


@contextmanager
def running(kind: str, core: int) -> Iterator[Tunnel]:
    """A server, while it runs."""
    with socket.create_server((HOST, 0)) as back:
        target = f"{HOST}:{back.getsockname()[1]}"

        def command(port: int) -> list[str]:
            if kind == "websockify":
                return [str(WEBSOCKIFY), f"{HOST}:{port}", target]
            token = "raw" if kind == "raw" else "websocket"
            return [
                *(sys.executable, "-c", "from upgrade_switch.command import main; main()", "serve"),
                *("--listen", f"tcp:{port}:interface={HOST}", "--tunnel", f"/raw {token} tcp:{target}"),
            ]

        with listening(kind, command, core) as server:
            yield Tunnel(Family(kind, server.port, server.pid), back)


def main() -> None:
    options = options_of("What a tunnel in WebSocket's messages costs, beside websockify.", 5, 1)
    comparison, peers = chosen("Tunnels in WebSocket messages", PEERS, options)
    core = prepare()
    size = Size(50_000_000, 600, 10) if options.is_quick else Size()
    for number in range(options.rounds):
        print(f"{comparison.title}: round {number + 1} of {options.rounds}", file=sys.stderr)
        with ExitStack() as stack:
            kinds = turns([peer.name for peer in peers], number)
            tunnels = [stack.enter_context(running(kind, core)) for kind in kinds]
            Round(comparison, tunnels, size).measure()
    publish(comparison.section(GOALS), options)


if __name__ == "__main__":
    main()
