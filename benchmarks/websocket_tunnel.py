"""
What a tunnel in WebSocket's binary messages costs, beside websockify.

- ``websockify``: from PATH, or as given by ``--websockify``; left out if it is not installed;
- ``raw``: ``upgrade-switch serve --tunnel`` with a token of its own, without messages;
- ``before``: the same as ``ours`` of another working tree (``--before``);
- ``ours``: ``upgrade-switch serve --tunnel`` with the token ``websocket``.

The servers run on one core, with one connection each; the back end and the client are this process, on
another. All figures are CPU time of a server and its children, the system's included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from threading import Thread

from report import shown

HOST = "127.0.0.1"
TREE = Path(__file__).resolve().parent.parent

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"
PIECE = 1024 * 1024
# What browsers and websockify's own clients send at a time, masked.
FRAME = 65536
SMALL = 128

TICK = os.sysconf("SC_CLK_TCK")


class BackEnd:
    """Listens, and has the newest connection."""

    def __init__(self) -> None:
        self._listening = socket.create_server((HOST, 0))
        self.port = self._listening.getsockname()[1]

    def accept(self) -> socket.socket:
        connection, _ = self._listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def free_port() -> int:
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and of its children, those that have ended among them."""
    total, family = 0, {pid}
    for entry in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if entry in family or int(fields[1]) in family:
            family.add(entry)
            total += sum(map(int, fields[11:15]))
    return total / TICK


class Tunnel:
    """A server's process, and how to reach the back end through it."""

    def __init__(self, kind: str, process: subprocess.Popen[bytes], port: int, back: BackEnd) -> None:
        self.kind = kind
        self.pid = process.pid
        self._port = port
        self._back = back

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A client that has switched, and the back end's side."""
        for _ in range(400):
            try:
                client = socket.create_connection((HOST, self._port))
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = b"websocket" if self.frames else b"raw"
        client.sendall(
            b"GET /raw HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: %b\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n"
            b"Sec-WebSocket-Protocol: binary\r\n\r\n" % (token, KEY)
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"{self.kind} does not switch: {head!r}")
        return client, self._back.accept()

    @property
    def frames(self) -> bool:
        return self.kind != "raw"

    def frame(self, size: int) -> bytes:
        """What a client sends of so many bytes, all of them 0."""
        if not self.frames:
            return bytes(size)
        head = b"\x82\xfe" + size.to_bytes(2, "big") if size < 65536 else None
        head = head or b"\x82\xff" + size.to_bytes(8, "big")
        return head + MASK + MASK * (size // 4)


@contextmanager
def running(kind: str, tree: str, websockify: str, core: int) -> Iterator[Tunnel]:
    back, port = BackEnd(), free_port()
    target = f"{HOST}:{back.port}"
    token = "raw" if kind == "raw" else "websocket"
    command = [
        *(sys.executable, "-c", "from upgrade_switch.command import main; main()", "serve"),
        *("--listen", f"tcp:{port}:interface={HOST}", "--tunnel", f"/raw {token} tcp:{target}"),
    ]
    if kind == "websockify":
        command = [websockify, f"{HOST}:{port}", target]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "PYTHONPATH": tree}
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield Tunnel(kind, process, port, back)
        finally:
            process.terminate()


def taken(server: Tunnel, source: socket.socket, sink: socket.socket, piece: bytes, count: int) -> None:
    """Send a piece so often, and receive as much."""
    sending = Thread(target=lambda: [source.sendall(piece) for _ in range(count)], daemon=True)
    sending.start()
    buffer, left = bytearray(PIECE), count * len(piece)
    if server.frames and len(piece) != PIECE:
        # The head and the mask of each frame do not arrive.
        left -= count * (len(piece) - FRAME)
    while left > 0:
        left -= sink.recv_into(buffer)
    sending.join()


def down(server: Tunnel, amount: int) -> float:
    client, back = server.connect()
    taken(server, back, client, bytes(PIECE), 8)
    before = cpu_of(server.pid)
    taken(server, back, client, bytes(PIECE), amount // PIECE)
    return closed(server, before, client, back) / amount * 1e9


def up(server: Tunnel, amount: int) -> float:
    client, back = server.connect()
    piece = server.frame(FRAME)
    taken(server, client, back, piece, 8)
    before = cpu_of(server.pid)
    taken(server, client, back, piece, amount // FRAME)
    return closed(server, before, client, back) / amount * 1e9


def small(server: Tunnel, amount: int) -> float:
    client, back = server.connect()
    sent, answer = server.frame(SMALL), bytes(SMALL)
    comes = SMALL + (4 if server.frames else 0)
    count = amount // 50_000

    def there_and_back() -> None:
        client.sendall(sent)
        left = SMALL
        while left:
            left -= len(back.recv(left))
        back.sendall(answer)
        left = comes
        while left:
            left -= len(client.recv(left))

    for _ in range(200):
        there_and_back()
    before = cpu_of(server.pid)
    for _ in range(count):
        there_and_back()
    return closed(server, before, client, back) / count * 1e6


def closed(server: Tunnel, before: float, *connections: socket.socket) -> float:
    spent = cpu_of(server.pid) - before
    for connection in connections:
        connection.close()
    return spent


FIGURES: dict[str, Callable[[Tunnel, int], float]] = {
    "1 GB down, s": down,
    "1 GB up, s": up,
    "128 bytes there and back, µs": small,
}


def report(values: dict[str, dict[str, list[float]]], kinds: Sequence[str]) -> None:
    """Medians, lowest and highest; and of each round's ratio of ours to another the median."""
    print(f"{'':30}" + "".join(f"{kind:>24}" for kind in kinds))
    for name, by_kind in values.items():
        line = f"{name:30}"
        for kind in kinds:
            found = by_kind[kind]
            line += f"{f'{shown(median(found))} ({shown(min(found))}-{shown(max(found))})':>24}"
        print(line)
        line = f"{'  ours to it':30}"
        for kind in kinds:
            pairs = zip(by_kind["ours"], by_kind[kind], strict=True)
            line += f"{median(ours / theirs for ours, theirs in pairs):>24.2f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tunnels in WebSocket's messages, beside websockify.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=400, help="how much is sent each time")
    parser.add_argument("--before", metavar="TREE", help="another working tree to compare with")
    parser.add_argument("--websockify", default=shutil.which("websockify"))
    parser.add_argument("--quick", action="store_true", help="a short look")
    options = parser.parse_args()
    count, amount = (2, 100) if options.quick else (options.rounds, options.megabytes)
    amount *= 1_000_000
    trees = {"websockify": "", "raw": str(TREE), "before": options.before or "", "ours": str(TREE)}
    left_out = {"websockify": options.websockify is None, "before": options.before is None}
    kinds = [kind for kind in trees if not left_out.get(kind)]
    servers_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})
    values: dict[str, dict[str, list[float]]] = {name: {k: [] for k in kinds} for name in FIGURES}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(kind, trees[kind], options.websockify, servers_core))
            for kind in kinds
        ]
        for number in range(count):
            first = number % len(servers)
            for name, measured in FIGURES.items():
                for server in servers[first:] + servers[:first]:
                    values[name][server.kind].append(measured(server, amount))
    report(values, kinds)


if __name__ == "__main__":
    main()
