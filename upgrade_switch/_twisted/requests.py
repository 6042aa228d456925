"""
What is private in ``twisted.web.server.Request``.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import IO, Any, Generic, TypeVar

from twisted.web.http_headers import Headers
from twisted.web.server import Request

__all__ = ["LeanRequest", "headers_of"]

T = TypeVar("T")


def headers_of(fields: dict[bytes, list[bytes]]) -> Headers:
    """
    The fields of a message, by their names as Twisted spells them, which becomes theirs. ``Headers``
    itself would look at each name and value.
    """
    headers: Headers = Headers.__new__(Headers)
    headers._rawHeaders = fields
    return headers


class _OnDemand(Generic[T]):
    """
    A part of a request that is made when it is asked for; ``cached_property`` takes a lock, and
    ``__getattr__`` makes all other parts slower.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        """
        :param make: makes it.
        """
        self._make = make

    def __set_name__(self, of: type, name: str) -> None:
        self._name = name

    def __get__(self, request: Any, of: type) -> T:
        made = request.__dict__[self._name] = self._make(request)
        return made


def _content(request: Request) -> IO[bytes] | None:
    """
    The content: empty if the request has none, closed once the client has left, and None once the
    request is finished.
    """
    if "channel" not in request.__dict__:
        # ``finish`` deletes it,
        return None
    if request.channel is None:
        # and ``connectionLost`` sets it to None.
        closed = BytesIO()
        closed.close()
        return closed
    Request.gotLength(request, 0)
    content: IO[bytes] = request.__dict__["content"]
    return content


def _cookies(request: Request) -> dict[bytes, bytes]:
    # parseCookies adds to what is there.
    cookies = request.received_cookies = {}
    request.parseCookies()
    return cookies


def _host(request: Any) -> Any:
    # A channel knows it by heart.
    return (getattr(request, "channel", None) or request.transport).getHost()


def _parses_forms(request: Any) -> bool:
    # Older Twisteds always do.
    parses: bool = getattr(request.channel.site, "_parsePOSTFormSubmission", True)
    return parses


def _no_headers(request: object) -> Headers:
    return headers_of({})


def _headers_sent(request: Any) -> Headers:
    """Of an answer that ``note_answer`` knows, those that were sent; else what each answer says."""
    if not request._sent_head:
        return headers_of(request.said_of_each())
    headers = Headers()
    for line in request._sent_head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        headers.addRawHeader(name, value.strip(b" \t"))
    return headers


class LeanRequest(Request):
    """
    A ``Request`` that makes some of its parts when they are asked for: nobody looks at the cookies of
    most requests, nor at the server's address, and they have no content; and where one switches, nobody
    has said anything of the answer but what each answer says.

    There is no public way: Twisted makes them, and parses the cookies, for each request.
    """

    content = _OnDemand(_content)
    received_cookies = _OnDemand(_cookies)
    host = _OnDemand(_host)
    _parsePOSTFormSubmission = _OnDemand(_parses_forms)
    requestHeaders = _OnDemand(_no_headers)
    responseHeaders = _OnDemand(_headers_sent)

    _sent_head = b""

    def __init__(self, channel: Any, queued: object = False, **others: bool | None) -> None:
        """
        :param others: ``parsePOSTFormSubmission``, as newer Twisteds take it.
        """
        # What the three classes above set here, without what is made on demand; a test compares.
        self.channel, self.transport, self.queued = channel, channel.transport, queued
        self.client = channel.getPeer()
        self.cookies, self.notifications = [], []
        self._adapterCache: dict[object, object] = {}
        parses_forms = others.get("parsePOSTFormSubmission")
        if parses_forms is not None:
            self._parsePOSTFormSubmission = parses_forms

    def make_all(self) -> None:
        """Make whatever is made on demand, and has not been."""
        _ = self.content, self.received_cookies, self.host, self._parsePOSTFormSubmission
        _ = self.requestHeaders, self.responseHeaders

    def said_of_each(self) -> dict[bytes, list[bytes]]:
        """The fields of each answer, by their names as Twisted spells them."""
        return {}

    @property
    def has_response_headers(self) -> bool:
        """Whether anybody has asked for ``responseHeaders``: else they have what each answer says."""
        return "responseHeaders" in self.__dict__

    @property
    def is_unanswered(self) -> bool:
        """Whether nothing has been said of the answer, but for what Twisted says of each."""
        headers = self.__dict__.get("responseHeaders")
        return (
            self._encoder is None
            and (headers is None or self._are_usual(headers._rawHeaders))
            and not (
                self.startedWriting
                or self.cookies
                or self.etag
                or self.lastModified
                or self.producer
                or self._inFakeHead
                or self._disconnected
            )
        )

    def _are_usual(self, fields: dict[bytes, list[bytes]]) -> bool:
        return fields.keys() == self.said_of_each().keys() and all(
            len(values) == 1 for values in fields.values()
        )

    def note_answer(self, code: int, phrase: bytes, head: bytes, size: int) -> None:
        """
        An answer is sent past this request.

        :param head: as it is sent.
        :param size: how many bytes its body has.
        """
        self.code, self.code_message = code, phrase
        self.startedWriting, self.sentLength = 1, size
        self._sent_head = head
        # Who asks for them gets those that were sent.
        self.__dict__.pop("responseHeaders", None)

    def finish_noted(self) -> None:
        """What is left of ``finish`` behind :meth:`note_answer`: the log, and :meth:`end_noted`."""
        factory = self.channel.factory
        if factory is not None:
            factory.log(self)
        self.end_noted()

    def end_noted(self) -> None:
        """What comes behind the log."""
        self.finished = 1
        self._cleanup()

    def _cleanup(self) -> None:
        if self.producer or self.notifications or "content" in self.__dict__:
            super()._cleanup()
            return
        # The rest of it, without a look at what is not there.
        self.channel.requestDone(self)
        del self.channel

    @property
    def has_content(self) -> bool:
        """Whether there may be content. (To look at ``content`` itself would make an empty one.)"""
        return "content" in self.__dict__
