"""
UpgradeRequest.take_over: a 2xx without an upgrade, behind whose head the connection is the target's.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import ByHand, echoes_after, fields_of
from tests.kit.harness import (
    EVERY_KIND,
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    field,
    no_collector,
    site_of,
    status,
    upgrade_head,
)
from tests.kit.streamed import Taking
from upgrade_switch import SwitchedConnection, UpgradeSite
from upgrade_switch.errors import (
    ContentUnread,
)
from upgrade_switch.interfaces import IStreamsContent
from upgrade_switch.observe import Status, SwitchLog
from upgrade_switch.testing import Recording, talk_to

# Looks like HTTP, so that a channel that goes on parsing is caught.
TRAILING = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n\x00\xff\r\n\r\n"

POST = b"POST /u HTTP/1.1\r\nHost: localhost\r\n"

REQUESTS = {
    "page": b"GET /u HTTP/1.1\r\nHost: localhost\r\n\r\n",
    # What Docker's client before 1.12 sends.
    "length": POST + b"Content-Type: application/json\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": POST
    + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\n",
    "close": POST + b"Connection: close\r\nContent-Length: 11\r\n\r\nhello world",
    "1.0": b"POST /u HTTP/1.0\r\nContent-Length: 11\r\n\r\nhello world",
    "1.0 keep-alive": b"GET /u HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    # An offer that nobody takes does not matter.
    "upgrade": upgrade_head(),
}


class TakingOver(Resource):
    """Takes each request over, at once or later, and remembers contents and targets."""

    isLeaf = True

    def __init__(self, later: bool = False) -> None:
        super().__init__()
        self.contents: list[bytes] = []
        self.targets: list[EchoTarget] = []
        self._later = later

    def render(self, request: Any) -> int:
        self.contents.append(request.content.read())
        target = EchoTarget()
        target.waiters = request.site.waiters
        self.targets.append(target)
        if self._later:
            request.site.reactor.callLater(0, request.take_over, target)
        else:
            request.take_over(target)
        return NOT_DONE_YET


@implementer(IStreamsContent)
class Streaming(TakingOver):
    """The same, when the content has been read."""

    def render(self, request: Any) -> int:
        with pytest.raises(ContentUnread):
            request.take_over(EchoTarget())
        taking = Taking()
        done: Deferred[None] = request.stream_content(taking)
        done.addCallback(lambda _: self._taken(request, taking))
        return NOT_DONE_YET

    def _taken(self, request: Any, taking: Taking) -> None:
        super().render(request)
        self.contents[-1] = taking.data


@pytest.mark.parametrize(
    ("kind", "request_"),
    [*((kind, "length") for kind in EVERY_KIND), *(("memory", request) for request in REQUESTS)],
)
@pytest.mark.parametrize("later", [False, True])
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str, request_: str, later: bool) -> None:
    """
    The target gets every byte behind the request, its content none, wherever they are split; the answer
    is a 200 without a length that closes; and nothing of HTTP's is left.
    """
    resource = TakingOver(later)
    listening = await listen(kind, site_of(resource))
    await every_split(listening, resource, REQUESTS[request_])


@pytest.mark.parametrize("request_", ["length", "chunked", "1.0"])
@pytest_twisted.ensureDeferred
async def test_every_split_of_streamed_content(listen: Any, request_: str) -> None:
    """A resource that takes the content while it comes takes over behind it, not before."""
    resource = Streaming()
    listening = await listen("memory", site_of(resource))
    await every_split(listening, resource, REQUESTS[request_])


async def every_split(listening: Any, resource: TakingOver, request: bytes) -> None:
    site = listening.site
    whole = request + TRAILING
    with no_collector():
        for at in range(1, len(whole)):
            client = await listening.connect()
            site.received = 0
            client.send(whole[:at])
            if at <= len(request):
                await site.has_received(at)
            client.send(whole[at:])
            answer = await client.head()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert fields_of(answer) == {b"Connection": [b"close"]}
            await client.receives(TRAILING)
            (target,) = resource.targets
            (connection,) = site.switched
            assert (connection.token, connection.path, connection.target) == (None, b"/u", target)
            assert client.data == target.data == TRAILING
            assert resource.contents.pop() == (b"hello world" if b"POST" in request else b"")
            assert site.lines == [(200, b"/u")]
            assert [ref() for ref in site.channels if ref() is not None] == []
            assert [ref() for ref in site.requests if ref() is not None] == []
            client.transport.loseConnection()
            await target.is_lost()
            assert not site.switched
            resource.targets.clear()
            site.lines.clear()


@pytest_twisted.ensureDeferred
async def test_content_after_100(serve: Any) -> None:
    """A client that waits for its 100 gets it, then its content is read, and then comes the switch."""
    resource = TakingOver()
    client = await serve(resource)
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
    assert status(await client.head()) == 100
    client.send(b"hello world" + TRAILING)
    assert status(await client.head()) == 200
    assert resource.contents == [b"hello world"]
    await echoes_after(client, TRAILING)


@pytest_twisted.ensureDeferred
async def test_requests_in_front(serve: Any) -> None:
    """Requests in front are answered first."""
    client = await serve(TakingOver())
    page = b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    client.send(page + REQUESTS["length"] + TRAILING)
    assert (await client.response())[1] == b"page POST abc"
    assert status(await client.head()) == 200
    await echoes_after(client, TRAILING)


@pytest_twisted.ensureDeferred
async def test_half_close(listen: Any) -> None:
    """A client that ends its direction still gets what the target has to say."""
    target = HalfCloseRecorder()
    listening = await listen("tcp", site_of(ByHand(lambda r: r.take_over(target) and NOT_DONE_YET)))
    client = await listening.connect(Recorder())
    client.send(REQUESTS["length"] + b"all")
    await client.head()
    client.transport.loseWriteConnection()
    await target.until(lambda: "read lost" in target.events)
    target.send(b"the answer")
    target.transport.loseConnection()
    await client.is_lost()
    assert (client.data, target.data) == (b"the answer", b"all")


@pytest.mark.parametrize("cut", [None, 1, 7])
def test_in_memory(cut: int | None) -> None:
    """The testing kit's client takes it for a switch, and other answers for what they are."""

    def render(request: Any) -> Any:
        if request.method == b"GET":
            return b"page"
        target = Recording()
        request.take_over(target, 201)
        target.transport.write(b"hello")
        return NOT_DONE_YET

    client = talk_to(ByHand(render), cut)
    assert client.request().body == b"page"
    answer = client.request("POST", "/", body=b"content", trailing=b"abc")
    assert (answer.status, answer.headers["connection"], answer.body) == (201, "close", b"")
    client.send(b"def")
    assert (client.received, client.target.received) == (b"hello", b"abcdef")
    other = talk_to(ByHand(lambda request: b""))
    assert (other.request("HEAD").status, other.request("HEAD").status) == (200, 200)


