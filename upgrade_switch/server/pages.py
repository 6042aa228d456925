"""
The HTTP answers of this package itself: a status, a phrase, and a sentence.
"""

from __future__ import annotations

from html import escape

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

__all__ = ["StatusPage", "service_unavailable", "too_many_requests"]

# RFC 9110 §10.2.3: seconds. A guess at when a place becomes free is all that a server has.
_RETRY_AFTER = b"5"


class StatusPage(Resource):
    """
    A page that says an HTTP status; the same for any path and method. Unlike
    ``twisted.web.pages.errorPage`` it has fields, a length, and a phrase for 426, which Twisted
    does not know.
    """

    isLeaf = True

    def __init__(
        self, code: int, phrase: str, detail: str, fields: dict[bytes, bytes] | None = None
    ) -> None:
        """
        :param code: the status code.
        :param phrase: the reason phrase; the page's title, too.
        :param detail: a sentence for the person who sees the page.
        :param fields: further fields of the answer.
        """
        super().__init__()
        self._code = code
        self._phrase = phrase.encode("ascii")
        self._fields = fields or {}
        title = f"{code} {escape(phrase)}"
        self._body = (
            f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>"
            f"<body><h1>{title}</h1><p>{escape(detail)}</p></body></html>\n"
        ).encode("utf-8", "replace")

    def render(self, request: IRequest) -> bytes:
        request.setResponseCode(self._code, self._phrase)
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        for name, value in self._fields.items():
            request.setHeader(name, value)
        return self._body


def service_unavailable(detail: str) -> StatusPage:
    """A 503 with ``Retry-After`` (RFC 9110 §15.6.4)."""
    return StatusPage(503, "Service Unavailable", detail, {b"retry-after": _RETRY_AFTER})


def too_many_requests(detail: str) -> StatusPage:
    """A 429 with ``Retry-After`` (RFC 6585 §4)."""
    return StatusPage(429, "Too Many Requests", detail, {b"retry-after": _RETRY_AFTER})
