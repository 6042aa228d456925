"""Resources that take contents while they come, consumers, and what their clients send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.harness import Waiters, WatchedSite, site_of
from upgrade_switch.interfaces import IStreamsContent
from upgrade_switch.testing import Recording, Wire
from upgrade_switch.testing.wire import Cut

HOST = b"Host: localhost\r\n"

PAGE = b"GET /page HTTP/1.1\r\n" + HOST + b"\r\n"


def put(body: bytes, fields: bytes = b"", version: bytes = b"1.1", path: bytes = b"/u") -> bytes:
    """A request with a content of known length."""
    line = b"PUT " + path + b" HTTP/" + version + b"\r\n" + HOST
    return line + b"Content-Length: %d\r\n" % len(body) + fields + b"\r\n" + body


def chunked(*chunks: bytes, fields: bytes = b"", trailers: bytes = b"") -> bytes:
    """A request with a content in chunks."""
    line = b"PUT /u HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n" + fields + b"\r\n"
    return line + b"".join(map(chunk, chunks)) + b"0\r\n" + trailers + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


#: A content in which every byte stands, and that looks like HTTP.
BODY = bytes(range(256)) + b"\r\n\r\n" + PAGE

#: A request with that content in chunks.
CHUNKED = chunked(BODY[:1], BODY[1:200], BODY[200:], trailers=b"X-Sum: 1\r\n")

#: With each framing, a request with it.
EITHER = (put(BODY), CHUNKED)


@implementer(IConsumer)
class Taking:
    """
    A consumer that remembers what it gets.

    :ivar data: that.
    :ivar producer: what is registered; None before and after.
    :ivar ended: how often a producer has been unregistered.
    """

    def __init__(self, on_write: Callable[[Taking], object] = lambda taking: None) -> None:
        """
        :param on_write: called behind each write.
        """
        self.data = b""
        self.size = 0
        self.keeps = True
        self.ended = 0
        self.producer: Any = None
        self.waiters = Waiters()
        self._on_write = on_write

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert IPushProducer.providedBy(producer)
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self.ended += 1
        self.waiters.look()

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data
        self.size += len(data)
        if self.keeps:
            self.data += data
        self._on_write(self)
        self.waiters.look()


@implementer(IStreamsContent)
class Uploads(Resource):
    """
    Takes contents, and answers how long they were.

    :ivar requests: all requests; ``taken``, what has taken their contents.
    :ivar failures: those of their contents.
    """

    isLeaf = True

    def __init__(self, on_write: Callable[[Taking], object] = lambda taking: None) -> None:
        super().__init__()
        self.requests: list[Any] = []
        self.taken: list[Taking] = []
        self.failures: list[Failure] = []
        self.waiters = Waiters()
        self._on_write = on_write

    def render(self, request: Any) -> int:
        assert request.content.read() == b""
        self.requests.append(request)
        self.begin(request)
        self.waiters.look()
        return NOT_DONE_YET

    def begin(self, request: Any) -> None:
        self.take(request)

    def take(self, request: Any) -> Deferred[None]:
        """Take the content, and answer behind it."""
        self.taken.append(Taking(self._on_write))
        read: Deferred[None] = request.stream_content(self.taken[-1])
        return read.addCallbacks(lambda _: self.answer(request), self.fail)

    def answer(self, request: Any, code: int = 200) -> None:
        body = request.method + b" %d" % self.taken[-1].size if self.taken else b"none"
        request.setResponseCode(code)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.waiters.look()


class Later(Uploads):
    """Renders, and does nothing more."""

    def begin(self, request: Any) -> None:
        pass


class Joined(Recording):
    """A client of raw bytes in memory, whose segments arrive as they are cut."""

    def __init__(self, site: Any, cut: Cut = None, seed: int | None = None) -> None:
        super().__init__()
        self.wire = Wire(cut, seed, site.reactor)
        self.wire.join(self, site.buildProtocol(self.wire.client.getHost()))
        self.wire.pump()

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the connection, or seen its end."""
        return self.wire.server.disconnected

    def send(self, data: bytes) -> Joined:
        self.wire.client.write(data)
        self.wire.pump()
        return self

    @property
    def statuses(self) -> list[int]:
        """The status codes of all that has been answered, in their order."""
        return [int(part[:3]) for part in self.received.split(b"HTTP/1.1 ")[1:]]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the answers, which have no blank lines."""
        parts = self.received.split(b"\r\n\r\n")[1:]
        return [part.partition(b"HTTP/1.1 ")[0] for part in parts]


def uploading(resource: Resource | None = None, **kwargs: Any) -> tuple[WatchedSite, Any]:
    """A site with such a resource at ``/u``, and the resource."""
    from twisted.internet.task import Clock

    resource = Uploads() if resource is None else resource
    kwargs.setdefault("reactor", Clock())
    return site_of(resource, **kwargs), resource


def pausing(clock: Any) -> Callable[[Taking], None]:
    """For ``on_write``: pauses behind each write, and goes on in the clock's next turn."""

    def pause(taking: Taking) -> None:
        taking.producer.pauseProducing()
        clock.callLater(0, resume, taking)

    def resume(taking: Taking) -> None:
        if taking.producer is not None:
            taking.producer.resumeProducing()

    return pause
