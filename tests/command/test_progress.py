"""
The progress line: when there is one, what it says, and that it disturbs nobody.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.kit.commands import LOCAL, PATIENCE, Process, listening, read_all, read_until, reset, switch
from tests.kit.forwarding import Answering
from tests.kit.programs import run_script
from upgrade_switch.command.client.progress import FarEnd, NearEnd, ProgressLine, Traffic
from upgrade_switch.splicing import Splice


class Terminal:
    """A terminal, and what has been written to it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()

    def shown(self) -> str:
        """What has been written since the last time."""
        # What is written arrives in pieces; the end of a line says that all of it is here.
        os.write(self.slave, b"\n")
        return self.until("\n").removesuffix("\r\n")

    def until(self, pattern: str) -> str:
        """Everything up to what matches; the terminal's end where nothing does."""
        data = b""
        while not re.search(pattern, data.decode()):
            try:
                data += os.read(self.master, 1000)
            except OSError:
                # Nobody has it any more.
                return data.decode()
        return data.decode()

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def screen(shown: str) -> list[str]:
    """What somebody sees on the terminal at the end, line by line."""
    lines = []
    for line in shown.split("\n"):
        cells: list[str] = []
        for part in line.rstrip("\r").split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


class Shown:
    """A progress line on a terminal, with a clock of its own."""

    def __init__(self, terminal: Terminal, several: bool = False) -> None:
        self.clock, self.traffic, self.terminal = Clock(), Traffic(), terminal
        self.line = ProgressLine(self.clock, self.traffic, several, terminal.slave)
        self.line.start()

    def after(self, seconds: float) -> str:
        """What is on the screen so much later."""
        self.clock.advance(seconds)
        return screen(self.terminal.shown())[0]


def test_line(terminal: Terminal) -> None:
    """After two seconds and then every second, it says how much, how fast, and for how long."""
    shown = Shown(terminal)
    assert shown.after(1.9) == ""
    shown.traffic.sent = 3_000_000
    assert shown.after(0.1) == "sent 3.0 MB (1.5 MB/s), received 0 B (0 B/s), 0:02"
    shown.traffic.sent += 12_345
    shown.traffic.received = 999
    assert shown.after(0.9) == ""
    assert shown.after(0.1) == "sent 3.0 MB (12.3 kB/s), received 999 B (999 B/s), 0:03"
    shown.clock.advance(3600)
    shown.terminal.shown()
    assert shown.after(1).endswith("1:00:04")
    shown.line.stop()
    assert shown.clock.getDelayedCalls() == []


def test_counting() -> None:
    """What is read and written past ``dataReceived`` counts as what is not."""
    traffic = Traffic()
    near, far = NearEnd(traffic), FarEnd(traffic)
    Splice(near, far)
    for end in (near, far):
        end.makeConnection(StringTransport())
    near.dataReceived(b"there")
    near.piped(100)
    far.dataReceived(b"and back")
    far.piped(1000)
    assert (traffic.sent, traffic.received) == (105, 1008)
    assert (near.bytes_in, far.bytes_in) == (105, 1008)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_units(count: int, said: str, terminal: Terminal) -> None:
    """Numbers of bytes are said in units that people read, in powers of 1000."""
    shown = Shown(terminal)
    shown.traffic.received = count
    assert f"received {said} (" in shown.after(2)
    shown.line.stop()


def test_rewritten_in_place(terminal: Terminal) -> None:
    """A shorter line leaves nothing of the longer one, and at the end there is nothing at all."""
    shown = Shown(terminal)
    shown.traffic.sent = 999_900
    shown.clock.advance(2)
    shown.clock.advance(1)
    seen = terminal.shown()
    assert screen(seen) == ["sent 999.9 kB (0 B/s), received 0 B (0 B/s), 0:03"]
    shown.line.stop()
    assert screen(seen + terminal.shown()) == [""]