# The head.


def head_of(render: Any) -> bytes:
    """The head that is answered when a request is rendered so."""
    client = talk_to(ByHand(lambda request: render(request) and NOT_DONE_YET))
    client.send(REQUESTS["page"])
    return client.received.partition(b"\r\n\r\n")[0]


def test_fields() -> None:
    """What has been set goes out with the head, but for what frames a content."""

    def render(request: Any) -> Any:
        request.setHeader(b"content-type", b"application/vnd.docker.raw-stream")
        request.setHeader(b"upgrade", b"tcp")
        request.setHeader(b"x-exit", b"a\r\nb")
        request.setHeader(b"content-length", b"5")
        request.setHeader(b"transfer-encoding", b"chunked")
        request.addCookie(b"a", b"b")
        return request.take_over(Recording(), 201, b"UPGR\r\nADED\0")

    head = head_of(render)
    assert head.startswith(b"HTTP/1.1 201 UPGR  ADED \r\n")
    assert fields_of(head) == {
        b"Content-Type": [b"application/vnd.docker.raw-stream"],
        b"Upgrade": [b"tcp"],
        b"X-Exit": [b"a b"],
        b"Set-Cookie": [b"a=b"],
        b"Connection": [b"close"],
    }


@pytest.mark.parametrize("lines", [[b"Upgrade"], [b"keep-alive", b"x"], []])
def test_connection_that_is_set(lines: list[bytes]) -> None:
    """A Connection that the resource has set replaces ``close``, even if it is empty."""

    def render(request: Any) -> Any:
        request.responseHeaders.setRawHeaders(b"connection", lines)
        return request.take_over(Recording())

    assert fields_of(head_of(render)).get(b"Connection", []) == lines


@pytest.mark.parametrize("code", [200, 201, 202, 203, 206, 207, 226, 299])
def test_codes(code: int) -> None:
    """A switch may have any 2xx that has a content."""
    head = head_of(lambda request: request.take_over(Recording(), code))
    assert head.startswith(b"HTTP/1.1 %d OK\r\n" % code)


# Who hears of it.


def test_seen() -> None:
    """The log and the status page name the path, and no token."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event["log_namespace"] == "upgrade_switch.observe.log.SwitchLog":
            assert event["token"] is None
            lines.append(formatEvent(event).partition(" ")[2])

    clock = Clock()
    status_ = Status(clock)
    targets: list[IProtocol] = []

    def render(request: Any) -> int:
        targets.append(Recording())
        connection = request.take_over(targets[0])
        assert isinstance(connection, SwitchedConnection)
        return NOT_DONE_YET

    site = UpgradeSite(ByHand(render), observers=[SwitchLog(), status_], reactor=clock)
    client = talk_to(site)
    globalLogPublisher.addObserver(observe)
    try:
        client.send(REQUESTS["length"])
        (shown,) = status_.as_json()["switched"]
        client.abort()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert (shown["token"], shown["path"], shown["target"]) == (None, "/u", "Recording")
    assert lines == [
        "switched without an upgrade at /u: Recording",
        "ended Recording at /u after 0.0 s: reset",
    ]
    assert status_.switches == {"": 1}
    assert status_.ends == {("", "reset"): 1}


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "proxy"])
@pytest_twisted.ensureDeferred
async def test_kill_in_the_middle(listen: Any, errors: Any, kind: str) -> None:
    """A client that resets right behind its request ends its target, whatever that is doing."""

    class Raising(EchoTarget):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            raise ZeroDivisionError

    resource = ByHand()
    listening = await listen(kind, site_of(resource))
    with no_collector():
        for _ in range(10):
            client = await listening.connect(Recorder())
            before = listening.site.received
            client.send(REQUESTS["length"])
            await listening.site.has_received(before + len(REQUESTS["length"]))
            target = EchoTarget()
            resource.request.take_over(target)
            client.transport.abortConnection()
            await target.is_lost()
            assert target.events == ["made", "lost"]
            del resource.request
            assert [ref() for ref in listening.site.requests if ref() is not None] == []
            assert [ref() for ref in listening.site.channels if ref() is not None] == []
        client = await listening.connect(Recorder())
        resource._render = lambda request: request.take_over(Raising()) and NOT_DONE_YET
        client.send(REQUESTS["length"] + b"data")
        await client.is_lost()
    assert not listening.site.switched
    assert field(client.data, b"connection") in (b"close", None)
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]
