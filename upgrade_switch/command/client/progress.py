"""
The progress of a transfer: a line on a terminal that is rewritten in place, and cleared at the end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from stat import S_ISREG

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from ...splice import SpliceEnd

__all__ = ["STDERR", "FarEnd", "NearEnd", "ProgressLine", "Traffic", "has_progress"]

STDERR = 2

# A shorter transfer has no line.
_SILENT_SECONDS = 2
_EVERY_SECONDS = 1


class Traffic:
    """
    Counts connections and their bytes.

    :ivar sent: the bytes that went to the server.
    :ivar received: the bytes that came from it.
    :ivar open: the connections that are open now.
    :ivar connections: all connections so far.
    """

    __slots__ = ("connections", "open", "received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = self.open = self.connections = 0


class FarEnd(SpliceEnd):
    """The server's end of a splice; counts the bytes that are received."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def received(self, count: int) -> None:
        self.traffic.received += count
        super().received(count)


class NearEnd(SpliceEnd):
    """The local end of a splice; counts the bytes that are sent."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def received(self, count: int) -> None:
        self.traffic.sent += count
        super().received(count)


class ProgressLine:
    """The line. It appears after two seconds, and is rewritten every second."""

    def __init__(
        self, clock: IReactorTime, traffic: Traffic, several: bool = False, fd: int = STDERR
    ) -> None:
        """
        :param traffic: what the line shows.
        :param several: whether it also shows the number of connections.
        :param fd: the terminal's descriptor.
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
        """Show the line from now on."""
        self._began = self._at = self._clock.seconds()
        self._before = (0, 0)
        self._first = self._clock.callLater(_SILENT_SECONDS, self._begin)

    def _begin(self) -> None:
        self._first = None
        self._loop.start(_EVERY_SECONDS)

    def stop(self) -> None:
        """Clear the line for good."""
        if self._first is not None:
            self._first.cancel()
            self._first = None
        if self._loop.running:
            self._loop.stop()
        self.clear()

    def clear(self) -> None:
        """Clear the line, to make room for other output; it is drawn again later."""
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
        # A terminal that is gone, or stopped, must not stop the transfer.
        with suppress(OSError):
            os.write(self._fd, text.encode("ascii"))


def has_progress(is_wanted: bool) -> bool:
    """
    Whether ``connect`` shows its progress. Standard error must be a terminal; and the line must not
    disturb a user who talks with the server there, or a program that talks with it through pipes and
    uses the terminal itself, as ssh does with its ProxyCommand.

    :param is_wanted: whether the user has asked for the line, which permits the latter two.
    """
    if not os.isatty(STDERR):
        return False
    if is_wanted:
        return True
    files = any(S_ISREG(os.fstat(fd).st_mode) for fd in (0, 1))
    return files and not os.isatty(0) and not os.isatty(1)


def _is_in_foreground(fd: int) -> bool:
    """Whether this job is in the terminal's foreground; shells keep background jobs silent."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        # The terminal has no job control.
        return True


def _columns(fd: int) -> int:
    try:
        # It is 0 if it has not been set.
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return 80


def _bytes(count: float) -> str:
    """A number of bytes in words, in powers of 1000: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        # What would be rounded to 1000 takes the next unit.
        if count < 999.5 or (unit != "B" and count < 999.95):
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