def test_stopped_before_there_is_one(terminal: Terminal) -> None:
    """What ends within two seconds has no line, and nothing is written."""
    shown = Shown(terminal)
    shown.clock.advance(1)
    shown.line.stop()
    shown.clock.advance(1000)
    assert shown.clock.getDelayedCalls() == []
    assert shown.after(0) == ""


def test_narrow_terminal(terminal: Terminal) -> None:
    """The line is never longer than the terminal is wide: else it would not be rewritten in place."""
    termios.tcsetwinsize(terminal.slave, (24, 20))
    shown = Shown(terminal)
    assert shown.after(2) == "sent 0 B (0 B/s), r"
    shown.line.stop()


def test_several(terminal: Terminal) -> None:
    """Of several connections it says how many there are; before the first there is no line."""
    shown = Shown(terminal, several=True)
    assert shown.after(5) == ""
    shown.traffic.open, shown.traffic.connections = 2, 17
    assert shown.after(1).startswith("2 open of 17 connections, sent 0 B (0 B/s), ")
    shown.line.stop()


def test_terminal_that_is_gone(terminal: Terminal) -> None:
    """A terminal that has gone does not end what the line is about."""
    read, write = os.pipe()
    os.close(read)
    clock = Clock()
    line = ProgressLine(clock, Traffic(), fd=write)
    line.start()
    clock.advance(2)
    line.stop()
    os.close(write)


class Slow:
    """A server that has answered, and says no more before it is told to."""

    def __init__(self) -> None:
        self.heard = b""
        self._told = threading.Event()

    def talk(self, client: socket.socket) -> None:
        switch(client)
        client.sendall(b"some of it, ")
        self._told.wait(PATIENCE)
        client.sendall(b"the rest")
        client.shutdown(socket.SHUT_WR)
        self.heard = read_all(client)

    def goes_on(self) -> None:
        self._told.set()


@contextmanager
def transferring(terminal: Terminal, *options: str, **kwargs: Any) -> Iterator[tuple[Any, Slow]]:
    """``connect`` with a slow server; its standard error is a terminal."""
    slow = Slow()
    with (
        listening(slow.talk) as port,
        Process(
            "connect", *options, f"http://127.0.0.1:{port}/", "echo", stderr=terminal.slave, **kwargs
        ) as process,
    ):
        try:
            yield process, slow
        finally:
            slow.goes_on()


FILES = [("stdin",), ("stdout",), ("stdin", "stdout")]


@pytest.mark.parametrize("files", FILES, ids="-".join)
def test_files(files: tuple[str, ...], terminal: Terminal, tmp_path: Path) -> None:
    """
    From a file or into one, a transfer that takes long has a line, which is gone at the end; what stays
    is that it was connected.
    """
    (tmp_path / "stdin").write_bytes(b"hello")
    with (tmp_path / "stdin").open("rb") as source, (tmp_path / "stdout").open("wb") as sink:
        opened = {name: {"stdin": source, "stdout": sink}[name] for name in files}
        with transferring(terminal, **opened) as (process, slow):
            seen = terminal.until("received 12 B .*0:0")
            slow.goes_on()
            if "stdin" not in files:
                process.stdin.close()
            arrived = b"" if "stdout" in files else process.receives(100)
            with process.killed_if_late():
                assert process.wait() == 0
    arrived += (tmp_path / "stdout").read_bytes()
    assert arrived == b"some of it, the rest"
    assert slow.heard == (b"hello" if "stdin" in files else b"")
    os.write(terminal.slave, b"|")
    connected, end = screen(seen + terminal.until(r"\|"))
    assert connected.endswith(": connected")
    assert end == "|"


def test_pipes_when_asked(terminal: Terminal) -> None:
    """With --progress there is a line wherever input and output go."""
    with transferring(terminal, "--progress") as (process, slow):
        process.sends(b"hello")
        terminal.until(r"sent 5 B .*received 12 B .*0:0")
        slow.goes_on()
        process.stdin.close()
        assert process.receives(100) == b"some of it, the rest"
        with process.killed_if_late():
            assert process.wait() == 0


