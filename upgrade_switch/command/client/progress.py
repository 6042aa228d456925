"""
A line on a terminal that says how far a transfer is; rewritten in place, and cleared at the end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from stat import S_ISREG
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall

from ...splice import SpliceEnd

__all__ = ["STDERR", "FarEnd", "NearEnd", "ProgressLine", "Traffic", "has_progress"]

STDERR = 2

# What ends sooner needs no line.
_SILENT_SECONDS = 2
_EVERY_SECONDS = 1


class Traffic:
    """
    What has gone through.

    :ivar sent: how many bytes to the server.
    :ivar received: how many bytes from it.
    :ivar open: how many connections there are.
    :ivar connections: how many there have been.
    """

    __slots__ = ("connections", "open", "received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = self.open = self.connections = 0


class FarEnd(SpliceEnd):
    """The server's end of a splice: counts what is received."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def dataReceived(self, data: bytes) -> None:
        self.traffic.received += len(data)
        super().dataReceived(data)


class NearEnd(SpliceEnd):
    """The other: counts what is sent."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def dataReceived(self, data: bytes) -> None:
        self.traffic.sent += len(data)
        super().dataReceived(data)


class ProgressLine:
    """The line: it comes after two seconds, and again every second."""

    def __init__(self, clock: Any, traffic: Traffic, several: bool = False, fd: int = STDERR) -> None:
        """
        :param clock: provides ``IReactorTime``.
        :param several: whether the line says how many connections there are.
        :param fd: the terminal.
        """
        self._clock = clock
        self._traffic = traffic
        self._several = several
        self._fd = fd
        self._shown = 0
        self._loop = LoopingCall(self._draw)
        self._loop.clock = clock
        self._first: IDelayedCall | None = None

    def start(self) -> None:
        """From now on, if there is anything to say."""
        self._began = self._at = self._clock.seconds()
        self._before = (0, 0)
        self._first = self._clock.callLater(_SILENT_SECONDS, self._begin)

    def _begin(self) -> None:
        self._first = None
        self._loop.start(_EVERY_SECONDS)

    def stop(self) -> None:
        """Clear the line; it does not come back."""
        if self._first is not None:
            self._first.cancel()
            self._first = None
        if self._loop.running:
            self._loop.stop()
        self.clear()

    def clear(self) -> None:
        """Make room for something else; the line comes back."""
        if self._shown:
            self._write("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _draw(self) -> None:
        if self._several and not self._traffic.connections:
            return
        line = self._line()[: _columns(self._fd) - 1]
        if not _is_in_foreground(self._fd):
            return
        self._write("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def _line(self) -> str:
        now, traffic = self._clock.seconds(), self._traffic
        seconds = now - self._at or _EVERY_SECONDS
        counts = (traffic.sent, traffic.received)
        parts = [
            f"{word} {_bytes(count)} ({_bytes((count - before) / seconds)}/s)"
            for word, count, before in zip(("sent", "received"), counts, self._before, strict=True)
        ]
        self._at, self._before = now, counts
        if self._several:
            parts.insert(0, f"{traffic.open} open of {traffic.connections} connections")
        parts.append(_time(now - self._began))
        return ", ".join(parts)

    def _write(self, text: str) -> None:
        # A terminal that is gone, or that has no room now, is no reason to stop the bytes.
        with suppress(OSError):
            os.write(self._fd, text.encode("ascii"))


def has_progress(is_wanted: bool) -> bool:
    """
    Whether a line on standard error, a terminal, disturbs nobody: not the one who talks with the server
    there, nor a program that does so through pipes (ssh, through its ProxyCommand) and has the terminal
    itself.

    :param is_wanted: whether somebody has asked for it, and knows.
    """
    if not os.isatty(STDERR):
        return False
    if is_wanted:
        return True
    files = any(S_ISREG(os.fstat(fd).st_mode) for fd in (0, 1))
    return files and not os.isatty(0) and not os.isatty(1)


def _is_in_foreground(fd: int) -> bool:
    """Whether the terminal is this job's: one in the background is silent, as the shell has it."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        # It has no jobs.
        return True


def _columns(fd: int) -> int:
    try:
        # 0 where nobody has said.
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return 80


def _bytes(count: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        # What would be rounded to 1000 is one of the next.
        if count < 999.5 or (unit != "B" and count < 999.95):
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
