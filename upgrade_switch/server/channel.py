"""
:class:`UpgradeChannel`: an ``HTTPChannel`` that can be left on a live connection.

A connection that begins with one of the site's prefaces never becomes HTTP: as long as its first
bytes may become one they wait here, and ``HTTPChannel`` has not seen any. A preface that is a whole
line is looked for between two requests as well (the flag line).

The natural end of a request is the way out. ``Request.finish`` ends in ``HTTPChannel.requestDone``,
which restores the idle timeout and gives every byte that has been read but not parsed to
``setLineMode(extra)``, to be parsed as the next request. While a channel is being left, that call
puts the bytes aside instead, and :meth:`UpgradeChannel.leave` takes the rest off the transport.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any
from weakref import ref

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory

from . import _twisted
from .head import read_head
from .negotiation import connection_options
from .takeover import live_and_die

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory

    from .preface import PrefaceTable
    from .request import CarriedRequest, UpgradeRequest
    from .site import UpgradeSite

__all__ = ["UpgradeChannel", "one_line"]

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
    _reading = False
    _behind = b""
    # The site's prefaces, where it has some; and the first bytes, until it is known what they are.
    _prefaces: PrefaceTable[IProtocolFactory] | None = None
    _undecided: bytes | None = None

    def connectionMade(self) -> None:
        self._prefaces = self.site.prefaces_on(self.transport)
        if self._prefaces is not None:
            self._undecided = b""
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if _twisted.is_closing(transport):
            # TLS goes on delivering after loseConnection; no 400 of ours must be followed by that.
            return
        if self._undecided is not None:
            data = self._undecided + data
            if self._is_preface(data):
                return
        if self.line_mode and not self.requests and not self._reading:
            # The next byte is a request's first, unless a line has begun already.
            begun = self.clearLineBuffer()
            if not begun:
                self._read(data)
                return
            data = begun + data
        super().dataReceived(data)

    def _is_preface(self, data: bytes) -> bool:
        """
        Look at a connection's first bytes. The idle timer, which has run since the connection was
        made, is not set back by them.

        :return: whether they are not HTTP's: they wait for more, or their target has got them.
        """
        prefaces = self._prefaces
        assert prefaces is not None
        if prefaces.may_become_longer(data):
            self._undecided = data
            return True
        self._undecided = None
        factory = prefaces.find(data)
        if factory is None:
            return False
        self._give_to(factory, data)
        return True

    def timeoutConnection(self) -> None:
        """No more came. What is a preface by now belongs to its target, the rest is closed."""
        data, self._undecided = self._undecided, None
        factory = self._prefaces.find(data) if data and self._prefaces is not None else None
        if factory is None or not self._give_to(factory, data or b""):
            super().timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        data, self._undecided = self._undecided, None
        super().connectionLost(reason)
        factory = self._prefaces.find(data) if data and self._prefaces is not None else None
        target = None if factory is None else self.site.target_of(factory, self.transport, ended=True)
        if target is not None:
            # No more comes: it was this preface, and no longer one.
            live_and_die(self.transport, target, data or b"", reason)

    def lineReceived(self, line: bytes) -> None:
        if _twisted.is_closing(self.transport):
            return
        prefaces = self._prefaces
        if prefaces is not None and not self.requests and self.persistent:
            # A request's first line, or a flag line.
            flag = line + b"\r\n"
            factory = prefaces.find(flag) if flag in prefaces.lines else None
            if factory is not None:
                self._give_to(factory, flag + self.clearLineBuffer())
                return
        super().lineReceived(line)

    def _give_to(self, factory: IProtocolFactory, data: bytes) -> bool:
        """
        Give a connection that is not in the middle of a request to another protocol.

        :param data: all that was read and is not HTTP's.
        :return: False where there is no target: then the connection is closed, since there is no
            request that could be answered; the idle timer sees to it that it ends.
        """
        transport: Any = self.transport
        target = self.site.target_of(factory, transport)
        if target is None:
            self.loseConnection()
            return False
        slot = _twisted.slot_of(transport, self)
        self.setTimeout(None)
        self._let_go()
        connection = self.site.switched.enter(transport, None, b"", target)
        self.site.give(connection, transport, slot, target, data)
        return True

    def _read(self, data: bytes) -> None:
        """
        Read requests, in one go where it can be done (``head.py``).

        What is behind a request is put where :meth:`setLineMode` finds it if the request switches.
        """
        transport: Any = self.transport
        self._reading = True
        try:
            while data and self.line_mode and not self.requests and not _twisted.is_closing(transport):
                if self._prefaces is not None and data.startswith(self._prefaces.lines):
                    break
                head = read_head(data, self.totalHeadersSize, self.maxHeaders)
                if head is None:
                    break
                self._behind = data[head.length :]
                self._begin(b"GET", head.target, head.fields)
                data, self._behind = self._behind, b""
            if data and not _twisted.is_closing(transport):
                super().dataReceived(data)
        finally:
            self._reading = False

    def _begin(
        self,
        method: bytes,
        target: bytes,
        fields: Iterable[tuple[bytes, bytes]],
        content: IO[bytes] | None = None,
    ) -> None:
        """Have a request processed; what ``HTTPChannel`` does with one, line by line."""
        factory: Any = self.requestFactory
        if INonQueuedRequestFactory.providedBy(factory):
            request = factory(self)
        else:
            request = factory(self, len(self.requests))
        self.requests.append(request)
        _twisted.set_fields(request.requestHeaders, fields)
        request.parseCookies()
        self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        request.gotLength(0)
        if content is not None:
            request.content = content
        _twisted.content_received(self, method, target, b"HTTP/1.1")

    def answer(self, carried: CarriedRequest) -> None:
        """
        Answer, as the first on this connection, a request that came on what is beneath it.
        """
        # The preface is a connection's first bytes: that was before.
        self._undecided = None
        self._begin(carried.method, carried.target, carried.fields, carried.content)

    def headerReceived(self, line: bytes) -> bool:
        if self._is_wrong_framing(line):
            # Sends the 400 that every length which is no number gets.
            line = b"Content-Length: none"
        received: bool = super().headerReceived(line)
        return received

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Refuse a request line (RFC 9112 §3) or a header line (RFC 6585 §5) longer than Twisted reads.
        Twisted closes without a word, and over TLS, whose producer the channel still is, not even that.
        """
        status = b"431 Request Header Fields Too Large" if self.requests else b"414 URI Too Long"
        transport: Any = self.transport
        transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.loseConnection()

    def _is_wrong_framing(self, line: bytes) -> bool:
        """
        Whether a header line frames a content of more bytes than there are, or that of a CONNECT, which
        has none (RFC 9110 §9.3.6): what follows may be anything.
        """
        name = line[:18].lower()
        if not name.startswith((b"content-length:", b"transfer-encoding:")):
            return False
        if _twisted.method_of(self) == b"CONNECT":
            return True
        return name.startswith(b"c") and len(line[15:].strip(b" \t")) > _MOST_LENGTH_DIGITS

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
        super().writeHeaders(version, code, one_line(reason), _spaced(headers))

    def write_switch(self, code: int, phrase: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """
        Write a response that ends HTTP (RFC 9110 §15.2.2, §9.3.6).

        :param fields: its fields, in their canonical spelling.
        """
        lines = [b"HTTP/1.1 %d %b" % (code, phrase)]
        lines += [name + b": " + value for name, value in fields]
        head = b"\r\n".join(lines)
        if b"\0" in head or not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
            head = b"\r\n".join(one_line(line) for line in lines)
        _twisted.write_at_once(self.transport, head + b"\r\n\r\n")

    def leave(self, request: UpgradeRequest) -> bytes:
        """
        Finish the request that switches, and take everything that is HTTP's off the connection.

        Afterwards no timer of the channel's runs (the idle timer has stood still since the request
        was read, and is not started again), it is no longer the transport's producer, and
        nothing refers to the request. The transport is whose the caller gives it to; until then
        its bytes still come here.

        :param request: the one request on this channel; the head of its 101 has been written.
        :return: the trailing data: all that was read behind the request. It belongs to the target.
        """
        self._leaving = True
        self.setTimeout = _no_timeout  # type: ignore[method-assign]
        # Else requestDone closes the connection: a client may well say "close, Upgrade".
        self.persistent = True
        request.finish()
        self._let_go()
        trailing, self._trailing = self._trailing, b""
        return trailing

    def _let_go(self) -> None:
        _twisted.keep_off(self)
        transport: Any = self.transport
        transport.unregisterProducer()

    def setLineMode(self, extra: bytes = b"") -> None:
        if self._leaving:
            self._trailing = extra + self.clearLineBuffer() + self._behind
            self._behind = b""
        else:
            super().setLineMode(extra)


def _no_timeout(period: float | None) -> None:
    """In place of a channel's ``setTimeout``, while it is being left."""


def one_line(value: bytes) -> bytes:
    """A field's value without CR, LF and NUL: spaces are in their place (RFC 9110 §5.5)."""
    return value.translate(_SPACED)


def _spaced(headers: Headers) -> Headers:
    """The headers, without CR, LF and NUL in any value; the same object where there are none."""
    clean = headers
    for name, values in headers.getAllRawHeaders():
        if any(len(value.translate(None, _DANGEROUS)) != len(value) for value in values):
            if clean is headers:
                clean = headers.copy()
            clean.setRawHeaders(name, [one_line(value) for value in values])
    return clean
