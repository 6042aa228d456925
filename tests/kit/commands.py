"""
The command ``upgrade-switch``, run as its users run it, and the servers that it meets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.kit.programs import PATIENCE, Script, one_line, run_script

COMMAND = str(Path(sys.executable).with_name("upgrade-switch"))

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"

LOCAL = "tcp:0:interface=127.0.0.1"


def run(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; standard input is empty unless something else is said."""
    return run_script([COMMAND, *arguments], **kwargs)


def fails(code: int, *arguments: str, **kwargs: Any) -> str:
    """
    Run the command, which fails: with this exit code, and with one line on standard error.

    :return: the line, less the command's name.
    """
    done = run(*arguments, **kwargs)
    line = one_line(done.stderr)
    assert not done.stdout, done.stdout
    assert done.returncode == code, (done.returncode, line)
    return line


async def output_of(*command: str) -> bytes:
    """What a program writes while the reactor serves it; it must not fail."""
    done = await deferToThread(
        subprocess.run, command, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    output: bytes = done.stdout
    return output


class Process(Script):
    """The command ``upgrade-switch`` while it runs."""

    def __init__(self, *arguments: str, **kwargs: Any) -> None:
        """
        :param arguments: the command's.
        :param kwargs: as for a :class:`Script`.
        """
        super().__init__([COMMAND, *arguments], **kwargs)


@contextmanager
def serving(*arguments: str, listen: tuple[str, ...] = (LOCAL,)) -> Iterator[Any]:
    """
    ``upgrade-switch serve``, listening; ended by SIGTERM.

    :return: the process; its ``addresses`` are what it says it listens on, its ``url`` the first.
    """
    options = [part for endpoint in listen for part in ("--listen", endpoint)]
    with Process("serve", *options, *arguments, stdin=None, stdout=None) as process:
        lines = [process.says() for _ in listen]
        assert all(line.startswith("listening on ") for line in lines), lines
        found: Any = process
        found.addresses = [line.removeprefix("listening on ") for line in lines]
        found.url = found.addresses[0]
        yield process
        process.terminate()
        ended = process.ends()
        assert ended == (0, b"", b""), ended


@contextmanager
def listening(talk: Callable[[socket.socket], object], connections: int = 1) -> Iterator[int]:
    """
    A server that talks to so many clients, one after the other; it has to have done so at the end.

    :return: its port.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        stopped: list[bool] = []

        def serve() -> None:
            for _ in range(connections):
                try:
                    client, _address = server.accept()
                except OSError:
                    if stopped:
                        return
                    raise
                with client:
                    client.settimeout(PATIENCE)
                    # Who is cut off is not what is tested here.
                    with suppress(ConnectionResetError):
                        talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        except BaseException:
            # Nobody comes any more, and the thread must not trouble the tests that follow.
            stopped.append(True)
            server.shutdown(socket.SHUT_RDWR)
            raise
        thread.join(PATIENCE)
        assert not thread.is_alive()


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Everything up to and with these bytes, and what came with them."""
    data = b""
    while end not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    return data


def read_all(client: socket.socket) -> bytes:
    """Everything until the end of the connection, however it ends."""
    chunks = []
    try:
        while chunk := client.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def shown_on(terminal: int) -> bytes:
    """All that has been written to a terminal that nobody has open any more; it comes in pieces."""
    chunks = []
    # Its end is an error, on Linux.
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    return b"".join(chunks)


def switch(client: socket.socket) -> None:
    """Read a request, and answer it with a 101."""
    read_until(client, b"\r\n\r\n")
    client.sendall(SWITCH)


def reset(client: socket.socket) -> None:
    """End a connection with an RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def echo(client: socket.socket) -> None:
    """Send back what comes, until it ends."""
    while data := client.recv(65536):
        client.sendall(data)
