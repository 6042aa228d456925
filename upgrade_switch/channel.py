"""
:class:`UpgradeChannel`: an ``HTTPChannel`` that can be left on a live connection.

The natural end of a request is the way out. ``Request.finish`` ends in ``HTTPChannel.requestDone``,
which restores the idle timeout and gives every byte that has been read but not parsed to
``setLineMode(extra)``, to be parsed as the next request. While a channel is being left, that call
puts the bytes aside instead, and :meth:`UpgradeChannel.leave` takes the rest off the transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers

from . import _twisted
from .negotiation import connection_options

if TYPE_CHECKING:
    from .request import UpgradeRequest
    from .site import UpgradeSite

__all__ = ["UpgradeChannel"]

# RFC 9110 §5.5: CR, LF and NUL are dangerous in a field; each becomes a SP.
_DANGEROUS = b"\r\n\0"
_SPACED = bytes.maketrans(_DANGEROUS, b"   ")

# More digits than any body has: int() refuses 4,300 of them with a ValueError, which Twisted lets
# escape into the log, with a traceback, for every connection that sends them.
_MOST_LENGTH_DIGITS = 18


class UpgradeChannel(HTTPChannel):
    """
    Twisted's HTTP/1.1 server protocol, with the takeover hook. Built by ``UpgradeSite``.
    """

    # Set by twisted.web's factories.
    site: UpgradeSite
    # What stands between transport and channel, weakly; set by whoever builds it.
    proxy: ref[Any] | None = None

    _leaving = False
    _trailing = b""

    def dataReceived(self, data: bytes) -> None:
        # TLS goes on delivering after loseConnection, which no 400 of ours must be followed by.
        if not _twisted.is_closing(self.transport):
            super().dataReceived(data)

    def headerReceived(self, line: bytes) -> bool:
        if len(line) > _MOST_LENGTH_DIGITS and line[:15].lower() == b"content-length:":
            digits = line[15:].strip(b" \t")
        else:
            digits = b""
        if len(digits) > _MOST_LENGTH_DIGITS:
            # Sends the 400 that every length which is no number gets.
            line = b"Content-Length: none"
        received: bool = super().headerReceived(line)
        return received

    def checkPersistence(self, request: UpgradeRequest, version: bytes) -> bool:
        """
        Whether the connection stays open after the response: for HTTP/1.1, unless any of the
        Connection lines says ``close`` (RFC 9112 §9.3). Twisted reads the first line only, and
        splits it at spaces.
        """
        lines = request.requestHeaders.getRawHeaders(b"connection") or ()
        if version == b"HTTP/1.1" and "close" not in connection_options(lines):
            return True
        if version == b"HTTP/1.1":
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """
        Write a response's head. CR, LF and NUL in the phrase or in a field become spaces, wherever
        they come from (RFC 9110 §5.5): Twisted lets them through in the phrase, and NUL anywhere.
        """
        super().writeHeaders(version, code, reason.translate(_SPACED), _spaced(headers))

    def leave(self, request: UpgradeRequest) -> bytes:
        """
        Finish the request that switches, and take everything that is HTTP's off the connection.

        Afterwards no timer of the channel's runs, it is no longer the transport's producer, and
        nothing refers to the request. The transport is whose the caller gives it to; until then
        its bytes still come here.

        :param request: the one request on this channel; the head of its 101 has been written.
        :return: the trailing data: all that was read behind the request. It belongs to the target.
        """
        self._leaving = True
        # Else requestDone closes the connection: a client may well say "close, Upgrade".
        self.persistent = True
        request.finish()
        self.setTimeout(None)
        transport: Any = self.transport
        transport.unregisterProducer()
        trailing, self._trailing = self._trailing, b""
        return trailing

    def setLineMode(self, extra: bytes = b"") -> None:
        if self._leaving:
            self._trailing = extra + self.clearLineBuffer()
        else:
            super().setLineMode(extra)


def _spaced(headers: Headers) -> Headers:
    """The headers, without CR, LF and NUL in any value; the same object where there are none."""
    clean = headers
    for name, values in headers.getAllRawHeaders():
        if any(len(value.translate(None, _DANGEROUS)) != len(value) for value in values):
            if clean is headers:
                clean = headers.copy()
            clean.setRawHeaders(name, [value.translate(_SPACED) for value in values])
    return clean
