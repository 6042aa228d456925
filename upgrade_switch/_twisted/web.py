"""
What is private in ``twisted.web``'s HTTP/1.1, on the server's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.guard import HTTPAuthSessionWrapper
from twisted.web.http import HTTPChannel, _MalformedChunkedDataError, _NoPushProducer
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, _IEncodingResource
from twisted.web.server import Request

from ..fields import MOST_LISTS_OF_NAMES, says_continue
from .ends import register_producer
from .sockets import send_small_parts

__all__ = [
    "LateChannel",
    "RefusingChannel",
    "behind_login",
    "by_name",
    "canonical",
    "detach_flow_control",
    "feed_content",
    "forget_content",
    "forget_encoder",
    "has_begun_line",
    "has_read_ahead",
    "method_of",
    "raw_fields",
    "replace_fields",
    "request_line_of",
    "set_encoder",
    "set_request_line",
    "stop_reading_lines",
    "take_read_ahead",
]


def set_request_line(channel: HTTPChannel, method: bytes, target: bytes, version: bytes) -> None:
    """
    Give a channel the request line of the last of its ``requests``, which its ``allContentReceived``
    needs. The channel does that itself when it reads line by line, and only it knows it then.
    """
    channel._command, channel._path, channel._version = method, target, version


def stop_reading_lines(channel: HTTPChannel) -> None:
    """
    Have a channel that has read no line keep what comes until the request is done that it has been
    given: what its ``allContentReceived`` does besides forgetting the lines.
    """
    if channel.timeOut:
        channel._savedTimeOut = channel.setTimeout(None)
    channel._handlingRequest = True
    channel.setRawMode()


class AskingChannel(HTTPChannel):
    """
    An ``HTTPChannel`` that asks before it sends a 100 (Continue): Twisted sends one for each request
    that expects it, and cannot be told not to. It also looks no further than the first line of Expect,
    and takes that for one expectation.
    """

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        lines = raw_fields(self.requests[-1].requestHeaders).get(b"Expect", [])
        is_overlooked = bool(lines) and lines[0].lower() != b"100-continue"
        if is_overlooked and says_continue(lines) and self._version == b"HTTP/1.1":
            self._send100Continue()

    def sends_continue(self) -> bool:
        """Whether the request whose head has been read gets its 100 (Continue) now."""
        return True

    def _send100Continue(self) -> None:
        if self.sends_continue():
            super()._send100Continue()


class LateChannel(AskingChannel):
    """
    An ``HTTPChannel`` that registers itself as its transport's producer, and has TCP send small parts
    at once, when it first answers or has to pace the transport; Twisted's does so when it is connected,
    and there is no public way to have it otherwise. A connection that switches needs neither.
    """

    #: Whether the channel is its transport's producer.
    is_producer = False

    @cached_property
    def _networkProducer(self) -> Any:  # type: ignore[override]  # Twisted sets it
        send_small_parts(self.transport)
        producer: Any = IPushProducer(self.transport, _NoPushProducer())
        register_producer(producer, self)
        self.is_producer = True
        return producer

    def become_producer(self) -> None:
        """Register, if that has not been done."""
        _ = self._networkProducer

    def loseConnection(self) -> None:
        if self.is_producer:
            super().loseConnection()
        elif self.transport is not None:
            self.transport.loseConnection()


class RefusingChannel:
    """What stands in a channel's place, and can be told by a request that it is a bad one."""

    def refuse_request(self) -> None:
        """Answer 400."""
        raise NotImplementedError

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse_request()


def request_line_of(channel: HTTPChannel) -> tuple[bytes, bytes, bytes]:
    """
    Method, target and version of the request whose head a channel has read: it gives them to the
    request only behind the content.
    """
    return channel._command, channel._path, channel._version


def feed_content(channel: HTTPChannel, data: bytes) -> bool:
    """
    Give bytes to what reads the content of a channel's request. The channel's own ``rawDataReceived``
    does not while it is at work on a request.

    :return: False if they break the chunked grammar.
    """
    try:
        decoder = channel._transferDecoder
        assert decoder is not None
        decoder.dataReceived(data)
    except _MalformedChunkedDataError:
        return False
    return True


def forget_content(channel: HTTPChannel) -> None:
    """
    Forget what reads the content of a channel's request, when the connection has ended: it refers to
    the channel, and would keep it until the garbage collector runs.
    """
    channel._transferDecoder = None


