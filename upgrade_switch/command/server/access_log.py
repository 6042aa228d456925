"""
``serve --access-log``: a line for each request, in a file.
"""

from __future__ import annotations

from errno import EAGAIN
from io import FileIO
from select import POLLOUT, poll
from typing import Any

from twisted.logger import Logger
from twisted.python import log
from twisted.python.usage import UsageError

from ...server.site import UpgradeSite

__all__ = ["AccessLog", "LoggedSite", "access_log_path"]

_log = Logger()

_STDOUT = "/dev/stdout"


def access_log_path(option: str | None) -> str | None:
    """
    The path of the access log, or None if no log was asked for.

    :param option: the value of ``--access-log``.
    :raises UsageError: if the file cannot be written.
    """
    if option == "-":
        return _STDOUT
    if option is not None:
        try:
            open(option, "ab").close()
        except (OSError, ValueError) as error:
            # ValueError: a NUL in the path.
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--access-log {option}: {reason}") from None
    return option


class LoggedSite(UpgradeSite):
    """A site whose access log stays one file; Twisted's own starts a new one with each megabyte."""

    def __init__(self, *args: Any, access_log: str | None, **kwargs: Any) -> None:
        """
        :param access_log: the result of :func:`access_log_path`.
        """
        super().__init__(*args, **kwargs)
        self._access_log = access_log

    def startFactory(self) -> None:
        super().startFactory()
        if self._access_log is not None:
            self.logFile = AccessLog(self._access_log)

    def reopen_log(self) -> None:
        """Go on in the file that has the access log's path now: somebody may have moved it."""
        if isinstance(self.logFile, AccessLog):
            self.logFile.reopen()

    def adopt(self, other: UpgradeSite) -> None:
        """Open the log anew, too: somebody may have moved the file."""
        assert isinstance(other, LoggedSite)
        path, is_open = other._access_log, self._access_log is not None
        opened, self.logFile = self.logFile, log.logfile if path is None else AccessLog(path)
        if is_open:
            opened.close()
        self._access_log = path
        super().adopt(other)


class AccessLog:
    """Appends lines to a file. A line that cannot be written is lost; no request waits for it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fails = False
        # By its number, since standard output may have no name (a socket from systemd).
        self._file = FileIO(1 if path == _STDOUT else path, "ab", closefd=path != _STDOUT)
        # A pipe that is not read, or a stopped terminal, would block the whole server.
        self._room = poll()
        self._room.register(self._file, POLLOUT)

    def write(self, line: str) -> None:
        try:
            if not self._room.poll(0):
                raise OSError(EAGAIN, "nobody reads it")
            self._file.write(line.encode())
        except OSError as error:
            if not self._fails:
                _log.warn("cannot write {path}: {why}", path=self._path, why=error.strerror)
            self._fails = True
        else:
            self._fails = False

    def reopen(self) -> None:
        """Go on in the file that has the path now; in that of before if it cannot be opened."""
        if self._path == _STDOUT:
            return
        try:
            opened = FileIO(self._path, "ab")
        except OSError as error:
            _log.warn("cannot open {path} anew: {why}", path=self._path, why=error.strerror)
            return
        self._room.unregister(self._file)
        self._room.register(opened, POLLOUT)
        before, self._file = self._file, opened
        before.close()

    def close(self) -> None:
        self._file.close()
