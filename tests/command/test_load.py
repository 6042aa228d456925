"""
The command's server with thousands of switched connections that end at once: everything is given back.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.commands import PATIENCE, read_until, serving
from tests.kit.crowds import Sockets, are_answered, connect_many, reset_all, room_for
from tests.kit.harness import upgrade_head

HEAD = upgrade_head(path=b"/echo")

#: Is in each line of the log of switches and their ends.
SWITCH = b" [upgrade_switch.observe.log.SwitchLog#info] "

#: How many clients come at once. The server's queue for them must hold as many: who does not get in
#: tries again a second later.
CROWD = 250
LISTEN = f"tcp:0:interface=127.0.0.1:backlog={CROWD}"

#: Clients at the same time: a KiB of each would be more than the server may grow.
CLIENTS = 5000

#: How many bytes the server may have grown between the end of the first round and that of the third.
#: What is left of one connection, were it kept, takes about a KiB, and a whole one several. Allocators
#: give memory back in large pieces, where they can: about a MiB comes and goes. The first round has
#: all of the buffers that a server ever needs, and so nothing before it counts.
GROWTH = 3 * 1024 * 1024


@dataclass
class Server:
    """
    The server's process.

    :ivar said: what it has written to standard error, besides the log of switches.
    """

    process: Any
    said: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.process.url.rstrip("/").rpartition(":")[2])

    def listen(self) -> None:
        """Read what it says all the while: a pipe does not hold it."""
        self.said += [line for line in self.process.stderr if SWITCH not in line]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Bytes of RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+([0-9]+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def totals(self) -> Any:
        """What its status page counts."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        connection.request("GET", "/status/json", headers={"Connection": "close"})
        with connection.getresponse() as answer:
            return json.loads(answer.read())["totals"]

    def is_left_with(self, descriptors: int) -> None:
        """Go on asking until all clients have gone, and all of their descriptors."""
        last = time.monotonic() + PATIENCE
        while (live := self.totals()["live"]) or self.descriptors() != descriptors:
            assert time.monotonic() < last, (live, self.descriptors(), descriptors)


@contextmanager
def running(connections: int) -> Iterator[Server]:
    """A server that may have so many connections."""
    with room_for(connections):
        with serving("--status", "/status", listen=(LISTEN,)) as process:
            server = Server(process)
            reader = threading.Thread(target=server.listen)
            reader.start()
            yield server
        reader.join()
    assert not server.said, server.said


def crowds(server: Server, count: int, mid_handshake: bool) -> Sockets:
    """
    So many clients, all of them still connected.

    :param mid_handshake: half of them have not switched: they are still asking, or have not read the
        answer.
    """
    clients: Sockets = []
    while len(clients) < count:
        if mid_handshake:
            switched = connect_many(server.address, CROWD // 2, HEAD)
            clients += connect_many(server.address, CROWD // 4, HEAD[:-10])
            clients += connect_many(server.address, CROWD - CROWD // 2 - CROWD // 4, HEAD)
        else:
            switched = connect_many(server.address, CROWD, HEAD)
        are_answered(switched)
        clients += switched
    return clients


def echoes(server: Server) -> bool:
    """Whether a new client is served."""
    with socket.create_connection(server.address, PATIENCE) as client:
        client.sendall(HEAD + b"hello")
        return read_until(client, b"hello").startswith(b"HTTP/1.1 101 ")


def test_reset_at_once() -> None:
    """
    So many switched connections are reset at once, three times, the first time while half of them are
    not switched yet: no connection, file descriptor or memory is kept, and the next client is served.
    """
    with running(CLIENTS) as server:
        # What all connections share.
        before = server.descriptors() + 1
        assert echoes(server)
        server.is_left_with(before)
        memory = []
        for mid_handshake in (True, False, False):
            clients = crowds(server, CLIENTS, mid_handshake)
            if not mid_handshake:
                assert server.totals()["live"] == CLIENTS
                assert server.descriptors() >= before + CLIENTS
            reset_all(clients)
            server.is_left_with(before)
            memory.append(server.memory())
            assert echoes(server)
            server.is_left_with(before)
        totals = server.totals()
        assert sum(totals["ended"]["echo"].values()) == totals["switched"]["echo"] > 2.5 * CLIENTS
        assert memory[2] - memory[0] < GROWTH, memory
