"""
``serve --access-log``: a line for each request.
"""

from __future__ import annotations

from errno import EAGAIN
from io import FileIO
from select import POLLOUT, poll
from typing import Any

from twisted.logger import Logger
from twisted.python.usage import UsageError

from ...server.site import UpgradeSite

__all__ = ["AccessLog", "LoggedSite", "access_log_path"]

_log = Logger()

_STDOUT = "/dev/stdout"


def access_log_path(option: str | None) -> str | None:
    """
    Where the access log goes; None: nowhere.

    :param option: what ``--access-log`` says.
    :raises UsageError: if the file cannot be written.
    """
    if option == "-":
        return _STDOUT
    if option is not None:
        try:
            open(option, "ab").close()
        except (OSError, ValueError) as error:
            # ValueError: with a NUL in it.
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--access-log {option}: {reason}") from None
    return option


class LoggedSite(UpgradeSite):
    """A site whose access log grows in one file: Twisted's starts a new one with each megabyte."""

    def __init__(self, *args: Any, access_log: str | None, **kwargs: Any) -> None:
        """
        :param access_log: what :func:`access_log_path` gives.
        """
        super().__init__(*args, **kwargs)
        self._access_log = access_log

    def startFactory(self) -> None:
        super().startFactory()
        if self._access_log is not None:
            self.logFile = AccessLog(self._access_log)


class AccessLog:
    """A file that grows by a line at a time. What cannot be written is lost: it stops no request."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fails = False
        # By its number: what has no name (a socket of systemd's) cannot be opened.
        self._file = FileIO(1 if path == _STDOUT else path, "ab", closefd=path != _STDOUT)
        # A pipe that nobody reads, or a terminal that is held, would block all of the server.
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

    def close(self) -> None:
        self._file.close()
