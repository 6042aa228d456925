"""
The side of the client: what is done to a request of ``twisted.web`` to pass an answer on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.resource import IResource
from zope.interface import implementer

from .. import _twisted
from ..connecting import ClientEnd, ServerEnd
from ..interfaces import Declined
from ..sending import STUCK_AFTER, QuietTimeout, SendingWatch, reset_when_sent
from ..server.decision import declined
from ..server.gathering import IGatheringChannel
from ..server.request import UpgradeRequest
from ..splicing import Splice
from .deadline import Deadline
from .forwarded import Field

if TYPE_CHECKING:
    from twisted.python.failure import Failure
    from twisted.web.server import Request

    from ..client.exchange import Exchange
    from ..connection import SwitchedConnection
    from ..interfaces import IStreamTransport
    from .translation import Translation

__all__ = [
    "AnswerReading",
    "answer_with",
    "awaits_continue",
    "cut_off",
    "flush",
    "gather",
    "joined",
    "set_fields",
    "tell_declined",
    "when_left",
    "why_declined",
]


def gather(request: Request, code: int, phrase: bytes, fields: Sequence[Field]) -> bool:
    """
    Begin an answer, which is held until :func:`flush`, or until the request is finished.

    :return: False where it cannot be held, or if the client takes no more now.
    """
    channel = request.channel
    request.setResponseCode(code, phrase)
    set_fields(request, fields)
    return IGatheringChannel.providedBy(channel) and bool(channel.gather())


def flush(request: Request) -> None:
    """Send what is held, the head at least, though the body may come much later."""
    if not request.startedWriting:
        request.write(b"")
    if IGatheringChannel.providedBy(request.channel):
        request.channel.flush()


def set_fields(request: Request, fields: Sequence[Field]) -> None:
    """Set a back end's fields, in place of Twisted's own of the same names."""
    headers = request.responseHeaders
    headers.removeHeader(b"server")
    # Whether the client's connection stays open is the site's matter, and it may have said so.
    _twisted.replace_fields(headers, fields, besides=b"Connection")
    request.defaultContentType = None


def when_left(request: Request, told: Callable[[Failure], object]) -> None:
    """Have a function called if the client leaves before its request is finished."""
    if isinstance(request, UpgradeRequest):
        request.when_left(told)
    else:
        request.notifyFinish().addErrback(told)


def awaits_continue(request: Request) -> bool:
    """Whether the client waits for a 100 that the back end has to send."""
    return isinstance(request, UpgradeRequest) and bool(request.expects_continue)


def why_declined(request: UpgradeRequest) -> Declined | None:
    """Why a request's connection may not switch now; None if it may."""
    why: Declined | None = request.site.switched.why_declined(
        request.channel.transport, request.getClientAddress()
    )
    return why


def tell_declined(
    request: Request, translation: Translation | None, why: Declined = Declined.ANSWERED
) -> None:
    """Tell the site's observers of an upgrade that is answered in HTTP."""
    if isinstance(request, UpgradeRequest) and translation is not None and translation.tokens:
        declined(request, translation.tokens[0], why, request.site)


def joined(
    connection: SwitchedConnection, clock: IReactorTime, over: Callable[[], object]
) -> ClientEnd:
    """
    Take the back end's end of what has switched.

    :param over: called when it is over.
    :return: what the client's connection is to be given, with which that is spliced.
    """
    near, far = ClientEnd(), ServerEnd()
    Splice(near, far, reactor=clock).done.addBoth(lambda _: over())
    connection.install(far)
    return near


def answer_with(request: Request, page: IResource) -> None:
    """Give the proxy's own answer."""
    body: bytes = page.render(request)
    request.setHeader(b"content-length", b"%d" % len(body))
    request.write(body)
    request.finish()


def cut_off(request: Request, clock: IReactorTime, at_once: bool = False) -> None:
    """
    End the connection of a client that has got a part of an answer; over HTTP/2, its stream. If the
    framing does not tell that something is missing, a reset does, when everything before has arrived.

    :param at_once: whether what the client has not taken yet is lost.
    """
    channel = request.channel
    # Twisted logs what is finished. Whoever reads the log looks for what has gone wrong.
    assert request.site is not None
    request.site.log(request)
    if request.clientproto.startswith(b"HTTP/2"):
        channel.loseConnection()
        return
    flush(request)
    request.unregisterProducer()
    transport: IStreamTransport = channel.transport  # type: ignore[assignment]  # Twisted's all are
    if at_once:
        _twisted.abort(transport)
        return
    # What still comes is dropped. While it is not read, the connection's end goes unnoticed, and TLS
    # does not close.
    transport.resumeProducing()
    watch: QuietTimeout | SendingWatch
    if request.chunked or request.responseHeaders.hasHeader(b"content-length"):
        channel.loseConnection()
        # Nobody else would notice a client that does not read, or does not close.
        watch = QuietTimeout(transport, clock, STUCK_AFTER, lambda: _twisted.abort(transport))
    else:
        watch = reset_when_sent(transport, clock)
    request.notifyFinish().addErrback(lambda _: watch.cancel())


@implementer(IPushProducer)
class AnswerReading:
    """
    The reading of an answer, as the producer of what its client gets. While the client does not take
    it, it waits at the back end, whose connection is not for ever.
    """

    def __init__(
        self,
        request: Request,
        exchange: Exchange,
        deadline: Deadline,
        clock: IReactorTime,
        stuck: Callable[[], object],
    ) -> None:
        """
        :param deadline: what the back end has to send the next part by.
        :param stuck: called once if the client takes nothing for :data:`~.sending.STUCK_AFTER` seconds.
        """
        self._exchange = exchange
        self._deadline = deadline
        self._clock = clock
        self._stuck = stuck
        # None when the answer is over: a stream of HTTP/2 leads to the request, and that to this.
        self._transport: object = request.channel.transport
        self._watch: SendingWatch | None = None

    def pauseProducing(self) -> None:
        # A client that reads slowly is not the back end's silence.
        self._deadline.pause()
        self._exchange.pauseProducing()
        if self._watch is None and self._transport is not None:
            self._watch = SendingWatch(self._transport, self._clock, _nothing, self._stuck)

    def resumeProducing(self) -> None:
        self._unwatch()
        self._deadline.resume()
        self._exchange.resumeProducing()

    def stopProducing(self) -> None:
        """The client has left, of which the request tells."""

    def end(self) -> None:
        """The answer is over, or whatever is left of it is no longer read."""
        self._unwatch()
        self._transport = None

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()


def _nothing() -> None:
    """What is called when nobody is to be called."""
