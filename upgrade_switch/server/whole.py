"""
An answer that is sent as a whole: its head is there already, as it goes over the wire.

Twisted takes an answer's fields one by one, and makes a head of them, in which a cookie, an encoding or
a subclass may have its say. Where nobody has, a head that needs no change is sent as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _twisted
from .receiving import ReceivingChannel
from .request import UpgradeRequest

if TYPE_CHECKING:
    from twisted.web.http import Request

__all__ = ["send_whole", "takes_whole"]


def takes_whole(request: Request) -> bool:
    """
    Whether an answer can be sent with :func:`send_whole` now: nothing has been said of it on the way to
    the resource, and the client takes more.
    """
    return (
        isinstance(request, UpgradeRequest)
        and request.is_unanswered
        and _is_usual(request)
        and not request.channel.is_full
    )


def _is_usual(request: UpgradeRequest) -> bool:
    """Whether nobody has a say in how it is answered: no subclass, nor who had it on its way."""
    channel = request.channel
    return (
        _function(request.write) is UpgradeRequest.write
        and _function(request.finish) is UpgradeRequest.finish
        and _function(request.setResponseCode) is UpgradeRequest.setResponseCode
        and isinstance(channel, ReceivingChannel)
        and _function(channel.write) is ReceivingChannel.write
        and _function(channel.writeSequence) is ReceivingChannel.writeSequence
        and _function(channel.writeHeaders) is ReceivingChannel.writeHeaders
    )


def _function(method: object) -> object:
    return getattr(method, "__func__", None)


def send_whole(request: UpgradeRequest, code: int, phrase: bytes, head: bytes, body: bytes) -> None:
    """
    Answer a request, of which :func:`takes_whole` holds, and finish it.

    :param head: the head, with its empty line. It has a Date, and is framed right for the request.
    :param body: as it is sent; empty where the request's method, or the code, allow none.
    """
    request.note_answer(code, phrase, head, len(body))
    _twisted.write_at_once(request.channel.transport, head + body)
    request.finish_noted()
