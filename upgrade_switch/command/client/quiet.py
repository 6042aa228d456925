"""
When a connection without half-close has nothing left to say, which only silence tells.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable
from fcntl import ioctl
from select import POLLIN, poll
from termios import FIONREAD

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["QUIET_SECONDS", "Quiet", "holds_more"]

QUIET_SECONDS = 2


class Quiet:
    """Waits until nothing has moved for some seconds."""

    def __init__(
        self,
        clock: IReactorTime,
        moved: Callable[[], object],
        is_quiet: Callable[[], object],
        seconds: float = QUIET_SECONDS,
    ) -> None:
        """
        :param clock: what time is measured by.
        :param moved: gives something that is equal to what it gave before if nothing has moved since.
        :param is_quiet: called once, at the end.
        :param seconds: how long nothing may move.
        """
        self._clock = clock
        self._moved = moved
        self._is_quiet = is_quiet
        self._seconds = seconds
        self._before = moved()
        self._since = clock.seconds()
        self._call: IDelayedCall | None = clock.callLater(seconds / 8, self._look)

    def _look(self) -> None:
        now = self._moved()
        if now != self._before:
            self._before, self._since = now, self._clock.seconds()
        if self._clock.seconds() - self._since >= self._seconds:
            self._call = None
            self._is_quiet()
        else:
            self._call = self._clock.callLater(self._seconds / 8, self._look)

    def stop(self) -> None:
        """Wait no longer; harmless when it is over."""
        if self._call is not None:
            self._call.cancel()
            self._call = None


def holds_more(fd: int) -> bool:
    """Whether a file, a pipe or a socket has bytes that have not been read. A terminal has none."""
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return os.lseek(fd, 0, os.SEEK_CUR) < status.st_size
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            asking = poll()
            asking.register(fd, POLLIN)
            count = array("i", [0])
            ioctl(fd, FIONREAD, count)
            return bool(asking.poll(0)) and count[0] > 0
    except OSError:
        # It has been closed.
        return False
    return False
