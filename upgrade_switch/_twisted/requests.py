"""
What is private in ``twisted.web.server.Request``.
"""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from typing import IO, Any

from twisted.web.http_headers import Headers
from twisted.web.server import Request

__all__ = ["LeanRequest"]


_SAID_OF_EACH = {b"Server", b"Date"}


class LeanRequest(Request):
    """
    A ``Request`` that makes some of its parts when they are asked for: most requests have no content,
    and nobody looks at their cookies.

    There is no public way: Twisted makes them, and parses the cookies, for each request.
    """

    _sent_head = b""

    def __init__(self, channel: Any, queued: object = False, **others: bool | None) -> None:
        """
        :param others: ``parsePOSTFormSubmission``, as newer Twisteds take it.
        """
        # What the three classes above set here, without what is made on demand; a test compares.
        self.channel = channel
        self.transport = channel.transport
        self.client, self.host = channel.getPeer(), channel.getHost()
        self.requestHeaders, self.responseHeaders = Headers(), Headers()
        self.cookies, self.notifications = [], []
        self.queued = queued
        self._adapterCache: dict[object, object] = {}
        parses_forms = others.get("parsePOSTFormSubmission")
        if parses_forms is None:
            # Older Twisteds always do.
            parses_forms = getattr(channel.site, "_parsePOSTFormSubmission", True)
        self._parsePOSTFormSubmission = parses_forms

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]  # Twisted sets it in __init__
        # parseCookies adds to what is there.
        cookies = self.__dict__["received_cookies"] = {}
        self.parseCookies()
        return cookies

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]  # as above
        """Only of an answer that :meth:`note_answer` knows; any other has been given them."""
        headers = Headers()
        for line in self._sent_head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            headers.addRawHeader(name, value.strip(b" \t"))
        return headers

    @property
    def is_unanswered(self) -> bool:
        """Whether nothing has been said of the answer, but for what Twisted says of each."""
        return (
            self.responseHeaders._rawHeaders.keys() == _SAID_OF_EACH
            and self._encoder is None
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
        del self.__dict__["responseHeaders"]

    def finish_noted(self) -> None:
        """What is left of ``finish`` behind :meth:`note_answer`: the log, and what comes next."""
        factory = self.channel.factory
        if factory is not None:
            factory.log(self)
        self.finished = 1
        self._cleanup()

    @cached_property
    def content(self) -> IO[bytes] | None:  # type: ignore[override]  # as above
        """
        The content: empty if the request has none, closed once the client has left, and None once the
        request is finished.
        """
        if "channel" not in self.__dict__:
            # ``finish`` deletes it,
            return None
        if self.channel is None:
            # and ``connectionLost`` sets it to None.
            closed = BytesIO()
            closed.close()
            return closed
        Request.gotLength(self, 0)
        content: IO[bytes] = self.__dict__["content"]
        return content

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
