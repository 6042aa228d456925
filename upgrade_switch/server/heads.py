"""
The heads that end HTTP. Within a second, many are the same, and are made once.
"""

from __future__ import annotations

from functools import lru_cache

from ..fields import written_head
from ..interfaces import SwitchHead
from .streaming import usual_fields

__all__ = ["head_of_101", "usual_head", "written"]

SWITCHING_PROTOCOLS = 101


@lru_cache(100)
def head_of_101(named: str, phrase: bytes) -> SwitchHead:
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
