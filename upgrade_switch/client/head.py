"""
Where an answer's head ends: :class:`HeadReader` cuts complete heads out of the bytes that arrive.

h11 reads a head once it is complete, and its limit depends on how the bytes were cut. So heads are
collected here: with the limit of Twisted's own client, the same at every cut, and with an eye on the
first bytes, since a server that does not speak HTTP may never send a whole head.
"""

from __future__ import annotations

import re

from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from .. import _twisted
from ..errors import InvalidResponse
from ..fields import printable

__all__ = ["HeadReader"]

# RFC 9112 §4, as far as h11 takes it. The sample completes a status line that has only begun.
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3}[ \r\n]")
_SAMPLE = b"HTTP/1.1 200\n"

# A complete head, all of whose lines end in CRLF.
_PLAIN = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3} [^\r\n]*+\r\n(?:[^\r\n]++\r\n)*+\r\n")

# RFC 8446 §5.1: records with an alert, or with a ServerHello. No HTTP begins with these bytes.
_TLS_RECORDS = b"\x15\x16"

# As much as Twisted's client takes in one line, the CR included.
_LONGEST_LINE: int = LineReceiver.MAX_LENGTH

# Twisted's client takes any number of lines. Somebody has to stop a server that sends them for ever.
_LONGEST_HEAD = 128 * 1024

_MOST_SHOWN = 40


class HeadReader:
    """Collects bytes until they are a complete head."""

    def __init__(self, longest: int = _LONGEST_HEAD) -> None:
        """
        :param longest: how many bytes a head may have, its empty line included.
        """
        self._longest = longest
        self._buffer = bytearray()
        # Where the line begins that is not complete yet, and how far its end has been looked for.
        self._line = 0
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Collect what has arrived."""
        self._buffer += data

    def next_head(self) -> bytes | None:
        """
        Take the next head off what has been collected.

        :return: the head, with its empty line; None while it is not complete.
        :raises InvalidResponse: as soon as it cannot become a head: it does not begin as a status line
            does, one of its lines is longer than 16 KiB, or the whole is longer than it may be.
        """
        plain = None if self._searched else _PLAIN.match(self._buffer)
        # None of its lines is longer than the whole.
        if plain is not None and plain.end() <= min(self._longest, _LONGEST_LINE):
            return self._take(plain.end())
        self._check_status_line()
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            self._check_lengths(end - self._line, end + 1)
            is_empty = bytes(self._buffer[self._line : end]) in (b"", b"\r")
            self._line = self._searched = end + 1
            if is_empty:
                return self._take(end + 1)
        self._searched = len(self._buffer)
        self._check_lengths(self._searched - self._line, self._searched)
        return None

    def take_rest(self) -> bytes:
        """
        :return: what has been collected behind the last head, which is then the caller's.
        """
        return self._take(len(self._buffer))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._line = self._searched = 0
        return taken

    def _check_status_line(self) -> None:
        if _STATUS_LINE.match(self._buffer):
            return
        begun = bytes(self._buffer[: len(_SAMPLE)])
        if _STATUS_LINE.match(begun + _SAMPLE[len(begun) :]):
            return
        if begun[0] in _TLS_RECORDS:
            what = "it is TLS, so the URL should begin with https or wss"
        else:
            line = bytes(self._buffer).split(b"\n", 1)[0][:_MOST_SHOWN]
            what = f"it begins with {printable(line.decode('latin-1').rstrip())!r}"
        reason = Failure(_twisted.ParseError("not a status line", bytes(self._buffer)))
        raise InvalidResponse(f"the answer is not HTTP: {what}", reason)

    def _check_lengths(self, line: int, head: int) -> None:
        """
        :raises InvalidResponse: if a line, or all of a head so far, is too long.
        """
        if line > _LONGEST_LINE:
            raise InvalidResponse("a line of the answer's head is longer than 16 KiB")
        if head > self._longest:
            raise InvalidResponse(f"the answer's head is longer than {self._longest // 1024} KiB")
