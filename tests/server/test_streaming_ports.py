"""Resources that take the content of a request while it comes: on real ports, and around them."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.task import Clock
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Site
from twisted.web.util import DeferredResource
from zope.interface import implementer

from tests.kit.h2client import client_by
from tests.kit.harness import (
    KINDS,
    SOCKETS,
    EchoTarget,
    Flood,
    Page,
    Recorder,
    eventually,
    factory_of,
    field,
    no_collector,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.streamed import HOST, PAGE, Joined, Later, Taking, Uploads, chunked, pausing, put
from upgrade_switch import UpgradeRequest, UpgradeResource, UpgradeSite
from upgrade_switch.proxy import UpgradeProxy

every_kind = pytest.mark.parametrize("kind", KINDS)
every_socket = pytest.mark.parametrize("kind", SOCKETS)

GET = PAGE.replace(b"/page", b"/u")

SIZE = 64 * 2**20


@every_socket
@pytest_twisted.ensureDeferred
async def test_bounded_memory(listen: Any, kind: str) -> None:
    """However much a client sends, no more than a few segments wait for a consumer that pauses."""
    pause, most = pausing(reactor), 0

    def on_write(taking: Taking) -> None:
        nonlocal most
        taking.keeps = False
        most = max(most, listening.site.received - taking.size)
        pause(taking)

    resource = Uploads(on_write)
    listening = await listen(kind, site_of(resource))
    client = await listening.connect()
    client.send(b"PUT /u HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % SIZE)
    flood = Flood(client.transport)
    await resource.waiters.until(lambda: bool(resource.taken))
    (taken,) = resource.taken
    await taken.waiters.until(lambda: taken.size > SIZE // 2)
    await taken.waiters.until(lambda: flood.sent >= SIZE)
    client.transport.unregisterProducer()
    client.transport.loseConnection()
    await taken.waiters.until(lambda: bool(taken.ended))
    assert taken.size == SIZE
    assert most < 2**18


@every_socket
@pytest_twisted.ensureDeferred
async def test_not_read_before_it_is_wanted(listen: Any, kind: str) -> None:
    """As long as nobody wants the content, the client's sending stops; then all of it comes."""
    resource = Later()
    listening = await listen(kind, site_of(resource))
    client = await listening.connect()
    client.send(b"PUT /u HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % SIZE)
    flood = Flood(client.transport)
    await resource.waiters.until(lambda: bool(resource.requests))
    before = -1
    while before != listening.site.received:
        before = listening.site.received
        await turns(20)
    assert before < 2**18
    assert flood.sent < SIZE
    resource.take(resource.requests[0])
    (taken,) = resource.taken
    taken.keeps = False
    await taken.waiters.until(lambda: taken.size > before + 2**20)
    client.transport.unregisterProducer()
    client.transport.abortConnection()
    await resource.waiters.until(lambda: bool(resource.failures))


@every_kind
@pytest_twisted.ensureDeferred
async def test_splits(listen: Any, kind: str) -> None:
    """In two segments, cut anywhere, a content and the request behind it are what they were."""
    resource = Uploads()
    listening = await listen(kind, site_of(resource))
    with no_collector():
        for whole in (put(b"\r\n\r\n" + PAGE), chunked(b"\r\n", b"\r\n" + PAGE)):
            for at in range(1, len(whole), 7):
                client = await listening.connect()
                listening.site.received = 0
                client.send(whole[:at])
                await listening.site.has_received(at)
                client.send(whole[at:] + PAGE)
                assert await client.response() is not None
                head, body = await client.response()
                assert (status(head), body, client.data) == (200, b"page GET ", b"")
                assert resource.taken.pop().data == b"\r\n\r\n" + PAGE
                client.transport.loseConnection()
                await client.is_lost()
                resource.requests.clear()
                del client
                await eventually(lambda: not [ref for ref in listening.site.requests if ref()])
                # Twisted's TLS leaves a cycle of its own when it ends.
                if kind != "tls":
                    await eventually(lambda: not [ref for ref in listening.site.channels if ref()])


@every_kind
@pytest_twisted.ensureDeferred
async def test_switch(listen: Any, kind: str) -> None:
    """When the content has been read, the request switches; what follows is the target's."""
    target = EchoTarget()

    class Switching(Uploads):
        def begin(self, request: Any) -> None:
            self.taken.append(Taking())
            read = request.stream_content(self.taken[-1])
            read.addCallback(lambda _: request.switch_to("echo", target))

    resource = Switching()
    listening = await listen(kind, site_of(resource))
    client = await listening.connect()
    head = upgrade_head(method=b"POST", fields=b"Content-Length: 6\r\n")
    client.send(head + b"abc")
    await resource.waiters.until(lambda: bool(resource.taken))
    client.send(b"def" + PAGE)
    assert status(await client.head()) == 101
    await client.receives(PAGE)
    assert (resource.taken[0].data, target.data) == (b"abcdef", PAGE)


@every_socket
@pytest_twisted.ensureDeferred
async def test_client_leaves(listen: Any, kind: str) -> None:
    """A client that resets the connection fails the content, while reading goes on."""
    resource = Uploads()
    listening = await listen(kind, site_of(resource))
    client = await listening.connect()
    client.send(put(bytes(1000))[:-1])
    await resource.waiters.until(lambda: bool(resource.taken))
    client.transport.abortConnection()
    await resource.waiters.until(lambda: bool(resource.failures))
    assert resource.taken[0].ended == 1


@every_socket
@pytest_twisted.ensureDeferred
async def test_silent_client(listen: Any, kind: str) -> None:
    """A client that sends nothing is cut off, over TLS as well."""
    resource, clock = Uploads(), Clock()
    listening = await listen(kind, site_of(resource, reactor=clock, timeout=60))
    client = await listening.connect(Recorder())
    client.send(put(bytes(1000))[:-1])
    await resource.waiters.until(lambda: bool(resource.taken))
    await resource.taken[0].waiters.until(lambda: resource.taken[0].size == 999)
    clock.advance(61)
    await client.is_lost()
    assert resource.failures[0].check(ConnectionAborted, ConnectionLost)


@every_socket
@pytest.mark.parametrize("framing", [b"Content-Length: %d" % SIZE, b"Transfer-Encoding: chunked"])
@pytest_twisted.ensureDeferred
async def test_large_rest(listen: Any, kind: str, framing: bytes) -> None:
    """
    A client that goes on sending gets the answer whole, and then the connection ends. Where one
    direction can be closed alone, the client sees that at once.
    """
    answer, clock = bytes(300_000), Clock()

    class Refusing(Uploads):
        def begin(self, request: Any) -> None:
            request.setResponseCode(413)
            request.setHeader(b"content-length", b"%d" % len(answer))
            request.write(answer)
            request.finish()

    listening = await listen(kind, site_of(Refusing(), reactor=clock, timeout=60))
    client = await listening.connect()
    client.send(b"PUT /u HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n")
    flood = Flood(
        client.transport,
        b"10000\r\n" + bytes(2**16) + b"\r\n" if b"chunked" in framing else bytes(2**16),
    )
    head, body = await client.response()
    assert (status(head), body) == (413, answer)
    if b"chunked" not in framing:
        assert field(head, b"connection") == b"close"
    if kind in ("tcp", "unix"):
        await client.until(lambda: "read lost" in client.events)
    assert flood.sent < SIZE // 2
    client.transport.unregisterProducer()
    for _ in range(30):
        await turns()
        clock.advance(1)
    # A reset behind an end is not seen until something is written.
    client.send(b"x")
    await client.is_lost()


@every_socket
@pytest_twisted.ensureDeferred
async def test_answer_that_is_read_slowly(listen: Any, kind: str) -> None:
    """An answer that goes on arriving is not cut off, however long the rest of the content waits."""
    answer, clock = bytes(8 * 2**20), Clock()

    class Refusing(Uploads):
        def begin(self, request: Any) -> None:
            request.setResponseCode(413)
            request.setHeader(b"content-length", b"%d" % len(answer))
            request.write(answer)
            request.finish()

    listening = await listen(kind, site_of(Refusing(), reactor=clock, timeout=60))
    client = await listening.connect()
    client.send(b"PUT /u HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + bytes(1000))
    step = 2**20
    for size in range(step, len(answer), step):
        await client.until(lambda size=size: client.amount >= size)
        client.transport.pauseProducing()
        clock.advance(5)
        await turns()
        client.transport.resumeProducing()
    _, body = await client.response()
    assert body == answer


@every_socket
@pytest_twisted.ensureDeferred
async def test_full_duplex(listen: Any, kind: str) -> None:
    """A client that does not read its answer goes on being read: the two directions are apart."""

    class Both(Uploads):
        def begin(self, request: Any) -> None:
            request.write(bytes(8 * 2**20))
            self.take(request)

        def answer(self, request: Any, code: int = 200) -> None:
            request.finish()

    resource = Both()
    listening = await listen(kind, site_of(resource))
    client = await listening.connect()
    client.send(put(bytes(4 * 2**20)))
    await resource.waiters.until(lambda: bool(resource.taken))
    client.transport.pauseProducing()
    await resource.taken[0].waiters.until(lambda: bool(resource.taken[0].ended))
    client.transport.resumeProducing()
    await client.receives(b"0\r\n\r\n")
    assert len(client.data) > 8 * 2**20


# What may stand around a resource.


@implementer(IRealm)
class Realm:
    def __init__(self, avatar: IResource) -> None:
        self._avatar = avatar

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: object) -> Any:
        return IResource, self._avatar, lambda: None


def guarded(resource: IResource) -> IResource:
    checker = InMemoryUsernamePasswordDatabaseDontUse()
    checker.addUser(b"a", b"b")
    root = Resource()
    root.putChild(b"u", resource)
    return HTTPAuthSessionWrapper(Portal(Realm(root), [checker]), [BasicCredentialFactory("r")])


LOGIN = b"Authorization: Basic " + b64encode(b"a:b") + b"\r\n"


def test_behind_a_guard() -> None:
    """A login that is decided at once stands in nobody's way; without one, it is 401 as ever."""
    resource = Uploads()
    site: Any = UpgradeSite(guarded(resource), reactor=Clock())
    client = Joined(site).send(put(b"abc", LOGIN)[:-1])
    assert resource.taken[0].data == b"ab"
    client.send(b"c" + put(b"abc"))
    assert client.statuses == [200, 401]


def test_behind_a_guard_without_streaming() -> None:
    """Any other resource behind a guard gets the whole content."""
    site: Any = UpgradeSite(guarded(Page()), reactor=Clock())
    client = Joined(site).send(put(b"abc", LOGIN)[:-1])
    assert client.received == b""
    client.send(b"c")
    assert client.bodies == [b"page PUT abc"]


def test_deferred_resource() -> None:
    """A resource that is not known at the head gets the whole content, and can still stream it."""
    waiting: Deferred[Any] = Deferred()

    class Spooled(Uploads):
        def render(self, request: Any) -> int:
            self.take(request)
            return NOT_DONE_YET

    resource = Spooled()
    client = Joined(site_of(DeferredResource(waiting), reactor=Clock())).send(put(b"abc")[:-1])
    waiting.callback(resource)
    assert resource.taken == []
    client.send(b"c" + PAGE)
    assert resource.taken[0].data == b"abc"
    assert client.statuses == [200, 200]


def test_deferred_resource_that_nobody_renders(errors: list[Any]) -> None:
    """If the client leaves, the failure of a resource that is not known yet is nobody's."""
    waiting: Deferred[Any] = Deferred()
    client = Joined(site_of(DeferredResource(waiting), reactor=Clock())).send(put(b"abc")[:-1])
    client.wire.client.abortConnection()
    client.wire.pump()
    waiting.errback(ZeroDivisionError())
    del waiting, client
    assert errors == []


@pytest.mark.parametrize("request_", [GET, put(b"abc"), upgrade_head(path=b"/u")])
def test_deferred_resource_that_comes_late(request_: bytes, errors: list[Any]) -> None:
    """If the client has left before its resource is known, that is not asked, and nothing is logged."""
    for resource in (
        Uploads(),
        Page(),
        UpgradeResource({"echo": factory_of(EchoTarget)[0]}),
        UpgradeProxy("http://127.0.0.1:1", Clock()),
    ):
        waiting: Deferred[Any] = Deferred()
        client = Joined(site_of(DeferredResource(waiting), reactor=Clock())).send(request_)
        client.wire.client.abortConnection()
        client.wire.pump()
        waiting.callback(resource)
        del waiting, client
        assert errors == []


def test_encoded() -> None:
    """An encoding of the response is what it was: a wrapper gets the whole content."""
    wrapped = EncodingResourceWrapper(Page(), [GzipEncoderFactory()])
    root = Resource()
    root.putChild(b"u", wrapped)
    site: Any = UpgradeSite(root, reactor=Clock())
    client = Joined(site).send(put(b"abc", b"Accept-Encoding: gzip\r\n"))
    assert b"Content-Encoding: gzip\r\n" in client.received


def test_site_of_others() -> None:
    """A request is not looked at early if its connection does not belong to an UpgradeSite."""

    class Spooled(Uploads):
        def render(self, request: Any) -> int:
            self.take(request)
            return NOT_DONE_YET

    root = Resource()
    resource = Spooled()
    root.putChild(b"u", resource)
    site: Any = Site(root, requestFactory=UpgradeRequest, reactor=Clock())
    client = Joined(site).send(put(b"abc"))
    assert client.statuses == [200]
    assert resource.taken[0].data == b"abc"


def test_upgrade_of_the_site() -> None:
    """An upgrade of the site's own takes the whole content first, wherever the request goes."""

    def accept(request: Any, token: Any) -> Any:
        return target

    target = EchoTarget()
    resource = Uploads()
    site = site_of(resource, upgrades={"echo": accept}, reactor=Clock())
    fields = b"Content-Length: 3\r\nExpect: 100-continue\r\n"
    client = Joined(site).send(upgrade_head(method=b"POST", fields=fields))
    assert client.statuses == [100]
    client.send(b"abc" + PAGE)
    assert client.statuses[:2] == [100, 101]
    assert (target.data, resource.taken) == (PAGE, [])


@pytest_twisted.ensureDeferred
async def test_over_http2(listen: Any) -> None:
    """Over HTTP/2 the whole content comes first, and is streamed from where it was collected."""

    class Spooled(Uploads):
        def render(self, request: Any) -> int:
            assert not request.expects_continue
            request.send_informational(103)
            self.requests.append(request)
            self.take(request)
            return NOT_DONE_YET

    resource = Spooled()
    client = await client_by("alpn", await listen("tls", site_of(resource)))
    body = bytes(16_000)
    code, _, answer = await client.ask(b"/u", b"PUT", body)
    assert (code, answer) == (200, b"PUT 16000")
    assert resource.taken[0].data == body
