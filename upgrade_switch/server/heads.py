"""
What the heads of answers say, and the heads that end HTTP. Within a second, many are the same, and are
made once.
"""

from __future__ import annotations

from functools import lru_cache
from time import time

from twisted.web.http import datetimeToString
from twisted.web.server import version as server_version

from ..fields import written_head
from ..interfaces import SwitchHead

__all__ = ["SWITCHING", "head_of_101", "http_date", "usual_fields", "usual_head", "written"]

SWITCHING_PROTOCOLS = 101
#: The reason phrase of a 101.
SWITCHING = b"Switching Protocols"


@lru_cache(100)
def head_of_101(named: str, phrase: bytes = SWITCHING) -> SwitchHead:
    """A 101 that says what the connection switches to; much the same for everybody."""
    fields = (b"Upgrade", named.encode("ascii")), (b"Connection", b"Upgrade")
    return SwitchHead(SWITCHING_PROTOCOLS, phrase, fields)


@lru_cache(100)
def usual_head(head: SwitchHead, date: bytes) -> SwitchHead:
    """A head with what each answer says in front."""
    return SwitchHead(head.code, head.phrase, (*usual_fields(date), *head.fields))


@lru_cache(100)
def written(head: SwitchHead) -> bytes:
    """A head as it is sent."""
    lines = [b"HTTP/1.1 %d %b" % (head.code, head.phrase)]
    lines += [name + b": " + value for name, value in head.fields]
    return written_head(lines)


def usual_fields(date: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """What each answer says, by its names as Twisted spells them."""
    return (b"Server", server_version), (b"Date", date)


def http_date() -> bytes:
    """The value of a ``Date`` field."""
    return _date_at(int(time()))


@lru_cache(1)
def _date_at(second: int) -> bytes:
    """Many requests come within one second."""
    date: bytes = datetimeToString(second)
    return date