def set_encoder(request: Request, resource: IResource) -> None:
    """
    Have a resource's response encoded if it says so (``EncodingResourceWrapper``), as
    ``Request.process`` does with what it looks up itself.
    """
    if _IEncodingResource.providedBy(resource):
        encoder = resource.getEncoder(request)
        if encoder is not None:
            request._encoder = encoder


def behind_login(resource: object) -> object:
    """
    What a login of ``twisted.web.guard`` leads to. Guard wraps that, so as to call the logout when it
    has been rendered, in a class that it makes anew for each login.
    """
    found: Any = resource
    while type(found).__module__ == _GUARD and type(found).__name__ == "ResourceWrapper":
        found = found.resource
    return found


_GUARD = HTTPAuthSessionWrapper.__module__


def method_of(channel: HTTPChannel) -> bytes:
    """
    The method of the request whose fields a channel is reading: public only when all have been read.
    """
    method: bytes = channel._command
    return method


def has_begun_line(channel: HTTPChannel) -> bool:
    """Whether a channel has read the beginning of a line. Its buffer can only be emptied in public."""
    return bool(channel._buffer)


def has_read_ahead(channel: HTTPChannel) -> bool:
    """
    Whether a channel has read bytes behind the request that it is at work on: they wait in the line
    buffer, or behind a body in a buffer of the channel's own.
    """
    return bool(channel._buffer or any(channel._dataBuffer))


#: The fields of a message by their names, as Twisted spells them: ``Host``, ``Www-Authenticate``. It
#: costs a tenth of ``getRawHeaders``, which normalises a name each time. What is changed here is
#: changed in the headers; the values have no CR and LF.
raw_fields: Callable[[Headers], dict[bytes, list[bytes]]] = attrgetter("_rawHeaders")


def take_read_ahead(channel: HTTPChannel) -> bytes:
    """Take what :func:`has_read_ahead` asks about. Only the line buffer can be emptied in public."""
    waiting, channel._dataBuffer = channel._dataBuffer, []
    read_ahead: bytes = b"".join(waiting) + channel.clearLineBuffer()
    return read_ahead


@lru_cache(1000)
def canonical(name: bytes) -> bytes:
    """A field's name as Twisted's ``Headers`` spell it."""
    headers = Headers()
    headers.addRawHeader(name, b"")
    ((canonical, _),) = headers.getAllRawHeaders()
    return canonical


def by_name(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """
    The values of each name, as :func:`raw_fields` has them, of a message that is known to be valid.
    ``addRawHeader`` would look for CR and LF in each value, and normalise each name anew.
    """
    sent, values_sent = zip(*fields, strict=True) if fields else ((), ())
    names = _canonical_names(sent)
    # A list of each value, made without a call.
    values = dict(zip(names, map(list, zip(values_sent, strict=True)), strict=True))
    if len(values) < len(names):
        values = {name: [] for name in names}
        for name, (_, value) in zip(names, fields, strict=True):
            values[name].append(value)
    return values


@lru_cache(MOST_LISTS_OF_NAMES)
def _canonical_names(names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Whoever sends several messages uses the same names in them."""
    return tuple(map(canonical, names))


def replace_fields(
    headers: Headers, fields: Sequence[tuple[bytes, bytes]], besides: bytes | None = None
) -> None:
    """
    Set the fields of a message that is known to be valid, in place of what is there of the same names.

    :param besides: the name of a field that is added to what is there.
    """
    replacing = by_name(fields)
    values = headers._rawHeaders
    if besides is not None and besides in values and besides in replacing:
        replacing[besides] = [*values[besides], *replacing[besides]]
    values.update(replacing)


def detach_flow_control(channel: HTTPChannel) -> None:
    """
    Keep a channel from pausing and resuming its transport, as it does not while it is at work on a
    request. It would when it has been left, since a request may switch in the middle of the channel's
    ``pauseProducing`` or ``resumeProducing``; and while the content of a request is still being read.
    """
    channel._handlingRequest = True


def forget_encoder(request: Request) -> None:
    """
    Take a content encoding off a response (``EncodingResourceWrapper`` sets it before a resource
    renders): its ``finish`` would write the end of a gzip stream behind the 101.
    """
    if request._encoder is not None:
        request._encoder = None
        request.responseHeaders.removeHeader(b"content-encoding")
