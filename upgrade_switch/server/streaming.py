"""
:class:`StreamingRequest`: a ``twisted.web.server.Request`` whose resource is looked up at its head, and
may take the content while it comes.

``HTTPChannel`` calls ``gotLength`` behind the head of a request, in front of its content. If there is
a content, the resource is looked up there, once. One that provides
:class:`~upgrade_switch.interfaces.IStreamsContent` is rendered then; with any other, the request waits
for its whole content, as all requests of Twisted's do, and then uses what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from io import SEEK_END, BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request
from twisted.web.util import DeferredResource

from .. import _twisted
from .._twisted import raw_fields, set_encoder
from ..errors import InvalidArgument
from ..fields import options_without, says_continue, split_absolute
from ..interfaces import CarriedRequest, IStreamsContent, IUpgradeSite
from .content import ContentState, ContentStream, IContentSource
from .head import segments_of, what_is_wrong
from .heads import http_date, usual_fields

__all__ = ["StreamingRequest"]

# Bytes of a request's content; what Twisted has for those whose length is known.
_MOST_IN_MEMORY = 100_000

CONTINUE, SWITCHING_PROTOCOLS, OK = 100, 101, 200


class _Found(NamedTuple):
    """What a request's head has led to, and what the request was when it had."""

    resource: IResource | Failure
    """The addressed resource, or why there is none."""
    is_direct: bool
    """Whether the site's tree has it, rather than a ``DeferredResource`` there."""
    sent_path: bytes
    """The path before the resource was looked up, which may change it, and the following."""
    method: bytes
    uri: bytes
    path: bytes
    args: dict[bytes, list[bytes]]


