"""What a proxy needs to be a peer: a folder, and a good server behind it, by default this project's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["PATH", "Place", "run"]

# Debian's proxies are where root alone looks for programs.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class Place(NamedTuple):
    """Where a proxy runs."""

    folder: str
    port: int
    back: int
    """The port of the server behind it."""

    def write(self, name: str, text: str) -> str:
        """Write a file into the folder, with the values of this place filled in."""
        path = Path(self.folder, name)
        path.write_text(text % self._asdict())
        return str(path)


def run(command: Callable[[Place], Sequence[str]], port: str, back: str | None = None) -> None:
    """
    Start the proxy, say so, and end it at SIGTERM.

    :param command: what starts the proxy.
    :param back: the port of a server that runs; by default, one is started and ended with the proxy.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(folder, int(port), int(back) if back else stack.enter_context(_good_server()))
        proxy = subprocess.Popen(command(place), env=os.environ | {"PATH": PATH})
        try:
            _wait_for(place.port, proxy)
            print("ready", flush=True)
            proxy.wait()
        finally:
            proxy.terminate()
            proxy.wait()


@contextmanager
def _good_server() -> Iterator[int]:
    """Its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("ours.py")), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        if not server.stdout.readline():
            sys.exit("the server behind the proxy did not start")
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    sys.exit(f"{process.args!r} has ended")
