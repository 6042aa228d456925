"""
The ``IResponse`` to a request with Upgrade, and the way of its body.

Twisted's own ``Response`` is not meant to be made by others, and its parser keeps ``Upgrade`` and
``Connection`` from it, which a client wants to see here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import finalize

import h11
from twisted.internet.defer import AlreadyCalledError
from twisted.internet.interfaces import IProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import directlyProvides, implementer, providedBy

from .. import _twisted
from ..interfaces import IStreamTransport

if TYPE_CHECKING:
    from ..connection import SwitchedConnection
    from .request import ClientRequest

__all__ = ["AnswerHead", "Body", "UpgradeResponse", "body_done", "empty_body", "head_of"]


class AnswerHead(NamedTuple):
    """The head of an answer, of any version of HTTP."""

    version: tuple[bytes, int, int]
    """As an ``IResponse`` has it: ``(b"HTTP", 1, 1)``."""
    code: int
    phrase: bytes
    fields: Sequence[tuple[bytes, bytes]]


def head_of(head: h11.Response | h11.InformationalResponse) -> AnswerHead:
    """The head of an answer that h11 has read."""
    major, _, minor = head.http_version.partition(b".")
    version = (b"HTTP", int(major), int(minor))
    return AnswerHead(version, head.status_code, bytes(head.reason), head.headers.raw_items())


@implementer(IPushProducer)
class _NoTransport:
    """
    The transport that the reader of a 101's empty body gets: pausing or aborting it does nothing, for
    the connection lives on.
    """

    disconnecting = False

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass

    def loseConnection(self) -> None:
        pass

    def abortConnection(self) -> None:
        pass


class _ReadersTransport:
    """
    The transport of a body's reader: the connection's, of which it is known whether the reader has
    aborted it.
    """

    def __init__(self, transport: IStreamTransport) -> None:
        self._transport = transport
        self.was_aborted = False
        directlyProvides(self, providedBy(transport))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def abortConnection(self) -> None:
        self.was_aborted = True
        _twisted.abort(self._transport)


class Body:
    """
    The body of a response while it arrives. The transport is paused until the body has a reader; what
    came with the head is kept, so at most one read waits.
    """

    def __init__(self, transport: IStreamTransport) -> None:
        """
        :param transport: what the body comes from. It is paused, and resumed for the reader.
        """
        self._transport = transport
        self._readers_transport = _ReadersTransport(transport)
        self._reader: IProtocol | None = None
        self._chunks: list[bytes] = []
        self._end: Failure | None = None
        self._taken = False
        transport.pauseProducing()

    def write(self, data: bytes) -> None:
        """Called with each piece of the body."""
        if self._reader is None:
            self._chunks.append(data)
        else:
            self._reader.dataReceived(data)

    def finish(self, reason: Failure) -> None:
        """
        Called at the end of the body; only the first call counts.

        :param reason: why it has ended, as the reader's ``connectionLost`` gets it.
        """
        if self._end is None:
            self._end = reason
            if self._reader is not None:
                reader, self._reader = self._reader, None
                try:
                    reader.connectionLost(reason)
                except AlreadyCalledError:
                    # readBody's, whose Deferred was cancelled: it aborts, and then hears of the end.
                    if not self._readers_transport.was_aborted:
                        raise

    def deliver(self, reader: IProtocol) -> None:
        """
        Give the body to its reader.

        :raises RuntimeError: if it has one already.
        """
        if self._taken:
            raise RuntimeError("the body has been given to a protocol already")
        self._taken = True
        reader.makeConnection(cast(ITransport, self._readers_transport))
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            reader.dataReceived(chunk)
        if self._end is not None:
            reader.connectionLost(self._end)
        else:
            self._reader = reader
            self._transport.resumeProducing()

    def abandon(self) -> None:
        """Called when nobody can read the body any more: one that was never read is cut off."""
        if not self._taken and self._end is None:
            _twisted.abort(self._transport)


@implementer(IResponse)
class UpgradeResponse:
    """
    The ``IResponse`` to a request with Upgrade. Unlike Twisted's it has all fields of the answer
    among its ``headers``, ``Upgrade`` and ``Connection`` too.

    :ivar connection: the :class:`SwitchedConnection` if the server has switched (with a 101; over
        HTTP/2, with a 200); else None.
    """

    def __init__(
        self,
        head: AnswerHead,
        request: ClientRequest,
        body: Body,
        connection: SwitchedConnection | None = None,
    ) -> None:
        self.version = head.version
        self.code = head.code
        self.phrase = head.phrase
        self.headers = Headers()
        for name, value in head.fields:
            self.headers.addRawHeader(name, value)
        self.length = 0 if connection is not None else self._declared_length(request)
        self.request = request
        self.previousResponse: IResponse | None = None
        self.connection = connection
        self._body = body
        # A body that is left unread (a redirect's, say) would keep its connection open. Not
        # `__del__`: in a cycle with the response (a failure's traceback), the socket would be
        # finalised before it is closed.
        finalize(self, body.abandon).atexit = False

    def _declared_length(self, request: ClientRequest) -> int | str:
        if request.method == b"HEAD" or self.code in (204, 304):
            return 0
        if self.headers.hasHeader(b"transfer-encoding"):
            return UNKNOWN_LENGTH
        lengths = self.headers.getRawHeaders(b"content-length") or ()
        return int(lengths[0].partition(b",")[0]) if lengths else UNKNOWN_LENGTH

    def deliverBody(self, protocol: IProtocol) -> None:
        """
        Give the body to a protocol, once: ``dataReceived``, then ``connectionLost`` with
        ``ResponseDone``, or with ``ResponseFailed`` if it was cut off.
        """
        self._body.deliver(protocol)

    def setPreviousResponse(self, response: IResponse) -> None:
        self.previousResponse = response


def body_done() -> Failure:
    """The reason for the end of a body that has been read completely."""
    return Failure(ResponseDone("Response body fully received"))


def empty_body() -> Body:
    """The body of a 101."""
    # As with Twisted's own responses, a reader can pause and abort it, and nothing else.
    body = Body(cast(IStreamTransport, _NoTransport()))
    body.finish(body_done())
    return body
