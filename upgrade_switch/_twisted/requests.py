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


class LeanRequest(Request):
    """
    A ``Request`` that makes some of its parts when they are asked for: most requests have no content,
    and nobody looks at their cookies.

    There is no public way: Twisted makes them, and parses the cookies, for each request.
    """

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

    @property
    def has_content(self) -> bool:
        """Whether there may be content. (To look at ``content`` itself would make an empty one.)"""
        return "content" in self.__dict__
