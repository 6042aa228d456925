"""
``serve --targets``: a file that says where each name leads.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.usage import UsageError

__all__ = ["TargetsFile", "endpoint_text_of"]

_log = Logger()

# As websockify has it: names may have colons in them, so white space belongs to the separator.
_LINE = re.compile(r"(\S|\S.*?\S):\s+(\S.*)")

# What websockify's files have in place of an endpoint string.
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

_MOST_PORT = 65535

# Of more broken lines, only their number is logged.
_MOST_WARNINGS = 10

# Within so many nanoseconds, a file may change twice without a trace: kernels' clocks tick that slowly.
_TICK = 50_000_000


class _Seen(NamedTuple):
    """What tells that a file is still the one that was read."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class _Target(NamedTuple):
    text: str
    endpoint: IStreamClientEndpoint


class TargetsFile:
    """
    Where names lead, as a file says: lines ``name: ENDPOINT``, and comments that begin with ``#``.

    It is read again when it has changed. A line that is broken, or has a name that an earlier line has,
    is logged with its number, and left out. If the file cannot be read, or is gone, that is logged
    once, and what it said before holds.
    """

    def __init__(self, path: str, endpoint_of: Callable[[str], IStreamClientEndpoint]) -> None:
        """
        :param path: the file's.
        :param endpoint_of: makes the endpoint that a string describes; raises UsageError.
        :raises UsageError: if the file cannot be read.
        """
        self.path = path
        self._endpoint_of = endpoint_of
        self._targets: dict[str, _Target] = {}
        self._content: bytes | None = None
        self._seen: _Seen | None = None
        self._trouble = ""
        try:
            self.reload()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None

    def lookup(self, name: str) -> IStreamClientEndpoint | None:
        """The endpoint of a name; None if there is none."""
        self._refresh()
        found = self._targets.get(name)
        return None if found is None else found.endpoint

    def _refresh(self) -> None:
        try:
            if _seen(os.stat(self.path)) != self._seen:
                self.reload()
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                self._trouble = trouble
                _log.warn(
                    "{file} cannot be read, and what it said before holds: {why}",
                    file=self.path,
                    why=trouble,
                )

    def reload(self) -> None:
        """
        Read the file, whether it has changed or not.

        :raises OSError: if it cannot be read; what it said before holds.
        """
        with open(self.path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "it is not a file")
            content = file.read()
        self._trouble = ""
        is_settled = not 0 <= time.time_ns() - status.st_ctime_ns < _TICK
        self._seen = _seen(status) if is_settled else None
        if content != self._content:
            self._content = content
            self._take(content)

    def _take(self, content: bytes) -> None:
        before, self._targets = self._targets, {}
        broken: list[tuple[int, str]] = []
        for number, line in _lines(content):
            try:
                name, text = _parsed(line)
                if name in self._targets:
                    raise UsageError("an earlier line has that name")
                known = before.get(name)
                # Most lines of a file that has changed have not: some endpoints take long to make.
                if known is None or known.text != text:
                    known = _Target(text, self._endpoint_of(text))
                self._targets[name] = known
            except UsageError as error:
                broken.append((number, str(error)))
        self._warn(broken)

    def _warn(self, broken: list[tuple[int, str]]) -> None:
        # Lines themselves are not shown: a name may be a secret.
        for number, why in broken[:_MOST_WARNINGS]:
            _log.warn("{file}, line {number}: {why}", file=self.path, number=number, why=why)
        if len(broken) > _MOST_WARNINGS:
            more = len(broken) - _MOST_WARNINGS
            _log.warn("{file}: {more} more lines are broken", file=self.path, more=more)
        if not self._targets:
            _log.warn("{file} has no targets", file=self.path)


def _open_at_once(path: str, flags: int) -> int:
    # Opening a named pipe would wait for its other end.
    return os.open(path, flags | os.O_NONBLOCK)


def endpoint_text_of(text: str) -> str:
    """
    The endpoint string that stands in a file, or for a host and a port there.

    :raises UsageError: if the port is not a port number.
    """
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or match[1] == "unix":
        return text
    if not 0 < int(match[2]) <= _MOST_PORT:
        raise UsageError(f"no port has the number {match[2]}")
    host = match[1].strip("[]")
    return f"tcp:{quoteStringArgument(host)}:{match[2]}"


def _seen(status: os.stat_result) -> _Seen:
    return _Seen(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that say something, and their numbers."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = line.strip()
        if line and not line.startswith(b"#"):
            yield number, line


def _parsed(line: bytes) -> tuple[str, str]:
    try:
        match = _LINE.fullmatch(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8") from None
    if match is None:
        raise UsageError("it is not 'name: ENDPOINT'")
    name, text = match.groups()
    return name, endpoint_text_of(text)