def test_error_in_its_place(terminal: Terminal) -> None:
    """An error is said where the progress line was, which has been cleared."""

    def talk(client: socket.socket) -> None:
        switch(client)
        client.sendall(b"some of it, ")
        told.wait(PATIENCE)
        reset(client)

    told = threading.Event()
    with (
        listening(talk) as port,
        Process(
            "connect", "--progress", f"http://127.0.0.1:{port}/", "echo", stderr=terminal.slave
        ) as process,
    ):
        seen = terminal.until("received 12 B")
        told.set()
        with process.killed_if_late():
            assert process.wait() == 1
    connected, line, rest = screen(seen + terminal.until(r"cut off.*\n"))
    assert connected == f"upgrade-switch: http://127.0.0.1:{port}/: connected"
    assert line.startswith(f"upgrade-switch: http://127.0.0.1:{port}/: the connection was cut off: ")
    assert rest == ""


def test_forward(terminal: Terminal) -> None:
    """``forward`` says how many connections there are, and what it logs takes the line's place."""

    def talk(client: socket.socket) -> None:
        if answers:
            switch(client)
            client.sendall(answers.pop())
            read_all(client)
        else:
            read_until(client, b"\r\n\r\n")
            client.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    answers = [b"welcome"]
    with (
        Answering(talk) as port,
        Process(
            "forward", LOCAL, f"http://127.0.0.1:{port}/", "echo", stdout=None, stderr=terminal.slave
        ) as process,
    ):
        said = terminal.until(r"listening on .*\n")
        host, _, here = said.rpartition(" ")[2].strip().rpartition(":")
        with socket.create_connection((host, int(here)), PATIENCE) as client:
            assert client.recv(7, socket.MSG_WAITALL) == b"welcome"
            client.sendall(b"hi")
            seen = terminal.until(r"1 open of 1 connections, sent 2 B .* received 7 B .*0:0")
            with socket.create_connection((host, int(here)), PATIENCE) as refused:
                assert read_all(refused) == b""
            seen += terminal.until("403.*\n")
        process.terminate()
        with process.killed_if_late():
            assert process.wait() == 0
    log, rest = screen(seen)
    assert re.fullmatch(r"\S+ \[\S+\] http://127.0.0.1:\d+/: the server did not switch.*403 No", log)
    assert rest == ""


PIPE, FILE, TERMINAL = "pipe", "file", "terminal"


@pytest.mark.parametrize(
    ("stdin", "stdout", "stderr", "unasked", "asked"),
    [
        # An ssh ProxyCommand.
        (PIPE, PIPE, TERMINAL, False, True),
        (TERMINAL, TERMINAL, TERMINAL, False, True),
        (FILE, TERMINAL, TERMINAL, False, True),
        (TERMINAL, FILE, TERMINAL, False, True),
        (FILE, PIPE, TERMINAL, True, True),
        (PIPE, FILE, TERMINAL, True, True),
        (FILE, FILE, FILE, False, False),
        (FILE, FILE, PIPE, False, False),
    ],
)
def test_who_has_a_line(
    stdin: str, stdout: str, stderr: str, unasked: bool, asked: bool, terminal: Terminal, tmp_path: Path
) -> None:
    """
    There is a line where standard error is a terminal, and input or output a file, and neither of
    them the terminal; or where standard error is a terminal and somebody has asked.
    """
    module = "upgrade_switch.command.client.progress"
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\n"
        f"from {module} import has_progress as has\n"
        f"sys.exit(10 + 2 * has(False) + has(True))\n"
    )
    with (tmp_path / "file").open("w+b") as file:
        opened = {PIPE: subprocess.PIPE, FILE: file, TERMINAL: terminal.slave}
        done = run_script(
            [str(script)], stdin=opened[stdin], stdout=opened[stdout], stderr=opened[stderr]
        )
    assert done.returncode == 10 + 2 * unasked + asked
