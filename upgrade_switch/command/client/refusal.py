"""
What a server says in the body of a refusal: a few words of it for a person.
"""

from __future__ import annotations

import re
from email.message import Message
from html.parser import HTMLParser
from typing import Protocol as TypingProtocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

__all__ = ["text_of"]

# How much of a body is looked at, in bytes, and for how many seconds.
_MOST_BYTES = 16_384
_MOST_SECONDS = 5

# How much of its text is shown, in characters.
_MOST_CHARACTERS = 200

# A tag that does not end.
_CUT_TAG = re.compile(r"<[^>]*\Z")

# Elements whose text is not shown on a page.
_UNSEEN = frozenset({"head", "script", "style", "template", "title"})


def text_of(response: IResponse, clock: IReactorTime) -> Deferred[str]:
    """
    The beginning of a response's body, if that is plain text or HTML.

    :param response: its body must not have been read yet; the connection closes afterwards.
    :return: fires with at most 200 characters in one line, without markup; with an empty string if the
        body is of another type, or does not come. Does not fail.
    """
    content_type = Message()
    lines = response.headers.getRawHeaders(b"content-type") or [b"application/octet-stream"]
    content_type["content-type"] = lines[0].decode("latin-1")
    kind = content_type.get_content_type()
    body = _Beginning()
    response.deliverBody(body)
    if kind not in ("text/plain", "text/html"):
        body.stop()
    limit = clock.callLater(_MOST_SECONDS, body.stop)

    def read(data: bytes) -> str:
        if limit.active():
            limit.cancel()
        if kind not in ("text/plain", "text/html"):
            return ""
        text = _decoded(data, content_type.get_content_charset("utf-8"))
        return _shortened(_without_markup(text) if kind == "text/html" else text)

    return body.done.addCallback(read)


class _BodyTransport(TypingProtocol):
    def loseConnection(self) -> None: ...


class _Beginning(Protocol):
    """
    Reads the beginning of a body, and closes the connection when that is enough.

    :ivar done: fires with the bytes.
    """

    transport: _BodyTransport  # type: ignore[assignment]  # that of a body has less than an ITransport

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) >= _MOST_BYTES:
            self.stop()

    def stop(self) -> None:
        """Read no more."""
        if not self.done.called:
            self.done.callback(self._data[:_MOST_BYTES])
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.callback(self._data)


def _decoded(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace")
    except LookupError:
        # A charset that Python does not know.
        return data.decode("utf-8", "replace")


class _Text(HTMLParser):
    """Collects the text that a page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag == "body":
            # Its start also ends a head that nothing else has ended.
            self._unseen.clear()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _without_markup(page: str) -> str:
    parser = _Text()
    # What is left of a tag at the end, where the page was cut, is no text.
    parser.feed(_CUT_TAG.sub("", page))
    parser.close()
    return " ".join(parser.parts)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= _MOST_CHARACTERS:
        return line
    return line[: _MOST_CHARACTERS - 3].rstrip() + "..."