class StreamingRequest(_twisted.LeanRequest):
    """
    The part of :class:`~upgrade_switch.UpgradeRequest` that deals with heads and content.
    """

    # Any: an HTTP/1.1 channel, or whatever a stream of HTTP/2 has in its place.
    channel: Any
    site: IUpgradeSite  # type: ignore[assignment]  # twisted.web has a Site, or None, here
    #: What answers it in place of the resource that it names, which has been asked already.
    decided: IResource | None = None
    _bad_request: str | None = None
    # The request's target, in origin-form, once the head has been looked at.
    _target: bytes | None = None
    _found: _Found | None = None
    _is_streamed = False
    _content_stream: ContentStream | None = None
    _as_sent: tuple[bytes, Headers] | None = None
    _told_if_left: Callable[[Failure], object] | None = None

    # The head.

    def gotLength(self, length: int | None) -> None:
        """
        Look the resource up, if content is to follow. (Without one, it is looked up when the request is
        processed.)

        :param length: of the content; None if that is not known.
        """
        if length == 0:
            return
        source = self.channel
        if IContentSource.providedBy(source):
            self.content = BytesIO()
            self._look_at_head(*source.request_line())
            found = self._found
            if found is not None and IStreamsContent.providedBy(_twisted.behind_login(found.resource)):
                self._is_streamed = True
                waits = self.clientproto != b"HTTP/1.0" and self._says_continue()
                self._content_stream = ContentStream(source.pace, None, length, waits)
                source.stream_into(self._content_stream)
                return
        # Twisted opens a file for each content of unknown length, however small: with HTTP/2 a hundred
        # on each connection.
        if length is None or length >= _MOST_IN_MEMORY:
            self.content = SpooledTemporaryFile(_MOST_IN_MEMORY)  # noqa: SIM115 - finish closes it
        else:
            super().gotLength(length)

    def _says_continue(self) -> bool:
        lines = raw_fields(self.requestHeaders).get(b"Expect")
        return lines is not None and says_continue(lines)

    def _look_at_head(self, method: bytes, target: bytes, version: bytes) -> None:
        target = self._accept_head(method, target, version)
        if self._bad_request is not None or method == b"CONNECT" or target == b"*":
            # The tree has no part in the answer.
            return
        self._set_target(method, target, version)
        self._split_path()
        sent_path = self.path
        resource: IResource | Failure
        is_direct = True
        try:
            in_tree = self.site.getResourceFor(self)
            resource = _resolved(in_tree, self)
            is_direct = resource is in_tree
        except Exception:
            resource = Failure()
        self._found = _Found(
            resource, is_direct, sent_path, self.method, self.uri, self.path, self.args
        )

    def _set_target(self, method: bytes, target: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = method, target, version
        self.path, _, query = target.partition(b"?")
        self.args = parse_qs(query, True) if query else {}

    def said_of_each(self) -> dict[bytes, list[bytes]]:
        return {name: [value] for name, value in usual_fields(http_date())}

    def _split_path(self) -> None:
        """Prepare to look a resource up, as ``Request.process`` does."""
        self.prepath, self.postpath = [], segments_of(self.path)

    def _accept_head(self, method: bytes, target: bytes, version: bytes) -> bytes:
        """
        Look at what HTTP asks of every request, once. A target in absolute-form (RFC 9112 §3.2.2)
        becomes origin-form, and its authority the Host, before anybody sees the request.

        :return: the target.
        """
        if self._target is None:
            self.site = self.channel.site
            fields = raw_fields(self.requestHeaders)
            self._bad_request = what_is_wrong(fields, version)
            if self._bad_request is None and not target.startswith(b"/") and method != b"CONNECT":
                target = self._origin_form(method, target)
            self._target = target
        return self._target

    def _origin_form(self, method: bytes, target: bytes) -> bytes:
        parts = split_absolute(target)
        if parts is None:
            return target
        authority, rest = parts
        if not authority:
            self._bad_request = "The request's target is not an http or https URL."
            return target
        self.requestHeaders.setRawHeaders(b"host", [authority])
        return rest or (b"*" if method == b"OPTIONS" else b"/")

    # The content.

    def handleContentChunk(self, data: bytes) -> None:
        if self._is_streamed and self._content_stream is not None:
            self._content_stream.received(data)
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The content has come to its end. A request that does not stream it is processed now."""
        if self._is_streamed and self._content_stream is not None:
            self._content_stream.ended()
            return
        target = self._accept_head(command, path, version)
        if "content" in self.__dict__:
            super().requestReceived(command, target, version)
        else:
            # There is none, and so no form's arguments in it.
            self._set_target(command, target, version)
            self.process()

    def process(self) -> None:
        found, self._found = self._found, None
        if found is None or not (self._is_streamed or self.path == found.sent_path):
            # Nothing has been looked up, or a subclass has since said what to look up.
            self._process_from_here()
            return
        if not self._is_streamed:
            # What has been read meanwhile is what was sent.
            self.method, self.uri, self.path = found.method, found.uri, found.path
            self.args = {**found.args, **self.args}
            if self.has_response_headers and self.responseHeaders.hasHeader(b"date"):
                self.setHeader(b"date", http_date())
        if isinstance(found.resource, Failure):
            self.processingFailed(found.resource)
            return
        try:
            if found.is_direct:
                set_encoder(self, found.resource)
            self.render(found.resource)
        except BaseException:
            self.processingFailed(Failure())

    def _process_from_here(self) -> None:
        """What ``Request.process`` does, which makes Server and Date anew for each request."""
        if self.path == b"*":
            super().process()
            return
        self._split_path()
        try:
            resource = self.site.getResourceFor(self)
            if self.decided is not None:
                resource, self.decided = self.decided, None
            set_encoder(self, resource)
            self.render(resource)
        except BaseException:
            self.processingFailed(Failure())

    @property
    def has_unread_content(self) -> bool:
        """Whether the content is streamed, and has not been read to its end."""
        stream = self._content_stream
        return self._is_streamed and stream is not None and stream.state is not ContentState.READ

    def stream_content(self, consumer: IConsumer) -> Deferred[None]:
        """
        Give the request's content to a consumer: ``registerProducer(producer, True)`` at once,
        ``write`` for each piece, ``unregisterProducer`` at the end. If the resource provides
        :class:`~upgrade_switch.interfaces.IStreamsContent`, the content comes right from the
        connection, which is not read while the consumer pauses the producer; at most 16 KiB, and what
        came with them, are read before this is called. The content of any other request is in
        ``request.content``, and comes from there. Trailer fields are dropped.

        If the request is finished first, the consumer gets no more but ``unregisterProducer``.

        :param consumer: any ``IConsumer``. If it raises, it gets no more.
        :return: fires (None) behind the last byte. It fails with the connection's reason if the client
            leaves before that, with ``InvalidContent`` if the content breaks the chunked grammar (the
            client has been answered 400), with what the consumer raises, and with ``CancelledError`` if
            the request is finished, the consumer calls ``stopProducing``, or it is cancelled.
        :raises AlreadyStreamed: when called again.
        """
        stream = self._content_stream
        if stream is None:
            stream = self._content_stream = ContentStream(file=self.content)
            if self.content is None:
                # The request is over.
                stream.give_up()
        return stream.stream_to(consumer)

    def take_content(self) -> bytes | None:
        """The whole content, in place of :meth:`stream_content`; None if that has to stream it."""
        return self._content_stream.take() if self._content_stream is not None else None

    @property
    def expects_continue(self) -> bool:
        """
        Whether the client waits for a 100 (Continue) before it sends the content, which a resource
        that provides :class:`~upgrade_switch.interfaces.IStreamsContent` sends itself: see
        :meth:`send_informational`. If it answers without one, the connection is closed.
        """
        return self._content_stream is not None and self._content_stream.awaits_continue

    def send_informational(
        self, code: int, phrase: bytes = b"", fields: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """
        Send an interim response (RFC 9110 §15.2), such as 100 (Continue) or 103 (Early Hints). Where
        that cannot be, nothing happens: with HTTP/1.0, once the response has begun, and when
        the client has left.

        :param code: from 100 to 199, but not 101, for which there is ``switch_to``.
        :param phrase: the reason phrase; if empty, the usual one.
        :param fields: names and values. CR, LF and NUL in them become spaces.
        :raises InvalidArgument: if it is another code.
        """
        if not CONTINUE <= code < OK or code == SWITCHING_PROTOCOLS:
            raise InvalidArgument(f"an interim response is 100 or 102 to 199, not {code!r}")
        channel = getattr(self, "channel", None)
        if channel is None or self.clientproto == b"HTTP/1.0" or self.startedWriting:
            return
        channel.write_informational(code, phrase or RESPONSES.get(code, b""), fields)
        if code == CONTINUE and self._content_stream is not None:
            self._content_stream.continued()

    # What is asked, for another protocol.

    def keep_as_sent(self) -> None:
        """Remember target and fields, the first time, for :meth:`carry`."""
        if self._as_sent is None:
            self._as_sent = self.uri, self.requestHeaders.copy()

    def carry(self, *named: bytes) -> CarriedRequest:
        """
        Take off what this request asks for, so that the protocol that it switches to can answer it.
        The content goes with it; this request has an empty one from now on.

        :param named: further fields that belong to the connection (RFC 9110 §7.6.1); they are left out,
            as Upgrade is.
        """
        content: Any = self.content
        self.content = BytesIO()
        # What was set on the way to the resource is set again when the request is answered.
        self.cookies = []
        uri, headers = self._as_sent or (self.uri, self.requestHeaders)
        dropped = {name.lower() for name in (b"upgrade", *named)}
        fields: list[tuple[bytes, bytes]] = []
        for name, values in headers.getAllRawHeaders():
            if name.lower() == b"connection":
                values = _without(values, dropped)
            if name.lower() not in dropped:
                fields.extend((name, value) for value in values)
        content.seek(0, SEEK_END)
        return CarriedRequest(self.method, uri, fields, content)

    # The end.

    def render(self, resource: IResource) -> None:
        # A client may leave while its resource is looked for (DeferredResource): nobody can answer it.
        if getattr(self, "channel", self) is not None:
            super().render(resource)

    def when_left(self, told: Callable[[Failure], object]) -> None:
        """
        Have a function called, with the reason, if the client leaves before the request is finished. It
        is the only one; ``notifyFinish``, which is for any number, makes a Deferred for each request.
        """
        self._told_if_left = told

    def finish(self) -> None:
        super().finish()
        self.let_go()

    def let_go(self) -> None:
        """The request is finished: give up what is about its client and its content."""
        self._told_if_left = None
        if self._content_stream is not None:
            self._content_stream.give_up()

    def connectionLost(self, reason: Failure) -> None:
        if self._content_stream is None:
            # First: whoever is told now, and asks for the content, learns why there is none.
            self._content_stream = ContentStream()
            self._content_stream.failed(reason)
        super().connectionLost(reason)
        told, self._told_if_left = self._told_if_left, None
        if told is not None:
            told(reason)
        found, self._found = self._found, None
        if found is not None and isinstance(found.resource, DeferredResource):
            # Nobody renders it any more.
            found.resource.d.addErrback(lambda _: None)
        self._content_stream.failed(reason)


def _without(lines: Sequence[bytes], dropped: Collection[bytes]) -> list[bytes]:
    """The lines of a Connection field, as one, without some options; none if none is left."""
    kept = options_without(lines, {name.decode("latin-1") for name in dropped})
    return [", ".join(kept).encode("latin-1")] if kept else []


def _resolved(resource: IResource, request: Request) -> IResource:
    """
    What a ``DeferredResource`` stands for (``twisted.web.guard`` has one for each login), if that is
    known already.
    """
    while isinstance(resource, DeferredResource) and resource.d.called:
        result = getattr(resource.d, "result", None)
        if not IResource.providedBy(result):
            break
        resource = getChildForRequest(result, request)
    return resource
