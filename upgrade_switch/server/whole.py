"""
An answer that is sent as a whole: its head is there already, as it goes over the wire.

Twisted takes an answer's fields one by one, and makes a head of them, in which a cookie, an encoding or
a subclass may have its say. Where nobody has, a head that needs no change is sent as it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from .. import _twisted
from .receiving import ReceivingChannel
from .request import UpgradeRequest

if TYPE_CHECKING:
    from twisted.web.http import Request

__all__ = ["send_whole", "takes_whole"]

# What a subclass may have made of its own, or whoever had the request on its way.
_OF_REQUEST = ("write", "finish", "setResponseCode")
_OF_CHANNEL = ("write", "writeSequence", "writeHeaders")

_MOST_CLASSES = 100


def takes_whole(request: Request) -> bool:
    """
    Whether an answer can be sent with :func:`send_whole` now: nothing has been said of it on the way to
    the resource, and the client takes more.
    """
    return (
        isinstance(request, UpgradeRequest)
        and request.is_unanswered
        and _are_ours((type(request), type(request.channel)))
        and request.__dict__.keys().isdisjoint(_OF_REQUEST)
        and request.channel.__dict__.keys().isdisjoint(_OF_CHANNEL)
        and not request.channel.is_full
    )


@lru_cache(_MOST_CLASSES)
def _are_ours(classes: tuple[type, type]) -> bool:
    """Whether nobody has a say in how a request is answered, of such a class, and of such a channel."""
    request, channel = classes
    return (
        issubclass(channel, ReceivingChannel)
        and all(getattr(request, name) is getattr(UpgradeRequest, name) for name in _OF_REQUEST)
        and all(getattr(channel, name) is getattr(ReceivingChannel, name) for name in _OF_CHANNEL)
    )


def send_whole(request: UpgradeRequest, code: int, phrase: bytes, head: bytes, body: bytes) -> None:
    """
    Answer a request, of which :func:`takes_whole` holds, and finish it.

    :param head: the head, with its empty line. It has a Date, and is framed right for the request.
    :param body: as it is sent; empty where the request's method, or the code, allow none.
    """
    request.note_answer(code, phrase, head, len(body))
    _twisted.write_at_once(request.channel.transport, head + body)
    request.finish_noted()
